"""The registry: an index of all runs in SQLite, filled from their journals.

The journals are the truth. Rows and the byte offsets they stand for change in one transaction, so any number of
processes may ingest at once: nothing is counted twice, nothing is lost, and `rebuild` from the folders gives the same
rows. Each run is taken in by itself: one that cannot be is a row in state `unreadable`, and the others are as they are.
It knows no processes: whether a worker lives is asked by the service.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from hetspec_core.documents import flatten
from hetspec_core.errors import HetSpecError, RunError
from hetspec_core.events import read_pieces
from hetspec_core.events.state import UNREADABLE
from hetspec_core.files import file_size, locked
from hetspec_core.paths import RunPaths, make_folders
from hetspec_core.runs.database import (
    BUSY_TIMEOUT_S,
    identity,
    is_damaged,
    is_locked,
    is_of_one_run,
    open_copy,
    open_database,
    put_aside,
    why_not_usable,
)
from hetspec_core.runs.folders import is_run, run_paths, why_unreadable
from hetspec_core.runs.found import Found
from hetspec_core.runs.look import changed_runs, run_names
from hetspec_core.runs.query import Names, parse_order, parse_query
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow, apply
from hetspec_core.runs.tables import put_labels, put_row, put_settings, put_texts, put_values, remove_all, remove_run
from hetspec_core.runs.thin import Axis, count_points, thin
from hetspec_core.spec.run import read_spec

_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z]+-[a-z0-9]{4}")
_BATCH_RUNS, _BATCH_S = 2000, 2.0  # of one transaction; other processes wait a little longer than that
_PACE_S = 2.0  # before the first line of progress, and between two
_RETRY_S = 60.0  # between looks whether a registry that was locked is free again

log = logging.getLogger("hetspec.registry")
"""Progress of a long look at the run folders, and why the registry cannot be written."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def _healing(
    method: Callable[Concatenate[Registry, Arguments], Answer],
) -> Callable[Concatenate[Registry, Arguments], Answer]:
    """Let a method that meets a damaged database begin again with a new one, filled from the run folders; and one that
    meets a database that cannot be written (full disk, read-only, held by another program) with a copy of its own.
    """

    @functools.wraps(method)
    def healed(self: Registry, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        with self._lock:
            if self._busy:  # called by another method, which begins again as a whole
                return method(self, *args, **kwargs)
            self._busy = True
            try:
                return method(self, *args, **kwargs)
            except sqlite3.DatabaseError as error:
                if is_damaged(error):
                    self._make_again()
                elif self.in_memory or not (why := why_not_usable(error, self.path)):
                    raise
                else:
                    self._go_into_memory(why, error)
                return method(self, *args, **kwargs)
            finally:
                self._busy = False

    return healed


class Registry:
    """The index of the runs below one folder.

    Args:
        path: the database file; made when missing. One that is damaged is put aside and made again.
        runs: the folder of the run folders.

    Attributes:
        in_memory: whether the file cannot be written, so that what is taken in is in a copy of this process.
        trouble: why that is so, as a sentence; empty when it is not.

    Raises:
        RunError: a newer version of HetSpec has written it, or it cannot be opened.
        OSError: its folder cannot be made, and the disk is neither full nor read-only.
    """

    def __init__(self, path: Path, runs: Path) -> None:
        self.path = path
        self.runs = runs
        self._lock = threading.RLock()
        self._busy = False
        self._file: tuple[int, int] | None = None
        self._retry_at: float | None = None
        self.in_memory = False
        self.trouble = ""
        try:
            make_folders(path.parent)
            with locked(
                path.with_suffix(".lock"), patience_s=BUSY_TIMEOUT_S
            ):  # switching to WAL and migrating do not wait for each other
                self._open()
        except OSError as error:
            if not (why := why_not_usable(error, path)):
                raise
            self._go_into_memory(why, error)

    def _open(self) -> None:
        try:
            self._db = open_database(self.path)
        except sqlite3.OperationalError as error:
            if self.path.is_dir() or not (why := why_not_usable(error, self.path)):
                raise RunError(f"the registry {self.path} cannot be opened: {error}") from None
            self._go_into_memory(why, error)
            return
        except sqlite3.DatabaseError:
            put_aside(self.path)
            self._db = open_database(self.path)
        self._file = identity(self.path)

    def _make_again(self) -> None:
        try:
            with locked(self.path.with_suffix(".lock"), patience_s=BUSY_TIMEOUT_S):
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                if identity(self.path) == self._file:  # otherwise another process has made a new one already
                    put_aside(self.path)
                self._open()
        except OSError as error:
            if not (why := why_not_usable(error, self.path)):
                raise
            self._go_into_memory(why, error)
        self.sync_all()

    def _go_into_memory(self, why: str, error: Exception) -> None:
        """Go on with a copy of this process: of what is open, else of what can be read of the file."""
        before = None if not hasattr(self, "_db") else self._db
        source = before.conn if before is not None else self.path if self.path.is_file() else None
        on_disk = not why.startswith("the disk")
        self._db, self.in_memory, self.trouble = open_copy(source, on_disk=on_disk), True, why
        self._retry_at = time.monotonic() + _RETRY_S if is_locked(error) else None
        if before is not None:
            with contextlib.suppress(sqlite3.Error):
                before.close()
        log.warning("%s; this process reads the run folders itself", why)

    def _return_to_file(self) -> None:
        """Use the file again if the program that held it has let it go."""
        if self._retry_at is None or time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + _RETRY_S
        try:
            found = open_database(self.path, patience_s=0.2)
        except (sqlite3.Error, HetSpecError, OSError):
            return
        try:
            found.execute("BEGIN IMMEDIATE")
            found.rollback()
            found.execute("PRAGMA busy_timeout = 2500")
        except sqlite3.Error:
            found.close()
            return
        self._db.close()
        self._db, self.in_memory, self.trouble, self._retry_at = found, False, "", None
        self._file = identity(self.path)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_folders(self) -> list[str]:
        """Ids of the run folders on disk, in order."""
        return [name for name in run_names(self.runs) if is_run(self.paths(name))]

    def paths(self, run_id: str) -> RunPaths:
        """File names of a run."""
        return run_paths(self.runs, run_id)

    @_healing
    def sync(self, run_id: str) -> RunRow | None:
        """Take in what is new in the journals of one run.

        Returns:
            Its row; None when there is no such folder (any more).
        """
        paths = self.paths(run_id)
        row = self.row(run_id)
        if row is not None and self._has_nothing_new(row, paths):
            return row
        with self._transaction():
            return self._take_in(run_id)

    def _has_nothing_new(self, row: RunRow, paths: RunPaths) -> bool:
        if row.state == UNREADABLE:
            if why := why_unreadable(paths):
                return why == row.error_message and is_run(paths)
            if not (row.events_offset or row.desk_offset):
                return False
        try:
            return (file_size(paths.events), file_size(paths.desk)) == (row.events_offset, row.desk_offset)
        except OSError:
            return False

    @_healing
    def sync_all(self) -> None:
        """Take in what is new in every run folder, as `look` finds it, and forget the runs whose folders are gone.

        Many new folders are taken in by large transactions, with a line of progress in the log every two seconds.
        """
        self._return_to_file()
        sql = "SELECT run_id, events_offset, desk_offset, quiet_after < ? FROM runs"
        known = {run_id: (events, desk, quiet) for run_id, events, desk, quiet in self._rows(sql, time.time())}
        unreadable = dict(self._rows("SELECT run_id, error_message FROM runs WHERE state = ?", UNREADABLE))
        self._take_in_all([name for name in changed_runs(self.runs, known) if self._is_due(name, known, unreadable)])

    def _is_due(self, run_id: str, known: Collection[str], unreadable: dict[str, str]) -> bool:
        """Whether a folder with something new has to be taken in: it is or was a run, and is not as unreadable as
        before.
        """
        paths = self.paths(run_id)
        if not is_run(paths):
            return run_id in known
        return run_id not in unreadable or unreadable[run_id] != (why_unreadable(paths) or None)

    @_healing
    def rebuild(self) -> int:
        """Empty all tables and fill them from the run folders, in one transaction.

        Returns:
            How many runs there are.
        """
        with self._transaction():
            remove_all(self._db.conn)
            rows = [self._take_in(run_id) for run_id in _told(self.run_folders())]
        return sum(row is not None for row in rows)

    @_healing
    def row(self, run_id: str) -> RunRow | None:
        """The row of a run as it was last taken in."""
        found = self._query("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        return RunRow.from_columns(found[0]) if found else None

    @_healing
    def rows(self, *, stage: str | None = None) -> list[RunRow]:
        """All runs, or those of one stage, newest first."""
        where, values = ("WHERE stage = ?", (stage,)) if stage else ("", ())
        found = self._query(f"SELECT * FROM runs {where} ORDER BY created DESC, run_id DESC", values)
        return [RunRow.from_columns(columns) for columns in found]

    @_healing
    def names(self) -> list[RunName]:
        """Ids, names and stages of all runs, in the order of their ids."""
        return [RunName(*found) for found in self._rows("SELECT run_id, name, stage FROM runs ORDER BY run_id")]

    @_healing
    def find(
        self,
        words: Sequence[str] = (),
        *,
        sort: str = "created",
        archived: bool = False,
        waiting: Collection[str] = (),
    ) -> Found:
        """The runs that a query asks for, as in `query`.

        Args:
            words: the query; all runs when empty.
            sort: column, metric or setting, `:asc` or `:desc` behind it.
            archived: whether archived runs count too.
            waiting: ids of runs that are queued, whatever their journals say.

        Raises:
            UsageError: the query or the order cannot be understood.
        """
        names = Names(self.metric_names, self.setting_keys)
        where = parse_query(words, names, archived=archived, waiting=waiting)
        order, values = parse_order(sort, names)
        sql = f"SELECT run_id FROM runs WHERE {' AND '.join(where.sql) or '1'} ORDER BY {order}"
        ids = [run_id for (run_id,) in self._rows(sql, *where.values, *values)]
        return Found(ids, where.accepts, self.rows_of)

    @_healing
    def rows_of(self, run_ids: Sequence[str]) -> list[RunRow]:
        """The rows of some runs as they were last taken in, in this order; an id that is not there is left out."""
        marks = ", ".join("?" * len(run_ids))
        found = self._query(f"SELECT * FROM runs WHERE run_id IN ({marks})", run_ids)
        rows = {columns["run_id"]: RunRow.from_columns(columns) for columns in found}
        return [rows[run_id] for run_id in run_ids if run_id in rows]

    @_healing
    def select(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Rows of a question in SQL, for the other modules of this package."""
        return self._query(sql, values)

    @_healing
    def metric_names(self, run_id: str | None = None) -> list[str]:
        """Names of all metrics, or of those of one run."""
        where, values = ("", ()) if run_id is None else ("WHERE run_id = ?", (run_id,))
        return [row["name"] for row in self._query(f"SELECT DISTINCT name FROM series {where} ORDER BY name", values)]

    @_healing
    def setting_keys(self) -> set[str]:
        """Dotted keys of the settings of all runs."""
        sql = "SELECT name FROM setting_keys k WHERE EXISTS (SELECT 1 FROM settings s WHERE s.key_id = k.key_id)"
        return {name for (name,) in self._rows(sql)}

    @_healing
    def lineage(self) -> dict[str, tuple[str, ...]]:
        """Run id -> ids of the runs that it stands on, for all runs that stand on any."""
        found = self._query("SELECT run_id, parents FROM runs WHERE parents != '[]' ORDER BY created, run_id")
        return {row["run_id"]: tuple(json.loads(row["parents"])) for row in found}

    @_healing
    def curve(self, run_id: str, name: str, *, most: int | None = None, axis: Axis = "step") -> list[MetricPoint]:
        """The points of one metric, by step.

        Args:
            run_id: of the run.
            name: of the metric.
            most: give about so many at most, as in `thin`; all when absent.
            axis: along which they are thinned evenly.
        """
        with self._series(run_id, name) as (connection, series):
            if most is not None and count_points(connection, series) > max(most, 4):
                points = thin(connection, series, most, axis)
            else:
                sql = "SELECT step, value, tokens, wall_s FROM points WHERE series_id = ? ORDER BY step"
                points = connection.execute(sql, (series,)).fetchall()
        return [MetricPoint(name, step, value, tokens, wall_s) for step, value, tokens, wall_s in points]

    @_healing
    def count_points(self, run_id: str, name: str) -> int:
        """How many points a metric has."""
        with self._series(run_id, name) as (connection, series):
            return count_points(connection, series)

    @contextlib.contextmanager
    def _series(self, run_id: str, name: str) -> Iterator[tuple[sqlite3.Connection, int]]:
        """The number of a series, -1 when there is none, in a transaction: a rebuild gives numbers to others."""
        connection = self._db.conn
        with self._lock:
            connection.execute("BEGIN")
            try:
                sql = "SELECT series_id FROM series WHERE run_id = ? AND name = ?"
                found = connection.execute(sql, (run_id, name)).fetchone()
                yield connection, -1 if found is None else found[0]
            finally:
                connection.rollback()

    @_healing
    def last_metrics(self, run_id: str) -> list[MetricPoint]:
        """The newest point of every metric of a run, by name."""
        sql = (
            "SELECT name, last_step AS step, last_value AS value, last_tokens AS tokens, last_wall_s AS wall_s "
            "FROM series WHERE run_id = ? ORDER BY name"
        )
        return [MetricPoint(**columns) for columns in self._query(sql, (run_id,))]

    @_healing
    def config(self, run_id: str) -> dict[str, Any]:
        """Settings of a run by dotted key; empty when its spec cannot be read by this version."""
        found = self._query("SELECT config FROM texts WHERE run_id = ?", (run_id,))
        return flatten(json.loads(found[0]["config"])) if found else {}

    @_healing
    def results(self, run_id: str) -> dict[str, Any]:
        """Data of the run's results, by kind."""
        found = self._query("SELECT kind, data FROM results WHERE run_id = ? ORDER BY kind", (run_id,))
        return {columns["kind"]: json.loads(columns["data"]) for columns in found}

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.conn.execute(sql, values).fetchall()

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._db.query(sql, values))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")  # write lock first: the offset read inside stays true until the commit
            try:
                yield
            except BaseException:
                self._db.rollback()
                raise
            self._db.commit()

    def _take_in_all(self, run_ids: Sequence[str]) -> None:
        """Take in many runs, by transactions of a second at most, so that other processes can write meanwhile."""
        waiting = iter(_told(run_ids))
        run_id = next(waiting, None)
        while run_id is not None:
            limit = time.monotonic() + _BATCH_S
            with self._transaction():
                for _ in range(_BATCH_RUNS):
                    self._take_in(run_id)
                    run_id = next(waiting, None)
                    if run_id is None or time.monotonic() > limit:
                        break

    def _take_in(self, run_id: str) -> RunRow | None:
        """Take in one run, in a transaction. Whatever is wrong with its folder makes an unreadable row of it alone.

        Returns:
            Its row; None when there is no such folder.
        """
        connection = self._db.conn
        paths = self.paths(run_id)
        if not is_run(paths):
            remove_run(connection, run_id)
            return None
        if why := why_unreadable(paths):
            return self._put_unreadable(paths, run_id, why)
        connection.execute("SAVEPOINT one_run")
        try:
            row = self._ingest(paths, run_id)
        except Exception as error:  # a journal of others may hold anything
            if isinstance(error, sqlite3.Error) and not is_of_one_run(error):
                raise
            connection.execute("ROLLBACK TO one_run")
            row = self._put_unreadable(paths, run_id, _reason(error))
        connection.execute("RELEASE one_run")
        return row

    def _put_unreadable(self, paths: RunPaths, run_id: str, why: str) -> RunRow:
        """Make the row of a run that cannot be read; it is tried again when a journal has grown, or can be opened."""
        connection = self._db.conn
        remove_run(connection, run_id)
        created, sizes = 0.0, (0, 0)
        with contextlib.suppress(OSError):  # a folder that may not be entered still has its own time
            created = paths.folder.stat().st_mtime
            sizes = (file_size(paths.events), file_size(paths.desk))
        row = RunRow.unreadable(run_id, why, created)
        if not why_unreadable(paths):  # its files can be opened: what is in them is at fault
            row = replace(row, events_offset=sizes[0], desk_offset=sizes[1])
        put_row(connection, row)
        put_texts(connection, row, "{}")
        return row

    def _ingest(self, paths: RunPaths, run_id: str) -> RunRow:
        connection = self._db.conn
        row, config, settings = self.row(run_id), None, {}
        if row is not None and (row.state == UNREADABLE or _is_shorter(paths, row)):
            row = None  # what is in the tables may never have been
        if row is None:
            remove_run(connection, run_id)
            row, settings = _first_row(paths, run_id)
            config = json.dumps(settings, ensure_ascii=False)
        before = row
        for events, offset in read_pieces(paths.desk, row.desk_offset):
            change = apply(row, events)
            row = replace(change.row, desk_offset=offset)
            put_values(connection, run_id, change)
        for events, offset in read_pieces(paths.events, row.events_offset):
            change = apply(row, events)
            row = replace(change.row, events_offset=offset)
            put_values(connection, run_id, change)
        put_row(connection, row)
        if config is not None:
            put_texts(connection, row, config)
            put_settings(connection, run_id, settings)
        elif (before.note, before.tags) != (row.note, row.tags):
            put_labels(connection, row)
        return row


def _told(run_ids: Sequence[str]) -> Iterator[str]:
    """The same, with a line in the log every two seconds."""
    due = time.monotonic() + _PACE_S
    for number, run_id in enumerate(run_ids):
        if time.monotonic() >= due:
            log.info("reading run folders: %s of %s", f"{number:,}", f"{len(run_ids):,}")
            due = time.monotonic() + _PACE_S
        yield run_id


def _reason(error: Exception) -> str:
    """Why a run could not be taken in, in a few words."""
    if isinstance(error, HetSpecError):
        return error.message
    if isinstance(error, OSError):
        name = Path(str(error.filename)).name if error.filename else ""
        return f"{name}: {error.strerror}".lower().removeprefix(": ") if error.strerror else str(error)
    return f"{type(error).__name__}: {error}"[:200]


def _first_row(paths: RunPaths, run_id: str) -> tuple[RunRow, dict[str, Any]]:
    """The row of a run that has said nothing yet, and its settings."""
    created = paths.spec.stat().st_mtime
    try:
        spec = read_spec(paths.spec)
    except HetSpecError:
        return RunRow.of_spec(run_id, None, created), {}
    config = spec.model_dump(mode="json", exclude_none=True)
    row = RunRow.of_spec(run_id, spec, created)
    parents = dict.fromkeys([*spec.parents, *_runs_named(config)])
    parents.pop(run_id, None)
    return replace(row, parents=tuple(parents)), config


def _runs_named(config: dict[str, Any]) -> Iterator[str]:
    """Ids of the runs whose folders the settings name as a dataset, a draft or a base."""
    for value in flatten(config).values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "/" in text:
                yield from (part for part in text.split("/") if _RUN_ID.fullmatch(part))


def _is_shorter(paths: RunPaths, row: RunRow) -> bool:
    """Whether a journal has become shorter than what was taken in of it."""
    return file_size(paths.desk) < row.desk_offset or file_size(paths.events) < row.events_offset
