"""The registry's tables change forwards only, all or nothing, and with a copy of what was there before."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlite_utils import Database

from hetspec_core.events import Launched, Metric, RunEnded, RunStarted
from hetspec_core.runs import Registry, schema
from tests.fakes.registries import STARTED, dump, make_run, open_registry, say

SECOND = "0002_labels_search_series"


def make_old(path: Path) -> None:
    """A registry as the first version made it, with a run in it."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        schema.migrations.apply(Database(connection), stop_before=SECOND)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        marks = ", ".join("?" * len(columns))
        connection.execute(f"INSERT INTO runs VALUES ({marks})", ["r1", *["0"] * (len(columns) - 1)])
    connection.close()


def test_an_old_registry_is_copied_changed_and_filled_again(tmp_path: Path) -> None:
    say(make_run(tmp_path, "r1").events, STARTED, Metric(step=1, values={"loss": 2.0}))
    make_old(tmp_path / "registry.db")
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert [(row.run_id, row.state) for row in registry.rows()] == [("r1", "running")]
        assert registry.curve("r1", "loss")[0].value == 2.0
        assert registry.find(["some"]).run_ids == ["r1"]
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live
    (copy,) = tmp_path.glob("registry.db.backup-*")
    assert copy.name == "registry.db.backup-0001_runs_metrics_results"
    old = sqlite3.connect(copy)
    assert old.execute("SELECT run_id FROM runs").fetchall() == [("r1",)]
    assert old.execute("SELECT COUNT(*) FROM metrics").fetchone() == (0,)
    old.close()


def test_the_third_version_follows_from_the_second_without_reading_a_journal_again(tmp_path: Path) -> None:
    paths = make_run(tmp_path, "r1")
    process = {"pid": 1, "host": "h", "birth": "b"}
    say(paths.desk, Launched(time=1.0, attempt=1, **process))
    say(paths.events, RunStarted(time=2.0, stage="train", **process), RunEnded(time=3.0, state="failed"))
    say(make_run(tmp_path, "r2").events, STARTED)
    with open_registry(tmp_path) as registry:
        registry.sync_all()
    now = dump(tmp_path)
    with sqlite3.connect(tmp_path / "registry.db", isolation_level=None) as connection:  # as the second version left it
        connection.executescript(
            "DROP INDEX runs_look; ALTER TABLE runs DROP COLUMN quiet_after; DROP TABLE settings; "
            "ALTER TABLE runs DROP COLUMN part; ALTER TABLE runs DROP COLUMN parts; "
            "DROP TABLE setting_keys; DELETE FROM _sqlite_migrations WHERE name >= '0003'"
        )
    connection.close()
    with open_registry(tmp_path) as registry:
        assert dump(tmp_path) == now
        assert registry.find(["training.optimizer.lr>0"]).run_ids == ["r2", "r1"]
        registry.rebuild()
    assert dump(tmp_path) == now
    assert [path.name for path in tmp_path.glob("registry.db.backup-*")] == [f"registry.db.backup-{SECOND}"]


def test_a_change_that_fails_leaves_the_tables_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(tmp_path / "registry.db")

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk full in the middle")

    from sqlite_utils.db import Table

    with monkeypatch.context() as patched:
        patched.setattr(Table, "enable_fts", fail)
        with pytest.raises(Exception, match="disk full"):
            open_registry(tmp_path)
    connection = sqlite3.connect(tmp_path / "registry.db")
    assert connection.execute("SELECT run_id FROM runs").fetchall() == [("r1",)]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert "metrics" in tables and "series" not in tables
    connection.close()
    open_registry(tmp_path).close()


def test_the_search_index_is_made_inside_the_transaction(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    db = Database(connection)
    connection.execute("BEGIN IMMEDIATE")
    schema.migrations.apply(db)
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()


def test_a_new_registry_needs_no_copy(tmp_path: Path) -> None:
    Registry(tmp_path / "registry.db", tmp_path / "runs").close()
    assert list(tmp_path.glob("*backup*")) == []
