"""What may happen to a registry and its run folders without a run being lost."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.events import Journal, Marked, Metric, Progress, RunEnded, RunStarted, Submitted
from hetspec_core.runs import Registry
from tests.fakes.registries import STARTED, dump, make_run, metric, open_registry, say


def overwrite_pages(path: Path) -> None:
    """Spoil everything but the first page, which alone is read when a database is opened."""
    raw = bytearray(path.read_bytes())
    raw[4096:] = random.Random(0).randbytes(len(raw) - 4096)
    path.write_bytes(raw)


def fill(home: Path, runs: int) -> None:
    for number in range(runs):
        say(make_run(home, f"r{number}").events, STARTED, *(metric(step, loss=1.0) for step in range(50)))
    with open_registry(home) as registry:
        registry.sync_all()


def test_a_registry_damaged_in_the_middle_is_put_aside_and_filled_again(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    overwrite_pages(tmp_path / "registry.db")
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert [row.run_id for row in registry.rows()] == [f"r{number}" for number in range(4, -1, -1)]
        assert len(registry.curve("r3", "loss")) == 50
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live
    assert len([path for path in tmp_path.glob("registry.db.damaged-*") if path.suffix not in ("-wal", "-shm")]) >= 1


def test_a_registry_damaged_while_it_is_open_is_made_again_once_by_two_desks(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    first, second = open_registry(tmp_path), open_registry(tmp_path)
    overwrite_pages(tmp_path / "registry.db")
    for registry in (first, second):
        registry._db.execute("PRAGMA cache_size = 0")
        assert len(registry.rows()) == 3
        registry.sync_all()
        assert len(registry.find(["some"]).run_ids) == 3
    first.close()
    second.close()


def test_a_registry_deleted_under_an_open_desk_comes_back(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with open_registry(tmp_path):
        for path in tmp_path.glob("registry.db*"):
            path.unlink()
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert len(registry.rows()) == 2


def test_a_clock_that_jumps_back_leaves_order_and_labels_as_they_were_said(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    say(
        paths.desk,
        Marked(time=5000.0, note="first", starred=True),
        Marked(time=3.0, note="second", add_tags=("b", "a")),
    )
    say(paths.desk, Marked(time=9000.0, remove_tags=("b",)))
    say(paths.events, RunStarted(time=9e9, stage="train", pid=1, host="h", birth="b"))
    say(paths.events, Metric(time=1.0, step=2, values={"loss": 1.0}), Metric(time=0.5, step=1, values={"loss": 2.0}))
    say(paths.events, RunEnded(time=7.0, state="succeeded"))
    with open_registry(tmp_path) as registry:
        row = registry.sync("r1")
        assert row is not None and (row.state, row.note, row.tags, row.starred) == ("succeeded", "second", ("a",), True)
        assert [point.step for point in registry.curve("r1", "loss")] == [1, 2]
        assert registry.last_metrics("r1")[0].value == 1.0
        assert registry.find(["took>1d"]).run_ids == []
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live


WHOLE = (
    RunStarted(time=1.0, stage="train", pid=1, host="h", birth="b"),
    Progress(time=2.0, task="t", done=1, total=2),
    Metric(time=3.0, step=1, values={"loss": 1.0, "accept_length": 2.0}),
    Metric(time=4.0, step=2, values={"loss": None}),
    RunEnded(time=5.0, state="failed"),
)


@settings(max_examples=40)
@given(data=st.data(), zeros=st.booleans())
def test_a_run_folder_copied_at_any_instant_opens_and_can_be_labelled(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, zeros: bool
) -> None:
    home = tmp_path_factory.mktemp("home")
    paths = make_run(home, "r1")
    say(paths.desk, Marked(time=2.0, add_tags=("früh",)))
    say(paths.events, *WHOLE)
    for journal in (paths.desk, paths.events):  # a length that the disk knows of already, and bytes that it has not
        raw = journal.read_bytes()
        kept = data.draw(st.integers(0, len(raw)))
        journal.write_bytes(raw[:kept] + (b"\0" * 40 if zeros else b""))
    if data.draw(st.booleans()):
        paths.desk.unlink()
    with open_registry(home) as registry:
        registry.sync_all()
        row = registry.row("r1")
        assert row is not None and row.name == "some"
        with Journal(paths.desk, "desk") as desk:
            desk.write(Marked(add_tags=("late",)))
        with Journal(paths.events, "worker-0") as journal:
            journal.write(Metric(step=7, values={"loss": 3.0}))
        row = registry.sync("r1")
        assert row is not None and "late" in row.tags
        assert registry.curve("r1", "loss")[-1].step == 7
        live = dump(home)
        registry.rebuild()
        assert dump(home) == live
    shutil.rmtree(home)


def _work(home: str, number: int, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    for turn in range(15):
        with Registry(Path(home) / "registry.db", Path(home) / "runs") as registry:
            registry.sync_all()
            registry.find(["some", "loss>=0"], sort="loss") if turn else None
            run = Path(home) / "runs" / f"r{number % 5}"
            say(run / "desk.jsonl", Marked(add_tags=(f"tag-{number}-{turn}",)))
            say(run / "events.jsonl", metric(number * 100 + turn, loss=float(turn)))
            registry.sync(run.name)
            if number == 0 and turn % 5 == 0:
                registry.rebuild()


def test_ten_processes_label_list_search_and_rebuild_at_once(tmp_path: Path) -> None:
    for number in range(5):
        say(make_run(tmp_path, f"r{number}").events, STARTED, metric(0, loss=1.0))
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(10)
    people = [fork.Process(target=_work, args=(str(tmp_path), number, barrier)) for number in range(10)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [person.exitcode for person in people] == [0] * 10
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert sum(len(row.tags) for row in registry.rows()) == 150
        assert sum(len(registry.curve(row.run_id, "loss")) for row in registry.rows()) == 150 + 4
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live
    connection = sqlite3.connect(tmp_path / "registry.db")
    connection.execute("INSERT INTO texts_fts(texts_fts, rank) VALUES ('integrity-check', 1)")  # raises when it is not
    connection.close()


def test_a_curve_is_thinned_without_losing_its_ends_and_peaks(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    values = [1.0] * 1000
    values[333], values[777] = 50.0, -50.0
    say(paths.events, STARTED, *(metric(step, loss=value) for step, value in enumerate(values)))
    with open_registry(tmp_path) as registry:
        registry.sync("r1")
        thin = registry.curve("r1", "loss", most=60)
        assert len(thin) <= 62
        assert [point.step for point in thin] == sorted({point.step for point in thin})
        assert (thin[0].step, thin[-1].step) == (0, 999)
        assert {(333, 50.0), (777, -50.0)} <= {(point.step, point.value) for point in thin}
        assert len(registry.curve("r1", "loss", most=5000)) == 1000


def test_parents_are_those_named_and_those_whose_folders_are_used(tmp_path: Path) -> None:
    from hetspec_core.spec.run import to_toml
    from tests.fakes.specs import small_spec

    used = "20261123-215959-dataset-k3f9"
    spec = small_spec("child")
    training = spec.training.model_copy(update={"datasets": (f"/home/x/runs/{used}/hidden_states",)})
    paths = make_run(tmp_path, "r1")
    paths.spec.write_text(to_toml(spec.model_copy(update={"training": training, "parents": ("named",)})))
    say(paths.desk, Submitted(time=1.0))
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert registry.lineage() == {"r1": ("named", used)}
