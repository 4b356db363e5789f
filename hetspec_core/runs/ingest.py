"""Taking run folders into the tables: each run by itself, and each piece of a journal with the offset it ends at."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetspec_core.documents import flatten
from hetspec_core.errors import HetSpecError
from hetspec_core.events import read_pieces
from hetspec_core.events.state import UNREADABLE
from hetspec_core.files import file_size
from hetspec_core.paths import RunPaths
from hetspec_core.runs.database import is_of_one_run, log
from hetspec_core.runs.folders import is_run, run_paths, why_unreadable
from hetspec_core.runs.rows import RunRow, apply
from hetspec_core.runs.tables import put_labels, put_row, put_texts, put_values, remove_run
from hetspec_core.spec.run import read_spec

if TYPE_CHECKING:
    from sqlite_utils import Database

_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z]+-[a-z0-9]{4}")
_PACE_S = 2.0  # before the first line of progress, and between two


def take_in(db: Database, runs: Path, run_id: str) -> RunRow | None:
    """Take in what is new of one run, in a transaction of the caller.

    Whatever is wrong with its folder makes a row in state `unreadable` of it alone.

    Returns:
        Its row; None when there is no such folder.
    """
    paths = run_paths(runs, run_id)
    if not is_run(paths):
        remove_run(db.conn, run_id)
        return None
    if why := why_unreadable(paths):
        return _put_unreadable(db.conn, paths, run_id, why)
    db.conn.execute("SAVEPOINT one_run")
    try:
        row = _read_journals(db, paths, run_id)
    except Exception as error:  # a journal of others may hold anything
        if isinstance(error, sqlite3.Error) and not is_of_one_run(error):
            raise
        db.conn.execute("ROLLBACK TO one_run")
        row = _put_unreadable(db.conn, paths, run_id, _reason(error))
    db.conn.execute("RELEASE one_run")
    return row


def _read_row(db: Database, run_id: str) -> RunRow | None:
    """The row of a run as it was last taken in."""
    columns = next(iter(db.query("SELECT * FROM runs WHERE run_id = ?", (run_id,))), None)
    return None if columns is None else RunRow.from_columns(columns)


def has_news(row: RunRow, paths: RunPaths) -> bool:
    """Whether a folder is not as it was when its row was written."""
    if row.state == UNREADABLE:
        if why := why_unreadable(paths):
            return why != row.error_message or not is_run(paths)
        if not (row.events_offset or row.desk_offset):
            return True
    try:
        return (file_size(paths.events), file_size(paths.desk)) != (row.events_offset, row.desk_offset)
    except OSError:
        return True


def with_progress(run_ids: Sequence[str]) -> Iterator[str]:
    """The ids, with a line of progress in the log every two seconds."""
    due = time.monotonic() + _PACE_S
    for number, run_id in enumerate(run_ids):
        if time.monotonic() >= due:
            log.info("reading run folders: %s of %s", f"{number:,}", f"{len(run_ids):,}")
            due = time.monotonic() + _PACE_S
        yield run_id


def _read_journals(db: Database, paths: RunPaths, run_id: str) -> RunRow:
    connection = db.conn
    row, config = _read_row(db, run_id), None
    if row is not None and (row.state == UNREADABLE or _is_shorter(paths, row)):
        row = None  # the tables may hold what the journals do not
    if row is None:
        remove_run(connection, run_id)
        row, config = _first_row(paths, run_id)
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
    elif (before.note, before.tags) != (row.note, row.tags):
        put_labels(connection, row)
    return row


def _put_unreadable(connection: sqlite3.Connection, paths: RunPaths, run_id: str, why: str) -> RunRow:
    """Write the row of a run that cannot be read; it is tried again when a journal has grown, or can be opened."""
    remove_run(connection, run_id)
    created, sizes = 0.0, (0, 0)
    with contextlib.suppress(OSError):  # a folder that may not be entered still has its own time
        created = paths.folder.stat().st_mtime
        sizes = (file_size(paths.events), file_size(paths.desk))
    row = RunRow.unreadable(run_id, why, created)
    if not why_unreadable(paths):  # its files can be opened: their content is at fault
        row = replace(row, events_offset=sizes[0], desk_offset=sizes[1])
    put_row(connection, row)
    put_texts(connection, row, {})
    return row


def _reason(error: Exception) -> str:
    """Why a run could not be taken in, in a few words."""
    if isinstance(error, HetSpecError):
        return error.message
    if isinstance(error, OSError):
        name = Path(str(error.filename)).name if error.filename else ""
        return f"{name}: {error.strerror}".lower().removeprefix(": ") if error.strerror else str(error)
    return f"{type(error).__name__}: {error}"[:200]


def _first_row(paths: RunPaths, run_id: str) -> tuple[RunRow, dict[str, Any]]:
    """The row of a run before any event, and its spec as JSON values; a spec that cannot be read is empty."""
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
