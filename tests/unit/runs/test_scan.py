"""What a scan of all run folders must not miss, though it does not look at every file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.events import EndState, Event, Launched, Log, Marked, RunEnded, RunStarted, WorkerEnded
from hetspec_core.runs.folders import changed_runs
from tests.fakes.registries import dump, make_run, metric, open_registry, say


def attempt(number: int, *, end: EndState | None) -> list[tuple[str, Event]]:
    """What is said in the two journals about one attempt long ago, in the order in which it is said."""
    process = {"pid": 1, "host": "nowhere.example", "birth": "b"}
    said: list[tuple[str, Event]] = [
        ("desk", Launched(time=1.0, attempt=number, **process)),
        ("events", RunStarted(time=2.0, stage="train", attempt=number, **process)),
        ("events", metric(number, loss=float(number))),
    ]
    if end is not None:
        said.append(("events", RunEnded(time=3.0, state=end)))
    return [*said, ("desk", WorkerEnded(time=4.0, attempt=number, name="worker-0", exit_status=0))]


@settings(max_examples=25)
@given(
    ends=st.lists(st.sampled_from([None, "failed", "cancelled", "succeeded"]), min_size=1, max_size=2), data=st.data()
)
def test_no_word_of_an_attempt_is_missed_whenever_the_looks_are(
    tmp_path_factory: pytest.TempPathFactory, ends: list[str | None], data: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("home")
    runs = {name: [one for number, end in enumerate(ends, 1) for one in attempt(number, end=end)] for name in "ab"}
    paths = {name: make_run(home, name) for name in runs}
    with open_registry(home) as registry:
        while any(runs.values()):
            name = data.draw(st.sampled_from([name for name, left in runs.items() if left]))
            if data.draw(st.integers(0, 4)) == 0:
                say(paths[name].desk, Marked(time=5.0, add_tags=(f"tag{len(runs[name])}",)))
            journal, event = runs[name].pop(0)
            say(getattr(paths[name], journal), event)
            if data.draw(st.booleans()):
                registry.sync_all()
        registry.sync_all()
        live = dump(home)
        registry.rebuild()
        assert dump(home) == live
    shutil.rmtree(home)


def test_a_run_that_has_ended_is_looked_at_by_one_file_until_that_grows(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    for journal, event in attempt(1, end="failed"):
        say(getattr(paths, journal), event)
    with open_registry(tmp_path) as registry:
        row = registry.sync("r1")
        assert row is not None and row.quiet_after == 603.0
        known = {"r1": (row.events_offset, row.desk_offset, 1)}
        say(paths.events, Log(message="nobody writes here now"))
        assert list(changed_runs(registry.runs, known)) == []
        assert list(changed_runs(registry.runs, {"r1": (*known["r1"][:2], 0)})) == ["r1"]
        say(paths.desk, Launched(attempt=2, pid=1, host="h", birth="b"))
        assert list(changed_runs(registry.runs, known)) == ["r1"]
        registry.sync_all()
        row = registry.row("r1")
        assert row is not None and row.quiet_after is None and row.events_offset == paths.events.stat().st_size


@pytest.mark.parametrize("supervised", [True, False])
def test_a_run_without_a_supervisor_is_looked_at_for_ever(tmp_path: Path, supervised: bool) -> None:
    paths = make_run(tmp_path, "r1")
    for journal, event in attempt(1, end="succeeded"):
        if supervised or not isinstance(event, Launched):
            say(getattr(paths, journal), event)
    with open_registry(tmp_path) as registry:
        row = registry.sync("r1")
        assert row is not None and (row.quiet_after is not None) == supervised


def test_new_and_missing_folders_are_found_by_name(tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        make_run(tmp_path, name)
    (tmp_path / "runs" / ".new-r3").mkdir()
    (tmp_path / "runs" / "readme.txt").write_text("x")
    known = {"r1": (0, (tmp_path / "runs/r1/desk.jsonl").stat().st_size, None), "gone": (5, 5, 1)}
    assert list(changed_runs(tmp_path / "runs", known)) == ["r2", "readme.txt", "gone"]
    assert list(changed_runs(tmp_path / "nowhere", known)) == ["gone", "r1"]
