"""What is going on below a home, as an observer that is asked again and again tells it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hetspec_core.events import Marked, Metric, Progress, RunEnded
from hetspec_core.jobs import GpuRequest, Waiting
from hetspec_core.paths import RunPaths
from hetspec_core.service import overview
from hetspec_core.service.library import Library
from hetspec_core.service.overview import Observer
from hetspec_core.service.workbench import Workbench
from tests.tui.homes import begun, lively_home, write_run


@pytest.fixture
def lively(home: Path) -> Path:
    return lively_home(home, time.time())


def test_every_run_is_in_its_place_and_a_dead_process_is_told_lost(lively: Path) -> None:
    with Workbench(lively) as workbench:
        found = Observer().look(workbench)
    assert found.total == 8
    assert found.counts == {
        "running": 2, "queued": 1, "succeeded": 2, "failed": 1, "cancelled": 1, "lost": 1,
    }  # fmt: skip
    assert [live.summary.name for live in found.active] == ["smollm2-llama-eagle", "ultrachat-hidden-states"]
    assert [run.name for run in found.queued] == ["bench-after-it"]
    assert [run.name for run in found.recent][:2] == ["too-large-a-batch", "mt-bench-eagle"]
    assert [(one.kind, one.run.name) for one in found.concerns if one.run] == [
        ("lost", "machine-went-down"),
        ("failed", "too-large-a-batch"),
    ]


def test_the_key_metric_is_the_accept_length_and_else_the_loss(lively: Path) -> None:
    events = [*begun(time.time(), 50, alive=True), *(Metric(step=step, values={"loss": 3.0 - step}) for step in (1, 2))]
    write_run(lively, "20270115-080000-train-zzzz", "with-loss", events)
    with Workbench(lively) as workbench:
        found = {live.summary.name: live for live in Observer().look(workbench).active}
    assert found["smollm2-llama-eagle"].metric == "eval/accept_length"
    assert len(found["smollm2-llama-eagle"].curve) == 12
    assert (found["with-loss"].metric, found["with-loss"].curve) == ("loss", (2.0, 1.0))


def test_the_time_to_the_end_follows_the_pace(lively: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, now = RunPaths(lively / "runs" / "20270115-071500-train-aaaa"), time.time()
    observer = Observer()
    with Workbench(lively) as workbench:
        assert observer.look(workbench).active[0].eta_s is None
        append(paths, Progress(task="train", done=1290, total=4000, unit="steps"))
        monkeypatch.setattr(overview.time, "time", lambda: now + 10)
        eta_s = observer.look(workbench).active[0].eta_s
    assert eta_s == pytest.approx((4000 - 1290) / 10, rel=0.1)


def test_no_time_is_foretold_while_models_are_loaded_or_when_the_pace_is_not_kept(
    lively: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, now = RunPaths(lively / "runs" / "20270115-071500-train-aaaa"), time.time()
    observer = Observer()

    def eta_s(after_s: float, *events: Progress) -> float | None:
        for event in events:
            append(paths, event)
        monkeypatch.setattr(overview.time, "time", lambda: now + after_s)
        return observer.look(workbench).active[0].eta_s

    with Workbench(lively) as workbench:
        assert eta_s(0, Progress(task="train", done=1290, total=4000, unit="steps")) is None
        assert eta_s(10, Progress(task="train", done=2290, total=4000, unit="steps")) == pytest.approx(17, abs=1)
        assert eta_s(100) is None  # not 0: it takes longer than foretold
        loading = Progress(task="load base", done=1, total=1, prepares=True)
        assert eta_s(101, loading) is None
        assert eta_s(102, Progress(task="train", done=4000, total=4000, unit="steps")) is None
        assert eta_s(103, Progress(task="capture", done=0, total=10)) is None


def test_an_overview_in_which_nothing_happened_equals_the_last(lively: Path) -> None:
    observer = Observer()
    with Workbench(lively) as workbench:
        first = observer.look(workbench)
        assert observer.look(workbench) == first


def test_what_a_queued_run_waits_for_is_told_at_every_look(lively: Path) -> None:
    observer = Observer()
    with Workbench(lively) as workbench:
        (run_id,) = (run.run_id for run in workbench.runs(state="queued"))
        workbench.queue.put(waiting(run_id, after=("20270115-071500-train-aaaa",)))
    with Workbench(lively) as workbench:
        looks = [observer.look(workbench).queued[0] for _ in range(2)]
        assert [run.waits for run in looks] == ["waits for run 20270115-071500-train-aaaa"] * 2
        assert looks[0] == workbench.summary(run_id) == workbench.summaries_of([run_id])[0]
        assert looks[0] in workbench.summaries(["state:queued"])


def test_between_full_looks_only_runs_at_work_are_looked_at(lively: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Observer()
    with Workbench(lively) as workbench:
        before = observer.look(workbench)
        Library(workbench).mark("20270115-060000-train-ffff", Marked(archived=True))
        monkeypatch.setattr(type(workbench.registry), "sync_all", lambda self: pytest.fail("it looked at all runs"))
        assert observer.look(workbench).concerns == before.concerns
        monkeypatch.undo()
        after = observer.look(workbench, fully=True)
    assert [one.kind for one in after.concerns] == ["lost"]


def test_a_new_run_and_the_end_of_one_are_seen_at_the_next_look(lively: Path) -> None:
    observer = Observer()
    with Workbench(lively) as workbench:
        observer.look(workbench)
        write_run(lively, "20270115-090000-train-yyyy", "fresh", begun(time.time(), 1, alive=True))
        assert "fresh" in [live.summary.name for live in observer.look(workbench).active]
        append(RunPaths(lively / "runs" / "20270115-090000-train-yyyy"), RunEnded(state="succeeded"))
        found = observer.look(workbench)
    assert found.recent[0].name == "fresh"


def test_a_disk_that_is_nearly_full_comes_first(lively: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 10**8

    monkeypatch.setattr(overview.shutil, "disk_usage", lambda path: Usage())
    with Workbench(lively) as workbench:
        concern = Observer().look(workbench).concerns[0]
    assert (concern.kind, concern.text, concern.hint) == (
        "disk",
        "0.5 GB free on the disk of the runs",
        "runs will fail",
    )


def test_a_home_without_runs_has_an_empty_overview(home: Path) -> None:
    with Workbench(home) as workbench:
        found = Observer().look(workbench)
    assert (found.total, found.active, found.recent) == (0, (), ())


def waiting(run_id: str, after: tuple[str, ...]) -> Waiting:
    return Waiting(run_id, 1, GpuRequest(count=0), 0, time.time(), "tests.fakes.worker", {}, None, after=after)


def append(paths: RunPaths, event: Progress | RunEnded) -> None:
    with paths.events.open("a") as file:
        file.write(event.to_line().decode() + "\n")
