"""The registry: an index of all runs in SQLite, filled from their journals.

The journals are the truth. Rows and the byte offsets they stand for change in one transaction, so any number of
processes may ingest at once: nothing is counted twice, nothing is lost, and `rebuild` from the folders gives the same
rows. It knows no processes: whether a worker lives is asked by the service.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hetspec_core.errors import HetSpecError, RunError
from hetspec_core.events import Event, read_events
from hetspec_core.paths import RunPaths
from hetspec_core.runs.database import open_database
from hetspec_core.runs.rows import Change, MetricPoint, RunRow, apply
from hetspec_core.spec.document import from_toml

_RUN_COLUMNS = tuple(column.name for column in fields(RunRow))
_PUT_RUN = (
    f"INSERT OR REPLACE INTO runs ({', '.join(_RUN_COLUMNS)}) VALUES ({', '.join(':' + c for c in _RUN_COLUMNS)})"
)


class Registry:
    """The index of the runs below one folder.

    Args:
        path: the database file; made when missing. One that is damaged is put aside and made again.
        runs: the folder of the run folders.

    Raises:
        RunError: a newer version of HetSpec has written it, or it cannot be opened.
    """

    def __init__(self, path: Path, runs: Path) -> None:
        self.path = path
        self.runs = runs
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path.with_suffix(".lock")):  # switching to WAL and migrating do not wait for each other
            try:
                self._db = open_database(path)
            except sqlite3.OperationalError as error:
                raise RunError(f"the registry {path} cannot be opened: {error}") from None
            except sqlite3.DatabaseError:
                _put_aside(path)
                self._db = open_database(path)

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
        try:
            found = [entry.name for entry in self.runs.iterdir() if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if RunPaths(self.runs / name).spec.is_file())

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

    def sync_all(self) -> None:
        """Take in every run folder, and forget the runs whose folders are gone."""
        known = {row["run_id"]: row for row in self._query("SELECT run_id, events_offset, desk_offset FROM runs")}
        present = self.run_folders()
        for run_id in present:
            paths, row = RunPaths(self.runs / run_id), known.pop(run_id, None)
            now = (_size(paths.events), _size(paths.desk))
            if row is None or now != (row["events_offset"], row["desk_offset"]):
                with self._transaction():
                    self._ingest(run_id)
        for run_id in known:
            with self._transaction():
                if not RunPaths(self.runs / run_id).spec.is_file():
                    self._forget(run_id)

    def rebuild(self) -> int:
        """Empty all tables and fill them from the run folders, in one transaction.

        Returns:
            How many runs there are.
        """
        with self._transaction():
            for table in ("runs", "metrics", "results"):
                self._db.execute(f"DELETE FROM {table}")
            rows = [self._ingest(run_id) for run_id in self.run_folders()]
        return sum(row is not None for row in rows)

    def row(self, run_id: str) -> RunRow | None:
        """The row of a run as it was last taken in."""
        found = self._query("SELECT * FROM runs WHERE run_id = ?", (run_id,))
        return RunRow.from_columns(found[0]) if found else None

    def rows(self, *, stage: str | None = None) -> list[RunRow]:
        """All runs, or those of one stage, newest first."""
        where, values = ("WHERE stage = ?", (stage,)) if stage else ("", ())
        found = self._query(f"SELECT * FROM runs {where} ORDER BY created DESC, run_id DESC", values)
        return [RunRow.from_columns(columns) for columns in found]

    def curve(self, run_id: str, name: str) -> list[MetricPoint]:
        """All points of one metric, by step."""
        sql = "SELECT name, step, value, tokens, wall_s FROM metrics WHERE run_id = ? AND name = ? ORDER BY step"
        return [MetricPoint(**columns) for columns in self._query(sql, (run_id, name))]

    def last_metrics(self, run_id: str) -> list[MetricPoint]:
        """The newest point of every metric of a run, by name."""
        sql = (
            "SELECT name, MAX(step) AS step, value, tokens, wall_s FROM metrics WHERE run_id = ? "
            "GROUP BY name ORDER BY name"
        )
        return [MetricPoint(**columns) for columns in self._query(sql, (run_id,))]

    def results(self, run_id: str) -> dict[str, Any]:
        """Data of the run's results, by kind."""
        found = self._query("SELECT kind, data FROM results WHERE run_id = ? ORDER BY kind", (run_id,))
        return {columns["kind"]: json.loads(columns["data"]) for columns in found}

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

    def _forget(self, run_id: str) -> None:
        for table in ("runs", "metrics", "results"):
            self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))

    def _ingest(self, run_id: str) -> RunRow | None:
        paths = RunPaths(self.runs / run_id)
        if not paths.spec.is_file():
            self._forget(run_id)
            return None
        row = self.row(run_id) or _first_row(paths)
        read = _read_both(paths, row)
        if read is None:  # a journal has become shorter: what is in the tables may never have happened
            self._forget(run_id)
            row = _first_row(paths)
            read = _read_both(paths, row) or ([], 0, 0)
        events, events_offset, desk_offset = read
        change = apply(row, events)
        change.row = replace(change.row, events_offset=events_offset, desk_offset=desk_offset)
        self._put(run_id, change)
        return change.row

    def _put(self, run_id: str, change: Change) -> None:
        connection = self._db.conn
        connection.execute(_PUT_RUN, change.row.to_columns())
        connection.executemany(
            "INSERT OR REPLACE INTO metrics (run_id, name, step, value, tokens, wall_s) VALUES (?, ?, ?, ?, ?, ?)",
            [(run_id, p.name, p.step, p.value, p.tokens, p.wall_s) for p in change.points],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO results (run_id, kind, time, data) VALUES (?, ?, ?, ?)",
            [(run_id, result.kind, result.time, json.dumps(result.data)) for result in change.results],
        )


def _first_row(paths: RunPaths) -> RunRow:
    text, created = paths.spec.read_text(encoding="utf-8", errors="replace"), paths.spec.stat().st_mtime
    try:
        spec = from_toml(text, name=str(paths.spec))
    except HetSpecError:
        spec = None
    return RunRow.of_spec(paths.run_id, spec, created)


def _read_both(paths: RunPaths, row: RunRow) -> tuple[list[Event], int, int] | None:
    desk, desk_offset = read_events(paths.desk, row.desk_offset)
    events, events_offset = read_events(paths.events, row.events_offset)
    if desk_offset < row.desk_offset or events_offset < row.events_offset:
        return None
    return [*desk, *events], events_offset, desk_offset


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _put_aside(path: Path) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.damaged-{stamp}{suffix}"))
