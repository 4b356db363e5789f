"""What is new in a run, and why it failed, from journals and logs as a worker and a supervisor write them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from hetspec_core.errors import NotFoundError
from hetspec_core.events import (
    CheckpointSaved,
    ErrorInfo,
    Journal,
    Launched,
    Log,
    Marked,
    Metric,
    RunEnded,
    RunStarted,
    WorkerEnded,
)
from hetspec_core.service.export import save_export
from hetspec_core.service.run_news import RunReader, exit_words, last_traceback, log_names, post_mortem
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(home: object) -> Iterator[Workbench]:
    with Workbench() as opened:
        yield opened


def test_the_first_look_tells_all_and_the_next_ones_what_is_new(workbench: Workbench) -> None:
    run_id = workbench.submit(small_spec("one")).run_id
    paths = workbench.paths(run_id)
    reader = RunReader(run_id)
    first = reader.look(workbench)
    assert first is not None and first.summary.state == "queued"
    assert "submitted from" in first.sentences[0]
    assert reader.look(workbench) is None
    with Journal(paths.events, "worker-0") as journal:
        journal.write(RunStarted(stage="train", pid=1, host="elsewhere"))
        journal.write(Metric(step=1, values={"loss": 1.0}))
        journal.write(Log(message="[bold]hello\nyou\x1b[2J\x07"))
        (paths.checkpoints / "step-1").mkdir(parents=True)
        journal.write(CheckpointSaved(path="checkpoints/step-1", step=1, best=True))
        journal.write(CheckpointSaved(path="checkpoints/gone", step=0))
    news = reader.look(workbench)
    assert news is not None
    assert [line.split("  ", 2)[2].strip() for line in news.sentences][1:] == [
        "[bold]hello ⏎ you",
        "checkpoint of step 1: checkpoints/step-1 (best so far)",
        "checkpoint of step 0: checkpoints/gone",
    ]
    assert [one.path for one in news.checkpoints] == ["checkpoints/step-1"]
    assert news.metrics == ["loss"]
    assert [(one.name, one.pid) for one in news.workers] == [("worker-0", 1)]
    with Journal(paths.desk, "desk") as journal:
        journal.write(WorkerEnded(attempt=1, name="worker-0", exit_status=-9))
        journal.write(Marked(add_tags=("good",), note="", starred=True))
    news = reader.look(workbench)
    assert news is not None
    assert [line.split("  ", 2)[2].strip() for line in news.sentences] == [
        "worker-0 ended with signal SIGKILL (9)",
        "labelled: +good, no note, starred",
    ]
    assert news.workers[0].exit_status == -9


def test_a_run_that_was_deleted_is_said_to_be_gone(workbench: Workbench) -> None:
    run_id = workbench.submit(small_spec("one")).run_id
    reader = RunReader(run_id)
    reader.look(workbench)
    shutil.rmtree(workbench.paths(run_id).folder)
    with pytest.raises(NotFoundError):
        reader.look(workbench)


def test_a_post_mortem_has_the_error_the_signal_the_traceback_and_what_to_do(workbench: Workbench) -> None:
    run_id = workbench.submit(small_spec("one")).run_id
    paths = workbench.paths(run_id)
    with Journal(paths.desk, "supervisor") as desk:
        desk.write(Launched(attempt=1, pid=1, host="elsewhere", birth=""))
        desk.write(WorkerEnded(attempt=1, name="worker-1", exit_status=1))
    with Journal(paths.events, "worker-1") as journal:
        journal.write(RunStarted(stage="train", pid=1, host="elsewhere"))
        error = ErrorInfo(kind="StageFailed", message="the worker crashed", hint="see its log")
        journal.write(RunEnded(state="failed", error=error))
    paths.log("worker-0").write_text("all is well\n")
    paths.log("supervisor").write_text("")
    paths.log("worker-1").write_text(
        "".join(f"step {n}\n" for n in range(100))
        + 'Traceback (most recent call last):\n  File "x.py", line 1\n    f()\n'
        + "torch.OutOfMemoryError: CUDA out of memory. Tried \x1b[31m2 GiB\x1b[0m\n"
    )
    found = post_mortem(workbench, run_id)
    assert (found.log, len(found.tail)) == ("worker-1.log", 50)
    assert found.traceback[0].startswith("Traceback") and found.traceback[-1].startswith("torch.OutOfMemoryError")
    text = found.to_text()
    for part in ("is failed", "the worker crashed", "status 1", "out of memory on the GPU", "see its log", "2 GiB"):
        assert part in text
    assert "\x1b" not in text
    assert log_names(workbench, run_id) == ["worker-0", "worker-1", "supervisor"]


def test_a_run_without_a_log_has_a_post_mortem_too(workbench: Workbench) -> None:
    run_id = workbench.submit(small_spec("one")).run_id
    assert post_mortem(workbench, run_id).to_text().endswith("no log")


def test_the_last_traceback_ends_with_its_exception() -> None:
    lines = ["Traceback (most recent call last):", "  a", "", "ValueError: x", "after", "Traceback (most recent", "  b"]
    assert last_traceback(lines) == ["Traceback (most recent", "  b"]
    assert last_traceback(lines[:5]) == lines[:4]
    assert last_traceback(["nothing"]) == []


@pytest.mark.parametrize(
    ("status", "words"), [(None, "unknown status"), (0, "status 0"), (-15, "SIGTERM (15)"), (-200, "signal 200")]
)
def test_exit_statuses_in_words(status: int | None, words: str) -> None:
    assert words in exit_words(status)


def test_exports_never_write_over_each_other(workbench: Workbench) -> None:
    paths = [save_export(workbench, "loss/../../etc [x]", ".csv", f"{n}\n") for n in range(3)]
    assert len(set(paths)) == 3
    assert {path.parent for path in paths} == {workbench.roots.data / "exports"}
    assert [path.read_text() for path in paths] == ["0\n", "1\n", "2\n"]
