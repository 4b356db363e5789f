"""Opening the registry's SQLite file: write-ahead log, waiting instead of failing, tables up to date."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_TIMEOUT_S = 30.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUT_OF_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


def open_database(path: Path) -> Database:
    """Open the registry, and make or migrate its tables; a copy is put beside it before tables are changed.

    Raises:
        RunError: a newer version of HetSpec has written it.
        sqlite3.DatabaseError: it is no database, or damaged.
    """
    with _without_dataframes():
        from sqlite_utils import Database

        from hetspec_core.runs.schema import migrate
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a lost tail is read from the journals again
        db = Database(connection)
        migrate(db, lambda version: _back_up(connection, path.with_name(f"{path.name}.backup-{version}")))
    except BaseException:
        connection.close()
        raise
    return db


def open_in_memory(source: sqlite3.Connection | None = None) -> Database:
    """A database of this process alone, with what can be read of another one; what is missing is read from journals."""
    with _without_dataframes():
        from sqlite_utils import Database

        from hetspec_core.runs.schema import migrate
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if source is not None:
        with contextlib.suppress(sqlite3.Error):
            source.backup(connection)
    db = Database(connection)
    migrate(db)
    return db


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or one with wrong bytes in it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def is_out_of_room(error: sqlite3.Error) -> bool:
    """Whether nothing can be written to the disk any more."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _OUT_OF_ROOM


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file, made when missing."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def put_aside(path: Path) -> None:
    """Give a database that cannot be used a name that says when that was."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(path.with_name(f"{path.name}.damaged-{stamp}{suffix}"))


def _back_up(connection: sqlite3.Connection, copy: Path) -> None:
    """Copy the whole database, write-ahead log included, to a file that is there complete or not at all."""
    unfinished = copy.with_name(f".{copy.name}")
    unfinished.unlink(missing_ok=True)
    target = sqlite3.connect(unfinished)
    try:
        connection.backup(target)
    finally:
        target.close()
    os.replace(unfinished, copy)


@contextlib.contextmanager
def _without_dataframes() -> Iterator[None]:
    """Hide pandas and numpy from sqlite-utils, which imports both when they are there: a second, for types not used."""
    hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail; see importlib
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
