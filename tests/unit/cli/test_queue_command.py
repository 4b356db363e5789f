"""`gpus`, `runs queue` and `runs move` as a user meets them, and what a detached start says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.cli.follow import is_detached, launch_detached
from hetspec_core.cli.main import main
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec, RunSpec
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench


def spec(name: str, priority: int = 0) -> RunSpec:
    return small_spec(name).model_copy(update={"resources": ResourcesSpec(priority=priority)})


def test_waiting_runs_are_listed_moved_and_started(workbench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    holder = launch_detached(workbench, spec("wait"))
    said = capsys.readouterr().err
    assert "is at work" in said and f"hetspec-core runs follow {holder}" in said
    first, second = (launch_detached(workbench, spec(name)) for name in ("succeed-a", "succeed-b"))
    assert "waiting for GPUs" in capsys.readouterr().err

    def answer(*words: str) -> object:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert [entry["run_id"] for entry in answer("runs", "queue")] == [first, second]  # type: ignore[union-attr]
    moved = answer("runs", "move", "succeed-b", "--before", "succeed-a")
    assert [entry["run_id"] for entry in moved] == [second, first]  # type: ignore[union-attr]
    moved = answer("runs", "move", "succeed-a", "--priority", "5")
    assert [entry["run_id"] for entry in moved] == [first, second]  # type: ignore[union-attr]
    gpus = answer("gpus")["gpus"]  # type: ignore[index, call-overload]
    assert [(gpu["state"], gpu["run_id"]) for gpu in gpus] == [("leased", holder)]
    assert main(["runs", "move", "succeed-a"]) == 2
    assert main(["runs", "queue"]) == 0 and main(["gpus"]) == 0
    assert first in capsys.readouterr().out
    workbench.cancel(holder)
    assert [workbench.wait(run, 60) for run in (first, second)] == ["succeeded", "succeeded"]
    assert main(["runs", "queue"]) == 0
    assert "no run waits" in capsys.readouterr().err


def test_a_run_is_left_to_itself_when_that_was_asked_for_and_followed_in_a_pipe() -> None:
    assert is_detached(True, json=False) and is_detached(True, json=True)
    assert not is_detached(None, json=False) and not is_detached(None, json=True) and not is_detached(False, json=False)
