"""The registry's tables, as numbered migrations that only go forward. It knows SQL, not events.

Everything in here can be made again from the run folders, so a migration that would be costly may drop the rows
instead: the next ingest fills them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from hetspec_core.errors import RunError
from hetspec_core.runs.tables import put_settings

migrations = Migrations("hetspec.registry")


@migrations(name="0001_runs_metrics_results")
def _runs_metrics_results(db: Database) -> None:
    db.execute(
        """
        CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            stage TEXT NOT NULL,
            state TEXT NOT NULL,              -- as the journals say; whether the process lives is asked when reading
            recipe TEXT NOT NULL,
            base TEXT NOT NULL,
            draft TEXT NOT NULL,
            algorithm TEXT NOT NULL,
            spec_hash TEXT NOT NULL,
            parents TEXT NOT NULL,            -- JSON array of run ids
            created REAL NOT NULL,            -- unix seconds
            started REAL,
            ended REAL,
            attempt INTEGER NOT NULL,
            task TEXT NOT NULL,               -- latest progress
            done REAL,
            total REAL,
            unit TEXT NOT NULL,
            step INTEGER,                     -- latest metric
            tokens INTEGER,
            wall_s REAL,
            accept_length REAL,
            speedup REAL,
            error_kind TEXT NOT NULL,
            error_message TEXT NOT NULL,
            error_hint TEXT NOT NULL,
            facts TEXT NOT NULL,              -- JSON of state.RunFacts
            events_offset INTEGER NOT NULL,
            desk_offset INTEGER NOT NULL
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE metrics (
            run_id TEXT NOT NULL,
            name TEXT NOT NULL,
            step INTEGER NOT NULL,
            value REAL,
            tokens INTEGER,
            wall_s REAL,
            PRIMARY KEY (run_id, name, step)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE TABLE results (
            run_id TEXT NOT NULL,
            kind TEXT NOT NULL,
            time REAL NOT NULL,
            data TEXT NOT NULL,               -- JSON
            PRIMARY KEY (run_id, kind)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX runs_created ON runs (created)")


@migrations(name="0002_labels_search_series")
def _labels_search_series(db: Database) -> None:
    """Labels, full-text search, and points that do not repeat the names of their run and metric.

    Journals hold labels that the older version has skipped, so every row is dropped and filled again.
    """
    for table in ("runs", "metrics", "results"):
        db.execute(f"DELETE FROM {table}")
    db.execute("ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'")  # JSON array, sorted
    db.execute("ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE runs ADD COLUMN starred INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE runs ADD COLUMN archived INTEGER NOT NULL DEFAULT 0")
    db.execute("DROP INDEX runs_created")
    db.execute("CREATE INDEX runs_created ON runs (archived, created DESC, run_id DESC)")
    db.execute("DROP TABLE metrics")
    db.execute(
        """
        CREATE TABLE series (
            series_id INTEGER PRIMARY KEY,    -- stands for run and name in `points`; any number will do
            run_id TEXT NOT NULL,
            name TEXT NOT NULL,
            last_step INTEGER,                -- the newest point, so that lists need not look for it
            last_value REAL,
            last_tokens INTEGER,
            last_wall_s REAL,
            UNIQUE (run_id, name)
        )
        """
    )
    db.execute("CREATE INDEX series_name ON series (name, run_id, last_value)")
    db.execute(
        """
        CREATE TABLE points (
            series_id INTEGER NOT NULL,
            step INTEGER NOT NULL,
            value REAL,
            tokens INTEGER,
            wall_s REAL,
            PRIMARY KEY (series_id, step)
        ) WITHOUT ROWID
        """
    )
    db.execute(
        """
        CREATE VIEW metrics AS
        SELECT run_id, name, step, value, tokens, wall_s FROM points JOIN series USING (series_id)
        """
    )
    db.execute(
        """
        CREATE TABLE texts (
            text_id INTEGER PRIMARY KEY,      -- the row number that the search index needs
            run_id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,
            note TEXT NOT NULL,
            tags TEXT NOT NULL,               -- one a line
            config TEXT NOT NULL              -- the spec as JSON; '' when it cannot be read
        )
        """
    )
    db.table("texts").enable_fts(["run_id", "name", "note", "tags", "config"], create_triggers=True)


@migrations(name="0003_settings_quiet_look")
def _settings_quiet_look(db: Database) -> None:
    """Settings by key, so that a filter reads one and not all of them; and what a look at all runs needs, in an index.

    Both follow from what is there, so that no journal is read again.
    """
    db.execute("ALTER TABLE runs ADD COLUMN quiet_after REAL")
    db.execute(
        "UPDATE runs SET quiet_after = ended + 600.0 "
        "WHERE ended IS NOT NULL AND attempt > 0 AND attempt = json_extract(facts, '$.launched')"
    )
    db.execute("CREATE INDEX runs_look ON runs (run_id, name, stage, events_offset, desk_offset, quiet_after)")
    db.execute("CREATE TABLE setting_keys (key_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)")
    db.execute(
        """
        CREATE TABLE settings (
            key_id INTEGER NOT NULL,
            text_id INTEGER NOT NULL,         -- of the run, in `texts`
            value,                            -- of whatever type it has
            PRIMARY KEY (key_id, text_id)
        ) WITHOUT ROWID
        """
    )
    for run_id, config in db.execute("SELECT run_id, config FROM texts").fetchall():
        put_settings(db.conn, run_id, json.loads(config))


@migrations(name="0004_parts_of_work")
def _parts_of_work(db: Database) -> None:
    """Which part of its work a run's progress is of. The runs of before have one part."""
    db.execute("ALTER TABLE runs ADD COLUMN part INTEGER NOT NULL DEFAULT 1")
    db.execute("ALTER TABLE runs ADD COLUMN parts INTEGER NOT NULL DEFAULT 1")


def migrate(db: Database, back_up: Callable[[str], None] = lambda version: None) -> None:
    """Bring the tables up to date, all or nothing; other processes wait meanwhile.

    Args:
        db: the database.
        back_up: called before anything is changed in a database that has tables, with the name of its newest migration.

    Raises:
        RunError: a newer version of HetSpec has written this database.
    """
    if not migrations.pending(db):
        _refuse_newer(db)
        return
    if applied := migrations.applied(db):
        _refuse_newer(db)
        back_up(applied[-1].name)
    db.execute("BEGIN IMMEDIATE")
    try:
        _refuse_newer(db)
        migrations.apply(db)
    except BaseException:
        db.rollback()
        raise
    db.commit()


def _refuse_newer(db: Database) -> None:
    newer = sorted({migration.name for migration in migrations.applied(db)} - _names())
    if newer:
        raise RunError(
            f"the registry was written by a newer version of HetSpec (it has {', '.join(newer)})",
            hint="update HetSpec, or move registry.db away: it is made again from the run folders",
        )


def _names() -> set[str]:
    empty = Database(memory=True)
    try:
        return {migration.name for migration in migrations.pending(empty)}  # of an empty database that is all of them
    finally:
        empty.close()
