"""What the doctor says of SGLang."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hetspec_core.service.sglang_check import check_sglang
from tests.fakes.sglang_site import make_site


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("", "ok", "not installed"),
        ("0.5.10", "error", "outside 0.5.11 to 0.5.23"),
        ("0.5.17", "warning", "kernels are missing"),
        ("0.5.20", "warning", "live tree need SGLang 0.5.17"),
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


def test_a_named_python_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_SGLANG_PYTHON", "/no/such/python")
    assert check_sglang(has_gpu=False).status == "error"
