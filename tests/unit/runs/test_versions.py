"""A registry of another version is set aside and built again from the run folders, with everything that was noted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hetspec_core.events import Marked, Metric
from hetspec_core.runs import Registry
from hetspec_core.runs.tables import VERSION
from tests.fakes.registries import STARTED, deny_writes, dump, make_run, open_registry, say

MIGRATED = """
CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT);
INSERT INTO _sqlite_migrations VALUES (1, 'hetspec.registry', '0001_runs_metrics_results', '2026-11-01');
CREATE TABLE runs (run_id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO runs VALUES ('r1', 'as it was');
CREATE TABLE metrics (run_id TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL);
"""
"""The beginning of the registries that were made by numbered migrations and have no `user_version`."""
NEWER = f"CREATE TABLE everything (data BLOB); PRAGMA user_version = {VERSION + 1};"
HALF_MADE = "CREATE TABLE runs (run_id TEXT PRIMARY KEY) WITHOUT ROWID;"


def write_database(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(script)
    connection.close()


@pytest.mark.parametrize(
    ("script", "kept"),
    [(MIGRATED, "version-0"), (NEWER, f"version-{VERSION + 1}"), (HALF_MADE, "version-0")],
    ids=["migrated", "newer", "half made"],
)
def test_a_registry_of_another_version_is_set_aside_and_no_note_or_tag_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str, kept: str
) -> None:
    paths = make_run(tmp_path, "r1")
    say(paths.events, STARTED, Metric(step=1, values={"loss": 2.0}))
    say(paths.desk, Marked(note="for the paper", add_tags=("best", "first"), starred=True))
    say(paths.desk, Marked(remove_tags=("first",)))
    say(make_run(tmp_path, "r2").desk, Marked(archived=True))
    write_database(tmp_path / "registry.db", script)
    with open_registry(tmp_path) as registry, caplog.at_level("WARNING", "hetspec.registry"):
        registry.sync_all()
        first, second = registry.row("r1"), registry.row("r2")
        assert first is not None and second is not None
        assert (first.state, first.note, first.tags, first.starred) == ("running", "for the paper", ("best",), True)
        assert second.archived
        assert registry.curve("r1", "loss")[0].value == 2.0
        assert registry.find(["tag:best", "paper"]).run_ids == ["r1"]
        live = dump(tmp_path)
        registry.rebuild()
        assert dump(tmp_path) == live
    aside = tmp_path / f"registry.db.{kept}"
    (told,) = caplog.messages
    assert "another version" in told and str(aside) in told
    connection = sqlite3.connect(aside)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('runs', 'everything')").fetchone()
    connection.close()
    assert tables == 1


def test_a_registry_that_is_set_aside_again_replaces_the_earlier_one(tmp_path: Path) -> None:
    for _ in range(2):
        for part in ("", "-wal", "-shm"):
            (tmp_path / f"registry.db{part}").unlink(missing_ok=True)
        write_database(tmp_path / "registry.db", MIGRATED)
        open_registry(tmp_path).close()
    assert [path.name for path in sorted(tmp_path.glob("registry.db.*")) if path.suffix == ".version-0"] == [
        "registry.db.version-0"
    ]


def test_a_registry_of_another_version_that_cannot_be_replaced_is_left_alone(stranger: Path) -> None:
    say(make_run(stranger, "r1").desk, Marked(note="for the paper"))
    path = stranger / "registry.db"
    write_database(path, MIGRATED)
    deny_writes(stranger)
    with open_registry(stranger) as registry:
        registry.sync_all()
        row = registry.row("r1")
        assert row is not None and row.note == "for the paper"
        assert registry.in_memory and "cannot be written" in registry.trouble
    assert [entry.name for entry in stranger.glob("registry.db.*")] == []


def test_tables_that_were_made_are_left_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_run(tmp_path, "r1")
    with open_registry(tmp_path) as registry, caplog.at_level("INFO", "hetspec.registry"):
        registry.sync_all()
    with Registry(tmp_path / "registry.db", tmp_path / "runs") as registry:
        assert [row.run_id for row in registry.rows()] == ["r1"]
    assert caplog.messages == []
    assert sorted(path.name for path in tmp_path.glob("registry*")) == ["registry.db", "registry.lock"]
