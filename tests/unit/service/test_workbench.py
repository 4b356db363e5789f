"""Making runs, and what can be said of them before any worker is there."""

from __future__ import annotations

import shutil
import stat
import threading
from pathlib import Path

import pytest

from hetspec_core.errors import NotFoundError, ResourceError, RunError
from hetspec_core.events import FoundLost, Journal, Launched, Log, Progress, RunEnded, RunStarted
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.watch import Watch
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec.run import from_toml
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path / "bench")


def test_a_submitted_run_is_a_complete_folder_with_a_spec_that_cannot_be_changed(workbench: Workbench) -> None:
    spec = small_spec("some")
    handle = workbench.submit(spec)
    assert from_toml(handle.paths.spec.read_text()) == spec
    assert stat.S_IMODE(handle.paths.spec.stat().st_mode) == 0o440
    assert handle.paths.logs.is_dir()
    assert workbench.state(handle.run_id) == "queued"
    assert [path.name for path in workbench.roots.runs.iterdir()] == [handle.run_id]


def test_run_ids_sort_by_time_and_are_never_taken_twice(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["20260101-000000-train-aaaa", "20260101-000000-train-aaaa", "20260101-000000-train-bbbb"])
    monkeypatch.setattr("hetspec_core.service.folders.new_run_id", lambda stage: next(ids))
    first, second = workbench.submit(small_spec("a")), workbench.submit(small_spec("b"))
    assert [first.run_id, second.run_id] == ["20260101-000000-train-aaaa", "20260101-000000-train-bbbb"]
    assert from_toml(first.paths.spec.read_text()).name == "a"


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "bench" / "runs").mkdir(parents=True)
    workbench = Workbench(tmp_path / "bench")
    (tmp_path / "bench" / "runs").rmdir()
    (tmp_path / "bench" / "runs").symlink_to("/proc/self")
    with pytest.raises(ResourceError, match="runs"):
        workbench.submit(small_spec("some"))


def test_a_queued_run_is_cancelled_at_once_and_can_be_started_later(workbench: Workbench) -> None:
    run_id = workbench.submit(small_spec("some")).run_id
    assert workbench.cancel(run_id) is False
    assert workbench.state(run_id) == "cancelled"
    with pytest.raises(RunError, match="nothing to cancel"):
        workbench.cancel(run_id)


def test_a_run_that_is_not_there_or_never_started_cannot_be_watched(workbench: Workbench) -> None:
    with pytest.raises(NotFoundError):
        workbench.watch("nothing")
    with pytest.raises(NotFoundError):
        workbench.start("nothing")
    with pytest.raises(RunError, match="never started"):
        workbench.watch(workbench.submit(small_spec("some")).run_id)


def test_only_stages_that_go_on_from_disk_are_resumed(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("some", "bench"))
    with Journal(handle.paths.events, "worker-0") as journal:
        journal.write(RunStarted(stage="bench", pid=1, host="h", birth="b"))
        journal.write(RunEnded(state="failed"))
    with pytest.raises(RunError, match="stage bench"):
        workbench.resume(handle.run_id)


def test_runs_are_listed_newest_first_by_state_and_stage(workbench: Workbench) -> None:
    ids = [workbench.submit(small_spec(name, stage)).run_id for name, stage in (("a", "train"), ("b", "dataset"))]
    workbench.cancel(ids[0])
    assert [run.run_id for run in workbench.runs()] == ids[::-1]
    assert [run.name for run in workbench.runs(stage="dataset")] == ["b"]
    assert [run.name for run in workbench.runs(state="cancelled")] == ["a"]
    assert [run.name for run in workbench.runs(limit=1)] == ["b"]


def test_a_run_whose_process_number_was_given_to_another_is_lost(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("some"))
    me = ProcessIdentity.of()
    with Journal(handle.paths.desk, "desk") as desk:
        desk.write(Launched(attempt=1, pid=me.pid, host=me.host, birth="another boot:1"))
    assert workbench.state(handle.run_id) == "lost"
    assert [run.state for run in workbench.runs()] == ["lost"]
    assert isinstance(list(workbench.watch(handle.run_id))[-1], FoundLost)


def test_a_run_on_another_host_is_taken_to_live_and_cannot_be_stopped_from_here(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("some"))
    with Journal(handle.paths.desk, "desk") as desk:
        desk.write(Launched(attempt=1, pid=1, host="elsewhere.example", birth="b"))
    assert workbench.state(handle.run_id) == "starting"
    with pytest.raises(RunError, match=r"elsewhere\.example"):
        workbench.cancel(handle.run_id)


def test_the_report_of_a_run_is_json(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("some"))
    with Journal(handle.paths.events, "worker-0") as journal:
        journal.write(RunStarted(stage="train", pid=1, host="h", birth="b"))
        journal.write(Log(level="warning", message="few samples"))
        journal.write(Progress(task="train", done=5, total=10, unit="steps"))
    report = workbench.show(handle.run_id).to_json()
    assert (report["progress"], report["spec"]["name"], report["warnings"][0]["message"]) == (
        0.5,
        "some",
        "few samples",
    )
    assert report["files"]["spec.toml"] > 0


def watch_of(folder: Path, attempt: int, lost: FoundLost | None = None) -> Watch:
    return Watch(RunPaths(folder), attempt, lambda: lost, period_s=0.001)


def test_a_watch_shows_one_attempt_and_ends_with_it(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", "worker-0") as journal:
        for attempt in (1, 2):
            journal.write(RunStarted(stage="train", attempt=attempt, pid=1, host="h"))
            journal.write(Log(message=f"attempt {attempt}"))
            journal.write(RunEnded(state="cancelled"))
        journal.write(RunStarted(stage="train", attempt=3, pid=1, host="h"))
    assert [getattr(e, "message", e.type) for e in watch_of(tmp_path, 2)] == ["run_started", "attempt 2", "run_ended"]


def test_a_watch_is_taken_up_again_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watch_of(tmp_path, 1)
    journal = Journal(tmp_path / "events.jsonl", "worker-0")
    journal.write(RunStarted(stage="train", pid=1, host="h"))
    journal.write(Log(message="one"))
    seen = [next(watch), next(watch)]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(watch)
    journal.write(Log(message="two"))
    journal.write(RunEnded(state="succeeded"))
    seen += list(watch)
    assert [getattr(event, "message", event.type) for event in seen] == ["run_started", "one", "two", "run_ended"]
    assert watch.done and watch.poll() == []


def test_what_was_written_just_before_the_worker_vanished_is_still_seen(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.jsonl", "worker-0")
    journal.write(RunStarted(stage="train", pid=1, host="h"))

    def find_lost() -> FoundLost:
        journal.write(RunEnded(state="succeeded"))
        return FoundLost(attempt=1)

    watch = Watch(RunPaths(tmp_path), 1, find_lost, period_s=0.001)
    assert [event.type for event in watch] == ["run_started", "run_ended"]


def test_a_run_is_shown_while_its_training_clears_checkpoints_away(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("some"))
    is_over = threading.Event()

    def train() -> None:
        while not is_over.is_set():
            for step in range(20):
                folder = handle.paths.checkpoints / f"step-{step:06}" / "draft"
                folder.mkdir(parents=True)
                (folder / "config.json").write_text("{}")
            shutil.rmtree(handle.paths.checkpoints)

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(100):
            assert "spec.toml" in workbench.show(handle.run_id).files
    finally:
        is_over.set()
        training.join()
