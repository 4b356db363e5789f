"""What the doctor says of SGLang."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hetspec_core.service.doctor import check_sglang
from hetspec_core.sglang.versions import differences
from tests.fakes.sglang_site import bare_python, make_site


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("", "ok", "not installed"),
        ("0.5.10", "error", "outside 0.5.11 to 0.5.23"),
        ("0.5.17", "warning", "kernels are missing"),
        ("0.5.20", "warning", "fit its source, and were run in SGLang 0.5.17 only"),
    ],
)
def test_an_installed_sglang_is_held_against_what_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, status: str, words: str
) -> None:
    monkeypatch.setenv("HETSPEC_SGLANG_PYTHON", sys.executable)
    if version:
        monkeypatch.setenv("PYTHONPATH", str(make_site(tmp_path / "site", version)))
    check = check_sglang(has_gpu=True)
    assert check.status == status and words in check.message


def test_an_environment_of_its_own_knows_nothing_of_hetspec_and_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETSPEC_SGLANG_PYTHON", str(bare_python(tmp_path / "own")))
    monkeypatch.setenv("PYTHONPATH", str(make_site(tmp_path / "site", "0.5.20", without=("RotaryEmbedding",))))
    monkeypatch.chdir(tmp_path)  # `python -c` finds what lies in the present folder
    said = check_sglang(has_gpu=True).message
    assert "not for float32: srt/layers/rotary_embedding/base.py has no RotaryEmbedding.forward_cuda" in said
    assert "cannot be looked at" not in said


def test_a_named_python_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_SGLANG_PYTHON", "/no/such/python")
    assert check_sglang(has_gpu=False).status == "error"


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (
            "organize_draft_results",
            "not for the live tree: srt/speculative/eagle_utils.py has no organize",
        ),
        ("Qwen3Attention", "not for drafts served by HetSpec's classes: srt/models/qwen3.py has no Qwen3Attention"),
    ],
)
def test_a_source_that_differs_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str, words: str
) -> None:
    monkeypatch.setenv("HETSPEC_SGLANG_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(make_site(tmp_path / "site", "0.5.22", without=(without,))))
    check = check_sglang(has_gpu=True)
    assert check.status == "warning" and words in check.message


def test_parameters_are_looked_for_by_name_and_order(tmp_path: Path) -> None:
    package = make_site(tmp_path / "site") / "sglang"
    assert [differences(package, part) for part in ("classes", "plugin")] == [[], []]
    file = package / "srt/speculative/eagle_utils.py"
    whole = file.read_text()
    file.write_text(whole.replace("verify_input, batch", "batch, verify_input"))
    assert differences(package, "plugin") == [
        "eagle_sample of srt/speculative/eagle_utils.py takes its parameters in another order"
    ]
    file.write_text(whole.replace("logits_output", "logits"))
    assert "does not take logits_output" in differences(package, "plugin")[0]
    file.write_text("def (")
    assert "cannot be read (SyntaxError)" in differences(package, "plugin")[0]
