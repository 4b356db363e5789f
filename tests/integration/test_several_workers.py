"""Several workers in one attempt: each is started, watched and ended as a lone one is, and a dead one costs nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hetspec_core.events import Event, Log, Progress, Result, RunEnded, RunStarted, WorkerEnded, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec, Stage
from tests.fakes.specs import small_spec
from tests.fakes.supervised import PATIENCE_S, dump, left_over, said, supervisor_of, until


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench
    for process in left_over(home):  # of a test that failed
        process.kill()


def start(workbench: Workbench, deed: str, stage: Stage, **resources: object) -> str:
    wanted = ResourcesSpec.model_validate({"device": "cpu", **resources})
    run_id = workbench.submit(small_spec(deed, stage).model_copy(update={"resources": wanted})).run_id
    workbench.start(run_id)
    return run_id


def events(workbench: Workbench, run_id: str) -> list[Event]:
    return list(read_events(workbench.paths(run_id).events)[0])


def exits(workbench: Workbench, run_id: str) -> list[tuple[str, int]]:
    return [(event.name, event.exit_status) for event in said(workbench.paths(run_id).desk, WorkerEnded)]  # type: ignore[attr-defined]


def all_work(workbench: Workbench, run_id: str, count: int) -> None:
    def speakers() -> set[str]:
        return {event.worker for event in said(workbench.paths(run_id).events, Progress)}

    until(lambda: len(speakers()) == count, "all workers")


@pytest.mark.slow
def test_a_killed_worker_of_a_dataset_is_started_again_and_nothing_else_is(workbench: Workbench) -> None:
    run_id = start(workbench, "hurt", "dataset", num_workers=3)
    shown = list(workbench.watch(run_id))
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded"
    found = exits(workbench, run_id)
    assert sorted(found[:-1]) == [("worker-0", 0), ("worker-1", -9), ("worker-1", 0), ("worker-2", 0)]
    assert found[-1] == ("worker-0", 0)  # the one that puts the shares together
    (warning,) = [event for event in shown if isinstance(event, Log) and event.level == "warning"]
    assert "worker-1 was killed by SIGKILL" in warning.message and "1 of 3" in warning.message
    assert sum(isinstance(event, RunEnded) for event in events(workbench, run_id)) == 1
    assert [event.data for event in shown if isinstance(event, Result)] == [{"samples": 30}]
    for number in range(3):
        assert workbench.paths(run_id).log(f"worker-{number}").is_file()
    ours = [event for event in shown if isinstance(event, Progress) and event.task == "work"]
    shares = {event.task for event in shown if isinstance(event, Progress)} - {"work"}
    assert shares == {"work (worker-0)", "work (worker-1)", "work (worker-2)"}
    assert {event.total for event in ours[:-1]} == {30} and max(event.done for event in ours) == 30
    live = dump(workbench)
    workbench.rebuild()
    assert dump(workbench) == live


@pytest.mark.slow
def test_a_share_that_always_fails_ends_the_run_with_its_error_after_three_more_starts(
    workbench: Workbench, home: Path
) -> None:
    run_id = start(workbench, "broken", "dataset", num_workers=2)
    assert workbench.wait(run_id, PATIENCE_S) == "failed"
    last = events(workbench, run_id)[-1]
    assert isinstance(last, RunEnded) and last.error is not None and last.worker == "worker-1"
    assert last.error.message == "worker-1: ValueError: shapes [2, 3] and [4] do not fit on each of 4 starts"
    found = exits(workbench, run_id)
    assert found == [("worker-1", 1)] * 4 + [("worker-0", 130)]  # the other one stopped at a safe point
    assert "ValueError" in workbench.paths(run_id).log("worker-1").read_text()
    assert left_over(home) == []


def test_what_is_wrong_with_the_data_is_not_tried_again(workbench: Workbench) -> None:
    run_id = start(workbench, "fail", "dataset", num_workers=2)
    assert workbench.wait(run_id, PATIENCE_S) == "failed"
    last = events(workbench, run_id)[-1]
    assert isinstance(last, RunEnded) and last.error is not None
    assert last.error.kind == "DataError" and "no assistant turn" in last.error.message and last.error.hint
    assert len(exits(workbench, run_id)) == 2


def test_workers_that_do_not_listen_are_ended_with_all_they_started(workbench: Workbench, home: Path) -> None:
    run_id = start(workbench, "stubborn", "train", num_workers=2)
    all_work(workbench, run_id, 2)
    assert len(left_over(home)) == 4
    workbench.cancel(run_id, grace_s=0.2)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"
    assert left_over(home) == [] and sorted(exits(workbench, run_id)) == [("worker-0", -9), ("worker-1", -9)]


def test_a_killed_supervisor_leaves_none_of_its_workers(workbench: Workbench, home: Path) -> None:
    run_id = start(workbench, "wait", "dataset", num_workers=2)
    all_work(workbench, run_id, 2)
    os.kill(supervisor_of(workbench, run_id).pid, signal.SIGKILL)
    assert [event.type for event in workbench.watch(run_id)][-1] == "found_lost"
    until(lambda: left_over(home) == [], "the end of all workers")
    assert workbench.state(run_id) == "lost"
    workbench.resume(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded"


def test_the_first_rank_that_fails_ends_all_with_its_error_and_not_the_noise_of_the_others(
    workbench: Workbench, home: Path
) -> None:
    run_id = start(workbench, "torn", "train", num_workers=3)
    began = time.monotonic()
    assert workbench.wait(run_id, PATIENCE_S) == "failed"
    assert time.monotonic() - began < 40  # nobody waits for the rank that never returns
    (last,) = [event for event in events(workbench, run_id) if isinstance(event, RunEnded)]
    assert last.error is not None and last.worker == "worker-1"
    assert (last.error.kind, last.error.message) == ("DataError", "worker-1: prompts.jsonl has no assistant turn")
    assert dict(exits(workbench, run_id))["worker-2"] == -9
    assert left_over(home) == []


def test_ranks_see_all_gpus_of_their_run_and_cancel_reaches_all(
    workbench: Workbench, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run_id = start(workbench, "wait", "train", device="auto", num_gpus=3)
    all_work(workbench, run_id, 3)
    supervisor = psutil.Process(supervisor_of(workbench, run_id).pid)
    assert supervisor.memory_info().rss < 30 << 20
    assert len({os.getsid(worker.pid) for worker in supervisor.children()}) == 3
    seen = {worker.environ()["RANK"]: worker.environ() for worker in supervisor.children()}
    assert {one["CUDA_VISIBLE_DEVICES"] for one in seen.values()} == {"GPU-fake-0000,GPU-fake-0001,GPU-fake-0002"}
    assert [seen[rank]["LOCAL_RANK"] for rank in "012"] == ["0", "1", "2"]  # the index of a rank's own GPU
    assert {(one["WORLD_SIZE"], one["MASTER_ADDR"]) for one in seen.values()} == {("3", "127.0.0.1")}
    assert len({one["MASTER_PORT"] for one in seen.values()}) == 1
    assert sum(status.state == "leased" for status in workbench.gpus().gpus) == 3
    assert len(said(workbench.paths(run_id).events, RunStarted)) == 3
    workbench.cancel(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"
    assert sorted(exits(workbench, run_id)) == [("worker-0", 130), ("worker-1", 130), ("worker-2", 130)]
    assert left_over(home) == []
