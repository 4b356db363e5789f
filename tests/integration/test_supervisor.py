"""Runs that cannot be lost: whoever is killed, no wrong state, no process left over, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hetspec_core.errors import NotFoundError, ResourceError, RunError
from hetspec_core.events import Launched, RunEnded, RunStarted, WorkerEnded
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.workbench import Workbench
from tests.conftest import REPOSITORY
from tests.fakes.supervised import PATIENCE_S, dump, left_over, said, start, submit, supervisor_of, until, works

ROUNDS = int(os.environ.get("HETSPEC_KILL_ROUNDS", "6"))
"""How often somebody is killed at a random moment; 50 before a release."""


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench
    for process in left_over(home):  # of a test that failed
        process.kill()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_supervisor_says_how_its_worker_ended_and_is_small(workbench: Workbench) -> None:
    run_id = start(workbench, "wait")
    works(workbench, run_id)
    supervisor = psutil.Process(supervisor_of(workbench, run_id).pid)
    assert supervisor.memory_info().rss < 30 << 20
    if sys.platform == "linux":
        assert "torch" not in Path(f"/proc/{supervisor.pid}/maps").read_text()
    (worker,) = supervisor.children()
    assert os.getsid(worker.pid) == worker.pid and os.getsid(supervisor.pid) == supervisor.pid
    worker.send_signal(signal.SIGSEGV)
    assert workbench.wait(run_id, PATIENCE_S) == "failed"
    (ended,) = said(workbench.paths(run_id).desk, WorkerEnded)
    assert isinstance(ended, WorkerEnded) and ended.exit_status == -signal.SIGSEGV
    error = workbench.runs()[0].error
    assert error is not None and "SIGSEGV" in error["message"] and "resume" in error["hint"]


def test_a_worker_that_dies_before_it_speaks_fails_its_run_with_what_it_printed(home: Path) -> None:
    with Workbench(home, LocalExecutor("tests.fakes.no_such_worker")) as bench:
        run_id = start(bench, "succeed")
        assert bench.wait(run_id, PATIENCE_S) == "failed"
        (last,) = list(bench.watch(run_id))
        assert isinstance(last, RunEnded) and last.error is not None and "status 1" in last.error.message
        assert "no_such_worker" in bench.paths(run_id).log("worker-0").read_text()


def test_after_its_grace_time_a_run_that_does_not_listen_is_ended_with_all_it_started(
    workbench: Workbench, home: Path
) -> None:
    run_id = start(workbench, "stubborn")
    works(workbench, run_id)
    assert len(left_over(home)) == 2
    workbench.cancel(run_id, grace_s=0.2)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"
    assert left_over(home) == []
    with pytest.raises(RunError, match="nothing to cancel"):
        workbench.cancel(run_id)


def test_a_killed_supervisor_takes_its_worker_with_it_and_the_run_is_lost_until_it_is_resumed(
    workbench: Workbench, home: Path
) -> None:
    run_id = start(workbench, "stubborn")
    works(workbench, run_id)
    os.kill(supervisor_of(workbench, run_id).pid, signal.SIGKILL)
    assert [event.type for event in workbench.watch(run_id)][-1] == "found_lost"
    assert workbench.state(run_id) == "lost"
    until(lambda: left_over(home) == [], "the end of the worker and of its helper")
    workbench.resume(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded"


def test_a_process_with_the_number_of_the_supervisor_is_not_taken_for_it(workbench: Workbench) -> None:
    run_id = submit(workbench, "wait")
    other = subprocess.Popen(["sleep", "60"])
    try:
        who = ProcessIdentity.of(other.pid)
        workbench._note(run_id, Launched(attempt=1, pid=who.pid, host=who.host, birth="another boot:1"))
        assert workbench.state(run_id) == "lost"
        reused = ProcessIdentity(who.pid, "another boot:1", who.host)
        paths = workbench.paths(run_id)
        assert (
            workbench.executor.kill(paths, reused) is False and workbench.executor.request_stop(paths, reused) is False
        )
        workbench.resume(run_id)
        assert workbench.wait(run_id, PATIENCE_S) == "succeeded"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("force", [False, True])
def test_a_copied_home_neither_shows_nor_stops_the_run_of_the_original(
    workbench: Workbench, home: Path, tmp_path: Path, force: bool
) -> None:
    run_id = start(workbench, "wait")
    works(workbench, run_id)
    copied = tmp_path / "copied"
    shutil.copytree(home, copied, symlinks=True)
    with Workbench(copied, LocalExecutor("tests.fakes.worker")) as copy:
        assert copy.state(run_id) == "lost"
        assert [run.state for run in copy.runs()] == ["lost"]
        with pytest.raises(RunError, match="this is a copy of run") as refused:
            copy.cancel(run_id, force=force)
        assert str(workbench.paths(run_id).folder) in refused.value.message
        assert "cancel_asked" not in copy.paths(run_id).desk.read_text()
    assert workbench.state(run_id) == "running"
    assert workbench.cancel(run_id, force=force)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"


def test_a_run_that_waits_starts_in_its_home_and_not_in_a_copy_of_it(
    workbench: Workbench, home: Path, tmp_path: Path
) -> None:
    first = start(workbench, "wait")
    works(workbench, first)
    second = start(workbench, "wait-second")
    shutil.copytree(home, tmp_path / "copied", symlinks=True)
    (tmp_path / "linked").symlink_to(home)
    with Workbench(tmp_path / "copied", LocalExecutor("tests.fakes.worker")) as copy:
        assert copy.queue.dispatch() == {}
        waits = {run.run_id: run.waits for run in copy.runs()}
        assert waits[second] == f"waits in {home}; this is a copy"
        copy.cancel(second)
        assert copy.state(second) == "cancelled", "a user may end it in the copy alone"
    assert workbench.state(second) == "queued"
    workbench.cancel(first, force=True)
    assert workbench.wait(first, PATIENCE_S) == "cancelled"
    with Workbench(tmp_path / "linked", LocalExecutor("tests.fakes.worker")) as same:
        until(lambda: same.dispatch() or same.state(second) != "queued", "the second run")
    works(workbench, second)
    workbench.cancel(second, force=True)
    assert workbench.wait(second, PATIENCE_S) == "cancelled"


LAUNCH = """
import sys, time
from pathlib import Path
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
bench = Workbench(Path(sys.argv[1]), LocalExecutor("tests.fakes.worker"))
bench.start(sys.argv[2])
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_whoever_is_killed_at_whatever_moment_nothing_is_lost(workbench: Workbench, home: Path) -> None:
    chance = random.Random(2)
    for number in range(ROUNDS):
        victim = ("launcher", "worker", "supervisor")[number % 3]
        run_id = submit(workbench, "wait")
        launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, str(home), run_id], cwd=REPOSITORY)
        moment = time.monotonic() + chance.uniform(0.2, 1.2)
        try:
            if victim != "launcher":
                until(lambda run_id=run_id: said(workbench.paths(run_id).desk, Launched), "the supervisor")
            time.sleep(max(0.0, moment - time.monotonic()))
            if victim == "launcher":
                launcher.kill()
            elif victim == "supervisor":
                os.kill(supervisor_of(workbench, run_id).pid, signal.SIGKILL)
            else:
                supervisor = psutil.Process(supervisor_of(workbench, run_id).pid)
                until(supervisor.children, "the worker")
                supervisor.children()[0].kill()
        finally:
            launcher.kill()
            launcher.wait()
        what = f"round {number}: {victim} of {run_id}"
        if victim == "launcher":
            settled = workbench.state(run_id)
            assert settled in ("queued", "starting", "running"), what
            if settled == "queued":  # killed before it started anything, or on the way
                time.sleep(1.0)
                if workbench.state(run_id) == "queued":
                    with contextlib.suppress(RunError):  # its supervisor has just come after all
                        workbench.start(run_id)
            workbench.cancel(run_id)
            assert workbench.wait(run_id, PATIENCE_S) == "cancelled", what
        else:
            expected = "failed" if victim == "worker" else "lost"
            assert workbench.wait(run_id, PATIENCE_S) == expected, what
        if victim == "supervisor":
            list(workbench.watch(run_id))
        until(lambda run_id=run_id: left_over(workbench.paths(run_id).folder) == [], f"no process left, {what}")
        workbench.resume(run_id)
        assert workbench.wait(run_id, PATIENCE_S) == "succeeded", what
    live = dump(workbench)
    workbench.rebuild()
    assert dump(workbench) == live
    assert left_over(home) == []


@pytest.mark.usefixtures("two_gpus")
def test_a_run_waits_for_its_gpus_and_is_started_by_the_one_that_gives_them_back(workbench: Workbench) -> None:
    first = start(workbench, "wait", num_gpus=1)
    works(workbench, first)
    both = start(workbench, "wait-both", num_gpus=2)
    small = start(workbench, "wait-small", num_gpus=1)
    assert [workbench.state(run) for run in (both, small)] == ["queued", "queued"]  # the small one does not overtake
    assert [entry.run_id for entry in workbench.queue.entries()] == [both, small]
    assert [(status.state, status.run_id) for status in workbench.gpus().gpus] == [("leased", first), ("free", "")]
    with pytest.raises(RunError, match="already"):
        workbench.start(both)
    workbench.cancel(first)
    until(lambda: said(workbench.paths(both).events, RunStarted), "the next run")
    workers = psutil.Process(supervisor_of(workbench, both).pid).children()
    assert {worker.environ()["CUDA_VISIBLE_DEVICES"] for worker in workers} == {"GPU-fake-0000,GPU-fake-0001"}
    workbench.cancel(small)
    assert workbench.state(small) == "cancelled"
    workbench.cancel(both)
    assert workbench.wait(both, PATIENCE_S) == "cancelled"
    until(lambda: {status.state for status in workbench.gpus().gpus} == {"free"}, "the leases")


def test_runs_that_compute_on_the_processor_wait_for_each_other_and_say_for_what(workbench: Workbench) -> None:
    first = start(workbench, "wait")
    works(workbench, first)
    second = start(workbench, "wait-second")
    third = start(workbench, "wait-third")
    beside = start(workbench, "wait-beside", cpu_slots=0)
    works(workbench, beside)
    assert [workbench.state(run) for run in (second, third)] == ["queued", "queued"]
    summaries = {run.run_id: run for run in workbench.runs()}
    assert first in summaries[second].waits and "processor" in summaries[second].waits
    assert summaries[first].waits == ""
    workbench.cancel(third)
    assert workbench.state(third) == "cancelled"
    os.kill(supervisor_of(workbench, first).pid, signal.SIGKILL)  # the kernel gives its slot back
    until(lambda: workbench.dispatch() or workbench.state(second) != "queued", "the second run")
    works(workbench, second)
    for run in (second, beside):
        workbench.cancel(run, force=True)
        assert workbench.wait(run, PATIENCE_S) == "cancelled"


def test_a_run_that_waited_has_the_variables_of_the_process_that_submitted_it(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_TOKEN", "of-the-first")
    first = start(workbench, "wait")
    works(workbench, first)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("HF_TOKEN", "of-the-second")
    second = start(workbench, "wait-second")
    assert "of-the-second" not in (workbench.queue.folder / f"{second}.json").read_text()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("KMP_BLOCKTIME", "3")
    workbench.cancel(first, force=True)  # its supervisor, or this process, starts the second
    until(lambda: workbench.dispatch() or workbench.state(second) != "queued", "the second run")
    works(workbench, second)
    (worker,) = psutil.Process(supervisor_of(workbench, second).pid).children()
    assert worker.environ()["OMP_NUM_THREADS"] == "2"
    assert "KMP_BLOCKTIME" not in worker.environ()
    workbench.cancel(second, force=True)
    assert workbench.wait(second, PATIENCE_S) == "cancelled"


@pytest.mark.usefixtures("two_gpus")
def test_a_run_that_waits_again_is_queued_and_what_it_was_when_it_is_taken_out(workbench: Workbench) -> None:
    lost = start(workbench, "die", num_gpus=2)
    assert workbench.wait(lost, PATIENCE_S) == "failed"
    holder = start(workbench, "wait", num_gpus=1, gpus=["1"])
    workbench.resume(lost)
    assert workbench.state(lost) == "queued"
    assert {run.run_id: run.state for run in workbench.runs()}[lost] == "queued"
    watch = workbench.watch(lost)
    assert watch.poll() == []
    workbench.cancel(lost)
    assert workbench.state(lost) == "failed"
    assert [event.type for event in watch] == ["found_lost"]
    workbench.resume(lost)
    os.kill(supervisor_of(workbench, holder).pid, signal.SIGKILL)  # it cannot start anybody: whoever looks does
    assert workbench.wait(lost, PATIENCE_S) == "succeeded"


@pytest.mark.usefixtures("two_gpus")
def test_a_run_that_this_machine_can_never_hold_is_refused(workbench: Workbench) -> None:
    run_id = submit(workbench, "succeed", num_gpus=3)
    with pytest.raises(ResourceError, match="3 GPUs"):
        workbench.start(run_id)
    assert workbench.state(run_id) == "queued" and workbench.queue.entries() == []


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("moved", [False, True])
def test_a_run_whose_folder_is_taken_away_under_it_ends_and_gives_its_gpus_back(
    workbench: Workbench, home: Path, tmp_path: Path, moved: bool
) -> None:
    run_id = start(workbench, "stubborn", num_gpus=2)
    works(workbench, run_id)
    next_one = start(workbench, "succeed", num_gpus=1)
    folder = workbench.paths(run_id).folder
    if moved:
        folder.rename(tmp_path / "elsewhere")
    else:

        def is_deleted() -> bool:  # while its second worker may still be writing its first words
            shutil.rmtree(folder, ignore_errors=True)
            return not folder.exists()

        until(is_deleted, "the folder to be gone")
    assert {run.run_id for run in workbench.runs()} == {next_one}
    with pytest.raises(NotFoundError):
        workbench.cancel(run_id)
    until(lambda: left_over(folder) == [], "the end of the worker and its helper")
    assert workbench.wait(next_one, PATIENCE_S) == "succeeded"  # started by the supervisor that lost its folder
    until(lambda: {status.state for status in workbench.gpus().gpus} == {"free"}, "the leases")
    left = sorted(str(path.relative_to(home)) for path in (home / "runs").rglob("*") if next_one not in str(path))
    assert not left, left
