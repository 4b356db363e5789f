"""Opening the registry's SQLite file: write-ahead log, waiting instead of failing, tables up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_TIMEOUT_S = 30.0


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
