"""Runs that wait for runs: the next one starts by itself, and nothing waits in vain, whoever is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.errors import RunError
from hetspec_core.events import Progress, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec
from tests.fakes.specs import small_spec

PATIENCE_S = 60.0


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench
        for run in bench.runs():
            if run.state in ("queued", "starting", "running"):
                bench.cancel(run.run_id, force=True)
                bench.wait(run.run_id, PATIENCE_S)


def chain(workbench: Workbench, *deeds: str, device: str = "cpu") -> list[str]:
    """Runs of these names, each of which waits for the one before it; all are started."""
    ids: list[str] = []
    for deed in deeds:
        before = tuple(ids[-1:])
        resources = ResourcesSpec.model_validate({"device": device})
        spec = small_spec(deed).model_copy(update={"parents": before, "resources": resources})
        ids.append(workbench.submit(spec, after=before).run_id)
    for run_id in ids:
        workbench.start(run_id)
    return ids


def states(workbench: Workbench, ids: list[str]) -> list[str]:
    return [workbench.state(run_id) for run_id in ids]


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.02)


def works(workbench: Workbench, run_id: str) -> None:
    events = workbench.paths(run_id).events
    until(lambda: any(isinstance(event, Progress) for event in read_events(events)[0]), "progress")


def reason(workbench: Workbench, run_id: str) -> str:
    error = workbench.show(run_id).summary.error
    return f"{error['message']} ({error['hint']})" if error else ""


def test_each_run_starts_when_the_one_before_it_has_succeeded(workbench: Workbench) -> None:
    ids = chain(workbench, "succeed-a", "succeed-b", "succeed-c")
    assert workbench.wait(ids[0], PATIENCE_S) == "succeeded"
    until(lambda: workbench.state(ids[2]) == "succeeded", "the last, which supervisors alone have started")
    workbench.registry.sync_all()
    began = [workbench.registry.row(run_id) for run_id in ids]
    ended = [row.ended for row in began if row]
    started = [row.started for row in began if row]
    assert all(end is not None and start is not None and end <= start for end, start in zip(ended, started[1:]))
    assert workbench.queue.waiting_ids() == frozenset()


def test_a_run_behind_one_that_works_is_queued_and_is_not_started(workbench: Workbench) -> None:
    first, second = chain(workbench, "wait", "succeed")
    works(workbench, first)
    workbench.dispatch()
    assert states(workbench, [first, second]) == ["running", "queued"]
    with pytest.raises(RunError, match="is queued already"):
        workbench.start(second)


def test_a_failure_stops_the_chain_with_a_reason_and_resuming_it_goes_on_with_all(workbench: Workbench) -> None:
    ids = chain(workbench, "succeed", "fail", "succeed-c", "succeed-d")
    for run_id in ids:
        workbench.wait(run_id, PATIENCE_S)
    assert states(workbench, ids) == ["succeeded", "failed", "cancelled", "cancelled"]
    assert f"it waited for run {ids[1]}, which failed" in reason(workbench, ids[2])
    assert f"it waited for run {ids[2]}, which was cancelled" in reason(workbench, ids[3])
    assert f"runs resume {ids[1]}" in reason(workbench, ids[2])
    with pytest.raises(RunError, match=f"waits for run {ids[1]}, which is failed") as caught:
        workbench.resume(ids[2])
    assert f"runs resume {ids[1]}" in caught.value.hint
    workbench.registry.rebuild()
    assert states(workbench, ids) == ["succeeded", "failed", "cancelled", "cancelled"]
    workbench.resume(ids[1])
    until(lambda: states(workbench, ids) == ["succeeded"] * 4, "the rest of the chain")


@pytest.mark.parametrize("seen", [True, False], ids=["seen before the resume", "not seen"])
def test_a_killed_supervisor_stops_the_chain_and_its_resume_continues_it(workbench: Workbench, seen: bool) -> None:
    first, second = chain(workbench, "wait", "succeed-b")
    works(workbench, first)
    process = workbench.look(first)[0].facts.launched_process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: workbench.state(first) == "lost", "the loss")
    if seen:
        assert workbench.wait(second, PATIENCE_S) == "cancelled"
        assert f"it waited for run {first}, which was lost" in reason(workbench, second)
    workbench.resume(first)
    until(lambda: states(workbench, [first, second]) == ["succeeded", "succeeded"], "the chain")


def test_cancelling_a_run_cancels_those_behind_it(workbench: Workbench) -> None:
    ids = chain(workbench, "wait", "succeed", "succeed-c")
    works(workbench, ids[0])
    workbench.cancel(ids[1])
    assert workbench.wait(ids[2], PATIENCE_S) == "cancelled"
    assert states(workbench, ids)[:2] == ["running", "cancelled"]
    workbench.resume(ids[1])
    assert states(workbench, ids) == ["running", "queued", "queued"]
    workbench.cancel(ids[0])
    for run_id in ids:
        assert workbench.wait(run_id, PATIENCE_S) == "cancelled"


def test_a_deleted_run_is_not_waited_for(workbench: Workbench) -> None:
    first, second = chain(workbench, "wait", "succeed")
    works(workbench, first)
    workbench.cancel(first)
    workbench.wait(first, PATIENCE_S)
    workbench.wait(second, PATIENCE_S)
    workbench.paths(first).folder.rename(workbench.roots.data / "elsewhere")
    with pytest.raises(RunError, match="which is deleted"):
        workbench.resume(second)


def test_a_run_that_waits_for_a_run_keeps_no_gpu_from_others(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = chain(workbench, "wait", "succeed", device="auto")
    works(workbench, first)
    other = chain(workbench, "succeed-other", device="auto")[0]
    assert workbench.wait(other, PATIENCE_S) == "succeeded"
    assert workbench.state(second) == "queued"
    workbench.cancel(first, force=True)
    assert workbench.wait(second, PATIENCE_S) == "cancelled"


def test_the_pipeline_command_follows_all_three_runs_and_ends_as_the_one_that_failed(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Workbench.__init__, "__defaults__", (None, LocalExecutor("tests.fakes.worker")))
    words = ["pipeline", "quick-demo", "--set", "resources.device=cpu", "--wait"]
    assert main([*words, "--name", "succeed"]) == 0
    assert [run.state for run in workbench.runs()] == ["succeeded"] * 3
    assert main([*words, "--name", "fail"]) == 5  # a DataError's
    assert "prompts.jsonl has no assistant turn" in capsys.readouterr().err
    bench, train, dataset = workbench.runs(limit=3)
    assert (dataset.state, train.state, bench.state) == ("failed", "cancelled", "cancelled")
    assert main(["runs", "follow", train.run_id]) == 130
    said = capsys.readouterr().err
    assert f"was not started: it waited for run {dataset.run_id}, which failed" in said
    assert f"runs resume {dataset.run_id}" in said
