"""The registry is an index: it can be filled by many at once, thrown away, and made again."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.events import (
    CancelAsked,
    ErrorInfo,
    Event,
    FoundLost,
    Launched,
    Log,
    Progress,
    Result,
    RunEnded,
    RunStarted,
)
from hetspec_core.runs.rows import RunRow, apply
from hetspec_core.service.report import RunSummary
from tests.fakes.registries import STARTED, dump, make_run, metric, open_registry, say


def test_a_run_is_indexed_with_its_spec_progress_metrics_and_results(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1", "my run")
    say(paths.desk, Launched(attempt=1, pid=1, host="nowhere.example", birth="b"))
    say(
        paths.events,
        STARTED,
        Progress(task="train", done=3, total=10, unit="steps"),
        metric(1, loss=2.0, accept_length=1.5),
        metric(2, loss=1.0),
        Result(kind="training", data={"accept_length": 1.8, "nested": {"speedup": 9}, "text": "x"}),
    )
    with open_registry(tmp_path) as registry:
        row = registry.sync("r1")
        assert row is not None
        assert (row.name, row.stage, row.base, row.state, row.created) == ("my run", "train", "tiny", "running", 100.0)
        assert (row.task, row.done, row.total, row.unit) == ("train", 3.0, 10.0, "steps")
        assert (row.step, row.tokens, row.wall_s) == (2, 20, 1.0)
        assert (row.accept_length, row.speedup) == (1.8, None)
        assert [(p.step, p.value, p.tokens) for p in registry.curve("r1", "loss")] == [(1, 2.0, 10), (2, 1.0, 20)]
        assert [(p.name, p.step) for p in registry.last_metrics("r1")] == [("accept_length", 1), ("loss", 2)]
        assert registry.results("r1")["training"]["accept_length"] == 1.8
        assert registry.row("r1") == row


def test_ingesting_again_changes_nothing(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    say(paths.events, STARTED, metric(1, loss=2.0))
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        before = dump(tmp_path)
        registry.sync_all()
        registry.sync("r1")
        assert dump(tmp_path) == before


def test_a_step_measured_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    say(paths.events, STARTED, metric(1, loss=2.0), metric(2, loss=1.9), metric(2, loss=1.8))
    with open_registry(tmp_path) as registry:
        registry.sync("r1")
        assert [(point.step, point.value) for point in registry.curve("r1", "loss")] == [(1, 2.0), (2, 1.8)]


STORY = st.lists(
    st.one_of(
        st.builds(metric, st.integers(0, 20), loss=st.floats(0, 9), accept_length=st.floats(1, 5)),
        st.builds(Progress, time=st.just(1.0), task=st.sampled_from("ab"), done=st.integers(0, 9), total=st.just(9.0)),
        st.builds(Result, time=st.just(5.0), kind=st.sampled_from("xy"), data=st.just({"speedup": 1.5})),
        st.builds(RunStarted, time=st.just(2.0), stage=st.just("train"), pid=st.just(1), host=st.just("h"),
                  attempt=st.integers(1, 3), birth=st.just("b")),
        st.builds(RunEnded, state=st.sampled_from(["failed", "cancelled"]),
                  error=st.none() | st.just(ErrorInfo(kind="k", message="m"))),
        st.builds(Log, message=st.just("x")),
    ),
    max_size=12,
)  # fmt: skip
DESK = st.lists(
    st.one_of(
        st.builds(Launched, attempt=st.integers(1, 3), pid=st.just(1), host=st.just("h"), birth=st.just("b")),
        st.builds(CancelAsked, attempt=st.integers(0, 3)),
        st.builds(FoundLost, attempt=st.integers(1, 3), exit_status=st.none() | st.just(-9)),
    ),
    max_size=4,
)


@given(story=STORY, desk=DESK, data=st.data())
def test_a_rebuilt_registry_equals_the_live_one(
    tmp_path_factory: pytest.TempPathFactory, story: list[Event], desk: list[Event], data: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("home")
    paths = make_run(home, "r1")
    with open_registry(home) as registry:
        left, right = list(story), list(desk)
        while left or right:
            if left and (not right or data.draw(st.booleans())):
                say(paths.events, left.pop(0))
            else:
                say(paths.desk, right.pop(0))
            if data.draw(st.booleans()):
                registry.sync_all()
        registry.sync_all()
        live = dump(home)
        assert registry.rebuild() == 1
        assert dump(home) == live
    shutil.rmtree(home)


def test_a_journal_that_lost_its_tail_is_taken_in_from_the_beginning(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    say(paths.events, STARTED, metric(1, loss=2.0), metric(2, loss=1.0))
    raw = paths.events.read_bytes()
    with open_registry(tmp_path) as registry:
        registry.sync("r1")
        paths.events.write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 5])
        registry.sync("r1")
        assert [point.step for point in registry.curve("r1", "loss")] == [1]
        say(paths.events, metric(2, loss=0.5))
        registry.sync("r1")
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live


def test_a_run_whose_folder_is_gone_is_forgotten(tmp_path: Path) -> None:
    for run_id in ("r1", "r2"):
        say(make_run(tmp_path, run_id).events, STARTED, metric(1, loss=2.0))
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        shutil.rmtree(tmp_path / "runs" / "r1")
        registry.sync_all()
        assert [row.run_id for row in registry.rows()] == ["r2"]
        assert registry.curve("r1", "loss") == []
        assert registry.sync("r1") is None


def test_half_made_folders_and_stray_files_are_no_runs(tmp_path: Path) -> None:
    make_run(tmp_path, ".new-r1")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "readme.txt").write_text("x")
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert registry.rows() == []


def test_a_spec_that_cannot_be_read_still_has_its_row(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    paths.spec.write_text("stage = [")
    with open_registry(tmp_path) as registry:
        row = registry.sync("r1")
        assert row is not None and (row.stage, row.state) == ("", "queued")


def test_a_damaged_database_is_put_aside_and_made_again(tmp_path: Path) -> None:
    say(make_run(tmp_path, "r1").events, STARTED)
    (tmp_path / "registry.db").write_bytes(b"this is no database at all, " * 100)
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert [row.run_id for row in registry.rows()] == ["r1"]
    assert len(list(tmp_path.glob("registry.db.damaged-*"))) == 1


def _ingest_many(home: str, barrier: object, rounds: int) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    with open_registry(Path(home)) as registry:
        for _ in range(rounds):
            registry.sync_all()


def _write_many(path: str, barrier: object, count: int) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    for step in range(count):
        say(Path(path), metric(step, loss=float(step)))


def test_several_desks_may_open_and_ingest_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    runs = [make_run(tmp_path, f"r{i}") for i in range(3)]
    barrier = fork.Barrier(4 + len(runs))
    people = [fork.Process(target=_ingest_many, args=(str(tmp_path), barrier, 40)) for _ in range(4)]
    people += [fork.Process(target=_write_many, args=(str(run.events), barrier, 200)) for run in runs]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [person.exitcode for person in people] == [0] * len(people)
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        for run in runs:
            assert [point.step for point in registry.curve(run.run_id, "loss")] == list(range(200))
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live


def test_opening_the_registry_imports_neither_numpy_nor_pandas() -> None:
    import subprocess

    probe = (
        "import sys, tempfile, pathlib; from hetspec_core.runs import Registry\n"
        "home = pathlib.Path(tempfile.mkdtemp()); Registry(home / 'registry.db', home / 'runs').close()\n"
        "assert 'sqlite_utils' in sys.modules\n"
        "print([name for name in ('numpy', 'pandas', 'torch') if name in sys.modules])\n"
        "import importlib.util; importlib.util.find_spec('numpy')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_first_look_at_many_folders_takes_few_transactions_and_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hetspec_core.runs.ingest._PACE_S", 0.0)
    for number in range(60):
        make_run(tmp_path, f"r{number:02d}")
    with open_registry(tmp_path) as registry, caplog.at_level("INFO", "hetspec.registry"):
        begun: list[str] = []
        registry._db.conn.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
        registry.sync_all()
        assert len(registry.rows()) == 60
    assert len(begun) <= 10  # one in two seconds, on a busy machine
    assert "of 60" in caplog.text


def test_a_long_journal_is_taken_in_with_little_memory(tmp_path: Path) -> None:
    path = make_run(tmp_path, "long").events
    lines = "".join(
        f'{{"time":1.0,"worker":"w","type":"metric","step":{step},"values":{{"loss":1.0}},"tokens":1,"wall_s":1.0}}\n'
        for step in range(60_000)
    )
    path.write_text(lines)
    with open_registry(tmp_path) as registry:
        tracemalloc.start()
        registry.sync_all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        row = registry.row("long")
        assert row is not None and row.step == 59_999
        assert registry.count_points("long", "loss") == 60_000
    assert peak < 60_000_000  # all of them as events at once take three times as much


# --- what comes before the work ---------------------------------------------------------------------------------------


def loading(done: float = 0, task: str = "load base", workers: int = 1) -> Progress:
    return Progress(task=task, done=done, total=1, workers=workers, prepares=True)


def test_loading_is_named_and_is_no_share_of_the_run() -> None:
    before = apply(RunRow("run"), [loading(), loading(1)]).row
    assert (before.task, before.done, before.total) == ("load base", None, None)
    summary = RunSummary.of(before, "running", Path())
    assert (summary.task, summary.progress) == ("load base", None)
    shared = apply(RunRow("run"), [loading(workers=2), loading(1, workers=2)]).row
    assert (shared.task, shared.done, shared.facts.parts) == ("load base", None, {})


def part(task: str, number: int, done: float, *, worker: str = "worker-0", workers: int = 1) -> Progress:
    return Progress(task=task, done=done, total=10, worker=worker, workers=workers, part=number, parts=2)


def shares_of(events: list[Progress]) -> list[float | None]:
    """How far the run is after each event."""
    row, found = RunRow("run"), []
    for event in events:
        row = apply(row, [event]).row
        found.append(row.progress)
    assert apply(RunRow("run"), events).row == row
    return found


def test_a_run_of_several_tasks_never_goes_back_from_one_to_the_next() -> None:
    events = [part("answers", 1, 0), part("answers", 1, 5), part("answers", 1, 10), part("capture", 2, 0)]
    assert shares_of([*events, part("capture", 2, 5), part("capture", 2, 10)]) == [0, 0.25, 0.5, 0.5, 0.75, 1]
    row = apply(RunRow("run"), [*events, part("capture", 2, 5)]).row
    assert (row.task, row.done, row.total) == ("capture", 5, 10)


def test_a_resumed_run_of_several_tasks_does_not_go_back_to_those_that_are_complete() -> None:
    before = [part("answers", 1, 10), part("capture", 2, 5)]
    assert shares_of([*before, part("answers", 1, 10), part("capture", 2, 5)]) == [0.5, 0.75, 0.75, 0.75]
    row = apply(RunRow("run"), [*before, part("answers", 1, 10)]).row
    assert row.task == "capture"
    assert shares_of([*before, part("answers", 1, 4)])[-1] == 0.2  # what was lost is to be done again


def test_a_run_is_in_its_earlier_task_until_the_slowest_of_its_workers_has_ended_it() -> None:
    def of(number: int, task: str, done: float, worker: str) -> Progress:
        return part(task, number, done, worker=worker, workers=2)

    events = [of(1, "answers", 10, "worker-0"), of(1, "answers", 2, "worker-1"), of(2, "capture", 6, "worker-0")]
    ends = [of(1, "answers", 10, "worker-1"), of(2, "capture", 0, "worker-1")]
    assert shares_of([*events, *ends]) == [0.25, 0.3, 0.3, 0.5, 0.65]


def test_runs_of_several_tasks_are_found_by_how_far_they_are(tmp_path: Path) -> None:
    say(make_run(tmp_path, "early").events, STARTED, part("answers", 1, 10))
    say(make_run(tmp_path, "late").events, STARTED, part("capture", 2, 6))
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert registry.find(["progress>60%"]).run_ids == ["late"]
        assert registry.find(["progress<60%"]).run_ids == ["early"]
        assert [row.progress for row in registry.rows()] == [0.8, 0.5]


def test_a_resumed_run_stays_at_its_share_while_its_models_are_loaded() -> None:
    row = apply(RunRow("run"), [loading(), loading(1), Progress(task="train", done=20, total=100, unit="steps")]).row
    row = apply(row, [loading(), loading(1)]).row
    assert (row.task, row.done, row.total, row.unit) == ("load base", 20, 100, "steps")
    assert RunSummary.of(row, "running", Path()).progress == 0.2
    row = apply(row, [Progress(task="train", done=21, total=100, unit="steps")]).row
    assert (row.task, row.done) == ("train", 21)
