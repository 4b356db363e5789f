"""Commands in a home with a run that cannot be read: the others are as usual, and that one is shown and deleted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from hetspec_core.cli.main import main
from hetspec_core.config.resolve import resolve
from hetspec_core.errors import SpecError
from hetspec_core.events import RunEnded
from hetspec_core.paths import Roots
from hetspec_core.service.checks import check_runs
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import DatasetSpec, TrainingSpec
from tests.fakes.run_folders import STARTED, submit_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def odd(home: Path) -> list[str]:
    """Ids of a run whose journal is a pipe, and of a copy whose name is not UTF-8."""
    submit_run(home, "good", STARTED, RunEnded(state="succeeded"))
    spoiled = submit_run(home, "spoiled")
    folder = home / "runs" / spoiled
    (folder / "events.jsonl").unlink(missing_ok=True)
    os.mkfifo(folder / "events.jsonl")
    shutil.copytree(home / "runs" / submit_run(home, "copied"), home / "runs" / os.fsdecode(b"kopie-\xfc"))
    return [spoiled, "kopie-\\xfc"]


@pytest.mark.timeout(60)
def test_unreadable_runs_are_listed_shown_and_deleted_like_any_other(
    home: Path, odd: list[str], capsys: Capture
) -> None:
    assert main(["runs", "list", "--json"]) == 0
    states = {run["run_id"]: (run["state"], run["error"]) for run in json.loads(capsys.readouterr().out)}
    assert {run_id for run_id, (state, _) in states.items() if state == "unreadable"} == set(odd)
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert "unreadable: events.jsonl is a named pipe" in out
    assert "cannot be read: the name of the folder is not UTF-8" in err
    for run_id in odd:
        assert main(["runs", "show", run_id]) == 0
        assert "unreadable" in capsys.readouterr().out
        assert main(["runs", "show", run_id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["error"]["kind"] == "unreadable"
        assert main(["runs", "resume", run_id]) == 9
        assert "cannot be read" in capsys.readouterr().err
        assert main(["runs", "delete", run_id, "--yes"]) == 0
    capsys.readouterr()
    assert main(["runs", "list", "--json"]) == 0
    assert not {run["run_id"] for run in json.loads(capsys.readouterr().out)} & set(odd)
    assert main(["runs", "trash", "--json"]) == 0
    assert {run["run_id"] for run in json.loads(capsys.readouterr().out)} == set(odd)
    for run_id in odd:
        assert main(["runs", "restore", run_id]) == 0
    assert main(["runs", "delete", *odd, "--yes"]) == 0
    assert main(["runs", "trash", "--empty", "--yes"]) == 0
    assert not any((home / "trash").iterdir())


def test_the_doctor_names_the_runs_that_cannot_be_read(home: Path, odd: list[str]) -> None:
    check = check_runs(Roots.below(home))
    assert check.status == "warning" and set(check.facts["unreadable"]) == set(odd)
    assert all(run_id in check.message for run_id in odd)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40])
@pytest.mark.parametrize("key", ["training.max_steps", "training.seed", "dataset.max_length", "resources.priority"])
def test_integers_beyond_64_bits_are_refused_with_their_key(key: str, number: int) -> None:
    for given in ({"overrides": [f"{key}={number}"]}, {"options": {key: number}}):
        with pytest.raises(SpecError) as caught:
            resolve("quick-demo", stage="train", **given)
        assert any(key in problem and "2^63" in problem for problem in caught.value.problems), caught.value.problems


def test_a_spec_made_in_a_program_refuses_integers_beyond_64_bits() -> None:
    with pytest.raises(ValidationError, match="64 bits"):
        TrainingSpec(seed=2**63)
    with pytest.raises(ValidationError, match="64 bits"):
        DatasetSpec(layers=(2**63,))


def test_resuming_can_leave_the_run_to_itself(home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = submit_run(home, "stopped", STARTED, RunEnded(state="cancelled"))
    monkeypatch.setattr(Workbench, "resume", lambda self, run_id: None)
    assert main(["runs", "resume", run_id, "--detach", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    assert main(["runs", "resume", run_id, "--detach"]) == 0
    assert f"follow it: hetspec-core runs follow {run_id}" in capsys.readouterr().err.replace("\n", " ")
