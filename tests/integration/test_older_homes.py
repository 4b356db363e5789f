"""Homes of earlier versions are read, gone on with and measured by this one.

`tests/data/homes.tar.xz` holds a home for each of two commits, as its own command line left it (registry, presets, a
dataset, a finished and a cancelled training, a bench), and the tiny base that both used, as a hub cache.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from hetspec_core.cli.main import main
from hetspec_core.paths import RunPaths
from tests.conftest import REPOSITORY
from tests.fakes.real_runs import work_here
from tests.fakes.tiny_training import series

HOMES = REPOSITORY / "tests/data/homes.tar.xz"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=["f26b03c", "49966ac"])
def older(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_here: None) -> Path:
    """The home of an earlier version, moved here: the absolute paths in its specs follow."""
    with tarfile.open(HOMES) as archive:
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / request.param
    for spec in home.glob("runs/*/spec.toml"):
        text = spec.read_text().replace(f"/tmp/older-{request.param}/home", str(home))
        spec.chmod(0o644)
        spec.write_text(text)
    monkeypatch.setenv("HETSPEC_HOME", str(home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return home


def say(capsys: Capture, *words: str) -> str:
    """What a command prints; it must succeed."""
    status = main(list(words))
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def test_runs_of_an_earlier_version_are_listed_shown_and_compared(older: Path, capsys: Capture) -> None:
    listed = {run["name"]: run for run in json.loads(say(capsys, "runs", "list", "--json"))}
    assert {name: run["state"] for name, run in listed.items()} == {
        "measured": "succeeded",
        "cut": "cancelled",
        "whole": "succeeded",
        "states": "succeeded",
    }
    assert listed["whole"]["starred"] and listed["whole"]["tags"] == ["keep"]
    assert "made by an older version" in say(capsys, "runs", "show", "whole")
    for name in listed:
        assert listed[name]["run_id"] in say(capsys, "runs", "show", name)
    assert "eval/accept_length" in say(capsys, "runs", "compare", "whole", "cut")
    assert "training.max_steps" in say(capsys, "runs", "diff", "whole", "cut")
    assert listed["states"]["run_id"] in say(capsys, "runs", "lineage", "measured")
    report = json.loads(say(capsys, "report", "measured", "--json"))
    assert "2/2/4" in json.dumps(report)
    (older / "registry.db").unlink()
    again = {run["name"]: run for run in json.loads(say(capsys, "runs", "list", "--json"))}
    kept = ("run_id", "state", "starred", "tags", "note")
    assert {name: [run.get(key) for key in kept] for name, run in again.items()} == {
        name: [run.get(key) for key in kept] for name, run in listed.items()
    }, "a registry that is made anew from the folders says the same"


def test_a_dataset_and_a_draft_of_an_earlier_version_are_read(older: Path, capsys: Capture) -> None:
    states = json.loads(say(capsys, "dataset", "inspect", "states", "--samples", "1", "--json"))
    assert "The answer is" in json.dumps(states)
    assert "vocabulary" in say(capsys, "draft", "inspect", "whole")
    assert "nothing is wrong with it" in say(
        capsys, "draft", "doctor", "whole", "--base", "tiny", "--dataset", "states"
    )


def test_a_cancelled_training_of_an_earlier_version_goes_on_to_its_end(older: Path) -> None:
    (folder,) = {path.parent for path in older.glob("runs/*-train-*/spec.toml") if 'name = "cut"' in path.read_text()}
    paths = RunPaths(folder)
    AcceleratorState._reset_state(True)  # a training of another precision may have run in this process
    work_here(paths)
    AcceleratorState._reset_state(True)
    steps = [step for step, name in series(paths) if name == "eval/loss"]
    assert max(steps) == 40
    assert (paths.draft / "model.safetensors").is_file()
