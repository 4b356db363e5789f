"""A journal gives back what was written, whatever happens to its last line."""

from __future__ import annotations

import math
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.documents import DocumentError
from hetspec_core.events import (
    Artifact,
    CheckpointSaved,
    DependencyFailed,
    ErrorInfo,
    EventBase,
    Journal,
    Log,
    Metric,
    Progress,
    Result,
    RunEnded,
    RunStarted,
    Unknown,
    append_event,
    read_events,
    read_pieces,
    select_events,
)

TEXT = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
EVENTS = st.one_of(
    st.builds(Log, time=NUMBERS, message=TEXT),
    st.builds(Progress, time=NUMBERS, task=TEXT, done=NUMBERS, total=st.none() | NUMBERS, unit=TEXT, note=TEXT),
    st.builds(Metric, time=NUMBERS, step=st.integers(0, 10**9), values=st.dictionaries(TEXT, st.none() | NUMBERS)),
    st.builds(CheckpointSaved, time=NUMBERS, path=TEXT, step=st.integers(0, 100), best=st.booleans()),
    st.builds(Artifact, time=NUMBERS, kind=TEXT, path=TEXT, summary=st.dictionaries(TEXT, st.integers())),
    st.builds(RunEnded, time=NUMBERS, state=st.just("failed"), error=st.builds(ErrorInfo, kind=TEXT, message=TEXT)),
)


def write(path: Path, events: list[EventBase]) -> bytes:
    path.unlink(missing_ok=True)
    with Journal(path, "worker-0") as journal:
        for event in events:
            journal.write(event)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


@given(events=st.lists(EVENTS, max_size=8), data=st.data())
def test_any_split_of_the_bytes_yields_the_same_events(
    folder: Path, events: list[EventBase], data: st.DataObject
) -> None:
    raw = write(folder / "whole.jsonl", events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    path, offset, found = folder / "growing.jsonl", 0, []
    for end in [*cuts, len(raw)]:
        path.write_bytes(raw[:end])
        new, offset = read_events(path, offset)
        found += new
    assert found == [replace(event, worker="worker-0") for event in events]
    assert offset == len(raw)


@given(events=st.lists(EVENTS, min_size=1, max_size=5), data=st.data())
def test_a_torn_line_costs_only_itself(folder: Path, events: list[EventBase], data: st.DataObject) -> None:
    path = folder / "torn.jsonl"
    raw = write(path, events)
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    kept = read_events(path)[0]
    with Journal(path, "worker-0") as journal:
        journal.write(Log(message="resumed"))
    after = read_events(path)[0]
    assert after[: len(kept)] == kept
    assert isinstance(after[-1], Log) and after[-1].message == "resumed"
    torn = after[len(kept) : -1]  # cut just before its newline, the line is whole again
    assert len(torn) <= 1 and (not torn or isinstance(torn[0], Unknown) or torn[0].time == events[len(kept)].time)


def test_values_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    raw = write(
        tmp_path / "events.jsonl",
        [
            Metric(step=1, values={"loss": math.nan, "norm": math.inf, "lr": 0.5}),
            Result(kind="bench", data={"ratio": -math.inf, "deep": [{"x": math.nan}]}),
        ],
    )
    assert b"NaN" not in raw and b"Infinity" not in raw
    metric, result = read_events(tmp_path / "events.jsonl")[0]
    assert isinstance(metric, Metric) and metric.values == {"loss": None, "norm": None, "lr": 0.5}
    assert isinstance(result, Result) and result.data == {"ratio": None, "deep": [{"x": None}]}


def test_events_of_a_newer_version_are_kept_and_their_new_keys_ignored(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(
        '{"type": "heartbeat", "time": 5.5, "worker": "worker-1", "load": 3}\n'
        '{"type": "log", "time": 6.0, "worker": "w", "message": "hello", "colour": "red"}\n'
        '{"type": "log", "time": 7.0, "message": 4}\n'
        "[1, 2]\n\nnot json\n"
    )
    newer, log, *damaged = read_events(path)[0]
    assert isinstance(newer, Unknown)
    assert (newer.type, newer.time, newer.worker, newer.data["load"]) == ("heartbeat", 5.5, "worker-1", 3)
    assert log == Log(time=6.0, worker="w", message="hello")
    assert [event.type for event in damaged] == ["log", "", ""]
    assert all(isinstance(event, Unknown) for event in damaged)


def test_a_missing_journal_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == ([], 0)
    assert read_events(tmp_path / "events.jsonl", 100) == ([], 0)


def test_a_journal_that_became_shorter_is_read_on_from_its_last_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    raw = write(path, [Log(message="one"), Log(message="two"), Log(message="three")])
    first = raw.index(b"\n") + 1
    path.write_bytes(raw[: first + 10])
    events, offset = read_events(path, len(raw))
    assert (events, offset) == ([], first)
    with Journal(path, "worker-0") as journal:
        journal.write(Log(message="four"))
    assert [getattr(event, "message", None) for event in read_events(path, offset)[0]] == [None, "four"]


def test_the_worker_is_stamped_only_where_it_is_not_said(tmp_path: Path) -> None:
    write(tmp_path / "events.jsonl", [Log(message="a"), Log(message="b", worker="other")])
    assert [event.worker for event in read_events(tmp_path / "events.jsonl")[0]] == ["worker-0", "other"]


def _write_many(path: str, worker: str, count: int) -> None:
    with Journal(Path(path), worker) as journal:
        for step in range(count):
            journal.write(Metric(step=step, values={"x" * 50: float(step)}))


def test_processes_that_write_at_once_do_not_tear_each_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write_many, args=(str(path), f"worker-{i}", 300)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events = read_events(path)[0]
    for i in range(4):
        steps = [event.step for event in events if isinstance(event, Metric) and event.worker == f"worker-{i}"]
        assert steps == list(range(300))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_the_next_line_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path, "worker-0")
    real = os.write
    full = os.open("/dev/full", os.O_WRONLY)

    def almost_full(file: int, data: bytes) -> int:
        return real(file, data[:7]) if len(data) > 60 else real(full, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", almost_full)
        with pytest.raises(OSError, match="No space left"):
            journal.write(Log(message="x" * 10))
    journal.write(RunStarted(stage="train", pid=1, host="h"))
    journal.close()
    os.close(full)
    torn, started = read_events(path)[0]
    assert isinstance(torn, Unknown) and isinstance(started, RunStarted)


def test_a_long_journal_is_read_in_pieces_that_join_to_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with Journal(path, "worker-0") as journal:
        for step in range(2000):
            journal.write(Metric(time=1.0, step=step, values={f"metric-{number}": 0.5 for number in range(60)}))
        journal.write(Log(time=1.0, message="the end"))
    pieces = list(read_pieces(path))
    assert len(pieces) > 2 and max(len(events) for events, _ in pieces) < 1500
    assert [event for events, _ in pieces for event in events] == read_events(path)[0]
    for place, (_, offset) in enumerate(pieces, 1):
        assert read_events(path, offset)[0] == [event for events, _ in pieces[place:] for event in events]


def test_unwanted_types_are_left_out_and_all_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    told: list[EventBase] = [
        Log(time=1.0, worker="w", message='{"time":1.0,"worker":"w","type":"metric"'),
        Result(time=1.0, worker="w", kind="bench", data={"type": "metric"}),
        RunEnded(time=1.0, worker="w", state="succeeded"),
    ]
    write(path, [Metric(time=1.0, step=1, values={}), *told, Metric(time=1.0, step=2, values={})])
    assert list(next(read_pieces(path, skip=("metric",)))[0]) == told


def test_a_line_beyond_the_limit_is_one_unknown_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetspec_core.events.journal.PIECE_BYTES", 1000)
    monkeypatch.setattr("hetspec_core.events.journal.LONGEST_LINE_BYTES", 5000)
    path = tmp_path / "odd.jsonl"
    log = Log(time=1.0, worker="w", message="x")
    line = log.to_line() + b"\n"
    path.write_bytes(line + b"y" * 20_000 + b"\n" + line + b"z" * 20_000)
    events, offset = read_events(path)
    assert [type(event) for event in events] == [Log, Unknown, Log]
    assert offset == 2 * len(line) + 20_001
    with path.open("ab") as file:
        file.write(b"\n" + line)
    events, offset = read_events(path, offset)
    assert [type(event) for event in events] == [Unknown, Log] and offset == path.stat().st_size


@pytest.mark.timeout(30)
def test_a_journal_that_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(DocumentError, match="no regular file"):
        read_events(tmp_path / "events.jsonl")


def test_a_run_that_was_ended_with_its_dependency_is_read_under_the_name_that_journals_have(tmp_path: Path) -> None:
    path = tmp_path / "desk.jsonl"
    path.write_text('{"type": "waited_in_vain", "time": 1.0, "worker": "queue", "attempt": 2, "run_id": "parent"}\n')
    (event,) = read_events(path)[0]
    assert event == DependencyFailed(time=1.0, worker="queue", attempt=2, run_id="parent")
    assert list(select_events(path, DependencyFailed)) == [event] and list(select_events(path, RunEnded)) == []


def test_a_line_has_null_for_what_is_not_finite_and_reads_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", "worker-0") as journal:
        journal.write(Result(kind="x", data={"a": (1, math.inf), "b": {3: math.nan}, "path": Path("/x")}))
    (event,) = read_events(tmp_path / "events.jsonl")[0]
    assert isinstance(event, Result) and event.data == {"a": [1, None], "b": {"3": None}, "path": "/x"}


@pytest.mark.parametrize("event", [RunEnded(state="succeeded"), Log(message="a line")])
def test_an_appended_event_is_forced_to_disk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: EventBase
) -> None:
    journal = tmp_path / "events.jsonl"
    journal.touch()
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: forced.append(journal.stat().st_size))
    append_event(journal, "desk", event)
    assert forced == [journal.stat().st_size] != [0]
