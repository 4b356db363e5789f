"""The registry: an index of all runs in SQLite, filled from their journals.

The journals are the truth. Rows and the byte offsets they stand for change in one transaction, so any number of
processes may ingest at once: nothing is counted twice, nothing is lost, and `rebuild` from the folders gives the same
rows. It knows no processes: whether a worker lives is asked by the service.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from hetspec_core.errors import HetSpecError, RunError
from hetspec_core.events import Event, read_events
from hetspec_core.paths import RunPaths, make_folders
from hetspec_core.runs.database import (
    exclusive,
    identity,
    is_damaged,
    is_out_of_room,
    open_database,
    open_in_memory,
    put_aside,
)
from hetspec_core.runs.found import Found, flatten
from hetspec_core.runs.look import changed_runs, run_names
from hetspec_core.runs.query import Names, parse_order, parse_query
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow, apply
from hetspec_core.runs.tables import put_change, put_labels, put_settings, put_texts, remove_all, remove_run
from hetspec_core.runs.thin import Axis, count_points, thin
from hetspec_core.spec.document import from_toml

_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z]+-[a-z0-9]{4}")

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def _healing(
    method: Callable[Concatenate[Registry, Arguments], Answer],
) -> Callable[Concatenate[Registry, Arguments], Answer]:
    """Let a method that meets a damaged database begin again with a new one, filled from the run folders; and one that
    meets a full disk with a copy in memory, because it is then that one must see which runs there are.
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
                elif is_out_of_room(error) and not self.in_memory:
                    self._go_into_memory()
                else:
                    raise
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
        in_memory: whether the disk is full, so that what is taken in is only in this process.

    Raises:
        RunError: a newer version of HetSpec has written it, or it cannot be opened.
    """

    def __init__(self, path: Path, runs: Path) -> None:
        self.path = path
        self.runs = runs
        self._lock = threading.RLock()
        self._busy = False
        self.in_memory = False
        make_folders(path.parent)
        with exclusive(path.with_suffix(".lock")):  # switching to WAL and migrating do not wait for each other
            self._open()

    def _open(self) -> None:
        try:
            self._db = open_database(self.path)
        except sqlite3.OperationalError as error:
            if is_out_of_room(error):
                self._db, self.in_memory = open_in_memory(), True
                return
            raise RunError(f"the registry {self.path} cannot be opened: {error}") from None
        except sqlite3.DatabaseError:
            put_aside(self.path)
            self._db = open_database(self.path)
        self._file = identity(self.path)

    def _make_again(self) -> None:
        with exclusive(self.path.with_suffix(".lock")):
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            if identity(self.path) == self._file:  # otherwise another process has made a new one already
                put_aside(self.path)
            self._open()
        self.sync_all()

    def _go_into_memory(self) -> None:
        before, self._db, self.in_memory = self._db, open_in_memory(self._db.conn), True
        with contextlib.suppress(sqlite3.Error):
            before.close()

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
        return [name for name in run_names(self.runs) if RunPaths(self.runs / name).spec.is_file()]

    @_healing
    def sync(self, run_id: str) -> RunRow | None:
        """Take in what is new in the journals of one run.

        Returns:
            Its row; None when there is no such folder (any more).
        """
        paths = RunPaths(self.runs / run_id)
        row = self.row(run_id)
        if row is not None and (_size(paths.events), _size(paths.desk)) == (row.events_offset, row.desk_offset):
            return row
        with self._transaction():
            return self._ingest(run_id)

    @_healing
    def sync_all(self) -> None:
        """Take in what is new in every run folder, as `look` finds it, and forget the runs whose folders are gone."""
        sql = "SELECT run_id, events_offset, desk_offset, quiet_after < ? FROM runs"
        known = {run_id: (events, desk, quiet) for run_id, events, desk, quiet in self._rows(sql, time.time())}
        for run_id in changed_runs(self.runs, known):
            if run_id in known or RunPaths(self.runs / run_id).spec.is_file():
                with self._transaction():
                    self._ingest(run_id)

    @_healing
    def rebuild(self) -> int:
        """Empty all tables and fill them from the run folders, in one transaction.

        Returns:
            How many runs there are.
        """
        with self._transaction():
            remove_all(self._db.conn)
            rows = [self._ingest(run_id) for run_id in self.run_folders()]
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

    def _ingest(self, run_id: str) -> RunRow | None:
        paths, connection = RunPaths(self.runs / run_id), self._db.conn
        if not paths.spec.is_file():
            remove_run(connection, run_id)
            return None
        row, config = self.row(run_id), None
        read = None if row is None else _read_both(paths, row)
        if (
            row is None or read is None
        ):  # new, or a journal has become shorter: what is in the tables may never have been
            remove_run(connection, run_id)
            row, config = _first_row(paths)
            read = _read_both(paths, row) or ([], 0, 0)
        events, events_offset, desk_offset = read
        change = apply(row, events)
        change.row = replace(change.row, events_offset=events_offset, desk_offset=desk_offset)
        put_change(connection, change)
        if config is not None:
            put_texts(connection, change.row, config)
            put_settings(connection, run_id, json.loads(config))
        elif (row.note, row.tags) != (change.row.note, change.row.tags):
            put_labels(connection, change.row)
        return change.row


def _first_row(paths: RunPaths) -> tuple[RunRow, str]:
    """The row of a run that has said nothing yet, and its settings as JSON."""
    text, created = paths.spec.read_text(encoding="utf-8", errors="replace"), paths.spec.stat().st_mtime
    try:
        spec = from_toml(text, name=str(paths.spec))
    except HetSpecError:
        return RunRow.of_spec(paths.run_id, None, created), "{}"
    config = spec.model_dump(mode="json", exclude_none=True)
    row = RunRow.of_spec(paths.run_id, spec, created)
    parents = dict.fromkeys([*spec.parents, *_runs_named(config)])
    parents.pop(paths.run_id, None)
    return replace(row, parents=tuple(parents)), json.dumps(config, ensure_ascii=False)


def _runs_named(config: dict[str, Any]) -> Iterator[str]:
    """Ids of the runs whose folders the settings name as a dataset, a draft or a base."""
    for value in flatten(config).values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "/" in text:
                yield from (part for part in text.split("/") if _RUN_ID.fullmatch(part))


def _read_both(paths: RunPaths, row: RunRow) -> tuple[list[Event], int, int] | None:
    desk, desk_offset = read_events(paths.desk, row.desk_offset)
    events, events_offset = read_events(paths.events, row.events_offset)
    if desk_offset < row.desk_offset or events_offset < row.events_offset:
        return None
    return [*desk, *events], events_offset, desk_offset


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
