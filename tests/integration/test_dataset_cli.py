"""`hetspec-core dataset` from the outside: generate, inspect, verify, merge on a tiny base, with children and all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from hetspec_core.cli.console import console, error_console
from hetspec_core.cli.main import main
from hetspec_core.errors import CorruptFileError, DataError, NotFoundError, UsageError
from hetspec_core.paths import roots
from tests.fakes.tiny_base import make_tiny_base


@pytest.fixture(autouse=True)
def fresh_consoles() -> None:
    """The consoles keep the streams they were made with; each test has its own."""
    console.cache_clear()
    error_console.cache_clear()


@pytest.fixture
def recipe(tmp_path: Path, home: Path) -> str:
    """A recipe of the user's own over a tiny base."""
    spec = make_tiny_base(tmp_path / "base")
    table = spec.model_dump(mode="json", exclude_none=True, exclude={"name"})
    folder = roots().user_presets
    for kind, name, content in (
        ("base", "tiny", table),
        (
            "recipe",
            "tiny",
            {
                "base": {"preset": "tiny"},
                "dataset": {"max_length": 512},
                "training": {"max_length": 512},
                "resources": {"device": "cpu", "num_threads": 1},
            },
        ),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.toml").write_text(tomli_w.dumps(content))
    return "tiny"


def rows(path: Path, start: int = 0) -> str:
    path.write_text(
        "".join(
            json.dumps(
                {"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": f"A{n}."}]}
            )
            + "\n"
            for n in range(start, start + 6)
        )
    )
    return str(path)


@pytest.mark.slow
def test_generate_inspect_verify_merge(
    tmp_path: Path,
    recipe: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, start in (("one", 0), ("two", 4)):
        rows(tmp_path / f"{name}.jsonl", start)
        words = ["dataset", "generate", recipe, "--source", f"{name}.jsonl", "--name", name, "--range", "0:5"]
        assert main(words) == 0
    assert "5 samples" in capfd.readouterr().out

    assert main(["dataset", "inspect", "one", "--samples", "1"]) == 0
    shown = capfd.readouterr().out
    assert "[[A" in shown and "<|im_end|>]]" in shown and "samples     5 in 1 shard" in shown
    request.getfixturevalue("engine_here")  # one command by a process of its own is enough
    assert main(["dataset", "inspect", "one", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["counts"]["samples"] == 5 and facts["about"]["base"]["name"] == "tiny"

    assert main(["dataset", "verify", "one"]) == 0
    assert "the dataset is good" in capfd.readouterr().out

    assert main(["dataset", "merge", "both", "one", "two"]) == 0
    assert "9 samples" in capfd.readouterr().out
    assert main(["dataset", "verify", "both", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["ok"]

    shard = tmp_path / "both" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 0xFF
    shard.unlink()  # the run's shard shares the file; this one is to be damaged alone
    shard.write_bytes(content)
    assert main(["dataset", "verify", "both"]) == CorruptFileError.exit_code
    assert "shard-00001.safetensors was altered" in capfd.readouterr().out


def test_errors_are_a_sentence_and_a_hint(
    tmp_path: Path, recipe: str, capfd: pytest.CaptureFixture[str], engine_here: None
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "What?"}\n')

    words = ["dataset", "generate", recipe, "--source", str(tmp_path / "prompts.jsonl"), "--answers", "data"]
    assert main(words) == DataError.exit_code
    said = capfd.readouterr().err
    assert "no assistant turn" in said and "--answers base" in said and "Traceback" not in said

    assert main(["dataset", "inspect", "nothing"]) == NotFoundError.exit_code
    assert main(["dataset", "generate", recipe, "--range", "5"]) == UsageError.exit_code
    assert "A:B" in capfd.readouterr().err
    assert main(["dataset", "merge", str(tmp_path), str(tmp_path / "a")]) == NotFoundError.exit_code
