"""The registry: an index of all runs in SQLite, filled from their journals.

The journals are the truth. Rows and the byte offsets they stand for change in one transaction, so any number of
processes may take runs in at once: nothing is counted twice, nothing is lost, and `rebuild` from the folders gives the
same rows. Whether the process of a run lives is asked by the service.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from hetspec_core.documents import flatten
from hetspec_core.errors import RunError
from hetspec_core.events import UNFINISHED
from hetspec_core.events.state import UNREADABLE, RunState
from hetspec_core.files import locked
from hetspec_core.paths import make_folders
from hetspec_core.runs.database import (
    BUSY_TIMEOUT_S,
    Obstacle,
    damage_stamp,
    describe,
    identity,
    is_damaged,
    log,
    obstacle_of,
    open_copy,
    open_database,
    open_or_replace,
    set_aside,
)
from hetspec_core.runs.folders import changed_runs, is_run, run_names, run_paths, why_unreadable
from hetspec_core.runs.ingest import has_news, take_in, with_progress
from hetspec_core.runs.query import Names, parse_order, parse_query
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow
from hetspec_core.runs.tables import Axis, OtherVersionError, count_points, downsample, remove_all

if TYPE_CHECKING:
    from sqlite_utils import Database

_BATCH_RUNS, _BATCH_S = 2000, 2.0  # of one transaction; other processes wait a little longer than that
_RETRY_S = 60.0  # between attempts to use a file again that was locked
_PAGE = 100
_MOST_UNFINISHED = 500  # more than that are left from a machine that went down

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """Runs in the order asked for; their rows are read as they are asked for.

    Attributes:
        run_ids: of the runs, as far as the registry can tell.
        accepts: whether a run that is in this state now is one of them; the caller asks whether processes live.
        read: gives the rows of some ids.
    """

    run_ids: list[str]
    accepts: Callable[[RunState], bool]
    read: Callable[[Sequence[str]], list[RunRow]]

    def __iter__(self) -> Iterator[RunRow]:
        for start in range(0, len(self.run_ids), _PAGE):
            yield from self.read(self.run_ids[start : start + _PAGE])


@dataclass(frozen=True)
class Census:
    """All runs that are not archived.

    Attributes:
        counts: state -> how many, as the journals say.
        unfinished: those without an event of their end, oldest first.
        ended: those that ended last, newest first.
        failed: the newest ones that failed, are known to be lost, or cannot be read, newest first.
    """

    counts: dict[str, int]
    unfinished: list[RunRow]
    ended: list[RunRow]
    failed: list[RunRow]


def _healing(
    method: Callable[Concatenate[Registry, Arguments], Answer],
) -> Callable[Concatenate[Registry, Arguments], Answer]:
    """Let a method that meets a damaged database begin again with a new one, filled from the run folders; and one that
    meets a database that cannot be written (full disk, read-only, held by another process) with a private copy.
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
                    self._open(damaged=True)
                    self.sync_all()
                elif self.in_memory or not (obstacle := obstacle_of(error)):
                    raise
                else:
                    self._use_copy(obstacle)
                return method(self, *args, **kwargs)
            finally:
                self._busy = False

    return healed


class Registry:
    """The index of the runs below one folder.

    Args:
        path: the database file; made when missing. One that is damaged or of another version is set aside and replaced.
        runs: the folder of the run folders.

    Attributes:
        in_memory: whether the file cannot be written, so that a private copy takes runs in.
        trouble: why that is so, as a sentence; empty when it is not.

    Raises:
        RunError: it cannot be opened.
        OSError: its folder cannot be made, and the disk is neither full nor read-only.
    """

    _db: Database

    def __init__(self, path: Path, runs: Path) -> None:
        self.path = path
        self.runs = runs
        self._lock = threading.RLock()
        self._busy = False
        self._file: tuple[int, int] | None = None
        self._open()

    def _open(self, *, damaged: bool = False) -> None:
        """Open the file, or a copy when it cannot be written. One that is open and `damaged` is set aside before."""
        try:
            make_folders(self.path.parent)
            with locked(self.path.with_suffix(".lock"), patience_s=BUSY_TIMEOUT_S):  # one process makes the tables
                if damaged:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.close()
                    if identity(self.path) == self._file:  # otherwise another process has replaced it already
                        set_aside(self.path, damage_stamp())
                self._use_file(open_or_replace(self.path))
        except (sqlite3.OperationalError, OSError) as error:
            if not self.path.is_dir() and (obstacle := obstacle_of(error)):
                self._use_copy(obstacle)
            elif isinstance(error, OSError):
                raise
            else:
                raise RunError(f"the registry {self.path} cannot be opened: {error}") from None

    def _use_file(self, db: Database) -> None:
        self._db, self._file = db, identity(self.path)
        self.in_memory, self.trouble = False, ""
        self._retry_at: float | None = None

    def _use_copy(self, obstacle: Obstacle) -> None:
        """Go on with a private copy of what can be read of the file."""
        copy = open_copy(self.path, in_memory=obstacle == "full")
        if self._file is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db, self.in_memory, self.trouble = copy, True, describe(obstacle, self.path)
        self._retry_at = time.monotonic() + _RETRY_S if obstacle == "locked" else None
        log.warning("%s; this process reads the run folders itself", self.trouble)

    def _return_to_file(self) -> None:
        """Use the file again if the process that held it has released it."""
        if self._retry_at is None or time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + _RETRY_S
        with contextlib.suppress(sqlite3.Error, OtherVersionError):
            db = open_database(self.path, patience_s=0.2)
            try:
                db.conn.executescript(f"BEGIN IMMEDIATE; ROLLBACK; PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
            except sqlite3.Error:
                db.close()
                raise
            self._db.close()
            self._use_file(db)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- taking in ----------------------------------------------------------------------------------------------------

    @_healing
    def sync(self, run_id: str) -> RunRow | None:
        """Take in what is new in the journals of one run.

        Returns:
            Its row; None when there is no such folder (any more).
        """
        row = self.row(run_id)
        if row is not None and not has_news(row, run_paths(self.runs, run_id)):
            return row
        with self._transaction():
            return take_in(self._db, self.runs, run_id)

    @_healing
    def sync_all(self) -> None:
        """Take in what is new in every run folder, as `changed_runs` finds it, and forget the runs without a folder.

        Many new folders are taken in by transactions of two seconds at most, so that other processes can write
        meanwhile, with a line of progress in the log every two seconds.
        """
        self._return_to_file()
        sql = "SELECT run_id, events_offset, desk_offset, quiet_after < ? FROM runs"
        known = {run_id: (events, desk, quiet) for run_id, events, desk, quiet in self._rows(sql, time.time())}
        unreadable = dict(self._rows("SELECT run_id, error_message FROM runs WHERE state = ?", UNREADABLE))
        due = [name for name in changed_runs(self.runs, known) if self._is_due(name, known, unreadable)]
        waiting = with_progress(due)
        run_id = next(waiting, None)
        while run_id is not None:
            limit = time.monotonic() + _BATCH_S
            with self._transaction():
                for _ in range(_BATCH_RUNS):
                    take_in(self._db, self.runs, run_id)
                    run_id = next(waiting, None)
                    if run_id is None or time.monotonic() > limit:
                        break

    def _is_due(self, run_id: str, known: Collection[str], unreadable: dict[str, str]) -> bool:
        """Whether a changed folder has to be taken in: it is or was a run, and not unreadable for the same reason."""
        paths = run_paths(self.runs, run_id)
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
            rows = [take_in(self._db, self.runs, run_id) for run_id in with_progress(run_names(self.runs))]
        return sum(row is not None for row in rows)

    # --- reading ------------------------------------------------------------------------------------------------------

    def row(self, run_id: str) -> RunRow | None:
        """The row of a run as it was last taken in."""
        rows = self.rows_of([run_id])
        return rows[0] if rows else None

    def rows(self) -> list[RunRow]:
        """All runs, newest first."""
        return self._run_rows("SELECT * FROM runs ORDER BY created DESC, run_id DESC")

    def rows_of(self, run_ids: Sequence[str]) -> list[RunRow]:
        """The rows of some runs as they were last taken in, in this order; an unknown id is left out."""
        marks = ", ".join("?" * len(run_ids))
        rows = {row.run_id: row for row in self._run_rows(f"SELECT * FROM runs WHERE run_id IN ({marks})", *run_ids)}
        return [rows[run_id] for run_id in run_ids if run_id in rows]

    def names(self) -> list[RunName]:
        """Ids, names and stages of all runs, in the order of their ids."""
        return [RunName(*columns) for columns in self._rows("SELECT run_id, name, stage FROM runs ORDER BY run_id")]

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

    def census(self, *, most: int) -> Census:
        """Count all runs, and read at most so many of those that ended and of those that failed."""
        counts = self._rows("SELECT state, COUNT(*) FROM runs WHERE archived = 0 GROUP BY state")
        select, newest = "SELECT * FROM runs WHERE archived = 0 AND", "ORDER BY created DESC, run_id DESC LIMIT ?"
        unfinished = f"{select} state IN {tuple(sorted(UNFINISHED))} {newest}"
        ended = f"{select} ended IS NOT NULL ORDER BY ended DESC, run_id DESC LIMIT ?"
        failed = f"{select} state IN ('failed', 'lost', 'unreadable') {newest}"
        return Census(
            counts=dict(counts),
            unfinished=self._run_rows(unfinished, _MOST_UNFINISHED)[::-1],
            ended=self._run_rows(ended, most),
            failed=self._run_rows(failed, most),
        )

    def metric_names(self, run_id: str | None = None) -> list[str]:
        """Names of all metrics, or of those of one run."""
        where, values = ("", ()) if run_id is None else ("WHERE run_id = ?", (run_id,))
        return [name for (name,) in self._rows(f"SELECT DISTINCT name FROM series {where} ORDER BY name", *values)]

    def setting_keys(self) -> set[str]:
        """Dotted keys of the settings of all runs."""
        sql = "SELECT name FROM setting_keys k WHERE EXISTS (SELECT 1 FROM settings s WHERE s.key_id = k.key_id)"
        return {name for (name,) in self._rows(sql)}

    def lineage(self) -> dict[str, tuple[str, ...]]:
        """Run id -> ids of the runs that it depends on, for all runs that depend on any."""
        rows = self._rows("SELECT run_id, parents FROM runs WHERE parents != '[]' ORDER BY created, run_id")
        return {run_id: tuple(json.loads(parents)) for run_id, parents in rows}

    @_healing
    def curve(self, run_id: str, name: str, *, most: int | None = None, axis: Axis = "step") -> list[MetricPoint]:
        """The points of one metric, by step.

        Args:
            run_id: of the run.
            name: of the metric.
            most: give about so many at most, as in `downsample`; all when absent.
            axis: along which they are spread evenly.
        """
        with self._series(run_id, name) as (connection, series):
            if most is not None and count_points(connection, series) > max(most, 4):
                points = downsample(connection, series, most, axis)
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
        """The number of a series, -1 when there is none, in a transaction: a rebuild gives other numbers."""
        connection = self._db.conn
        with self._lock:
            connection.execute("BEGIN")
            try:
                sql = "SELECT series_id FROM series WHERE run_id = ? AND name = ?"
                found = connection.execute(sql, (run_id, name)).fetchone()
                yield connection, -1 if found is None else found[0]
            finally:
                connection.rollback()

    def last_metrics(self, run_id: str) -> list[MetricPoint]:
        """The newest point of every metric of a run, by name."""
        sql = "SELECT name, last_step, last_value, last_tokens, last_wall_s FROM series WHERE run_id = ? ORDER BY name"
        return [MetricPoint(*columns) for columns in self._rows(sql, run_id)]

    def config(self, run_id: str) -> dict[str, Any]:
        """Settings of a run by dotted key; empty when its spec cannot be read by this version."""
        found = self._rows("SELECT config FROM texts WHERE run_id = ?", run_id)
        return flatten(json.loads(found[0][0])) if found else {}

    def results(self, run_id: str) -> dict[str, Any]:
        """Data of the run's results, by kind."""
        found = self._rows("SELECT kind, data FROM results WHERE run_id = ? ORDER BY kind", run_id)
        return {kind: json.loads(data) for kind, data in found}

    @_healing
    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._db.conn.execute(sql, values).fetchall()

    @_healing
    def _run_rows(self, sql: str, *values: object) -> list[RunRow]:
        return [RunRow.from_columns(columns) for columns in self._db.query(sql, values)]

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
