"""Opening the registry's SQLite file, what keeps it from being used, and the private copy that replaces it then."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hetspec_core.files import DISK_FULL, NOT_WRITABLE
from hetspec_core.runs.tables import OtherVersionError, make_tables

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_TIMEOUT_S = 2.5
"""Patience with another program that holds the registry. A private copy answers after it."""

Obstacle = Literal["full", "locked", "read-only"]
"""What keeps the registry from being written: the disk, another process, or the permissions."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUT_OF_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_OF_ONE_RUN = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_PARTS = ("", "-wal", "-shm")  # of the name of a database and its helper files
_MOST_HOLDERS = 4

log = logging.getLogger("hetspec.registry")
"""What a user is told of the registry: progress of a long scan, and why the file was replaced or cannot be written."""


def open_or_replace(path: Path) -> Database:
    """Open the registry as `open_database`; a file that is damaged or of another version is set aside first.

    Raises:
        sqlite3.OperationalError: it cannot be opened now.
    """
    try:
        return open_database(path)
    except OtherVersionError as error:
        kept = set_aside(path, f"version-{error.version}")
        log.warning(
            "the registry is of another version of HetSpec; it is now %s, and a new one is built from the run folders",
            kept,
        )
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        set_aside(path, damage_stamp())
    return open_database(path)


def open_database(path: Path, *, patience_s: float = BUSY_TIMEOUT_S) -> Database:
    """Open the registry, in write-ahead mode.

    Args:
        path: the file; made with empty tables when missing.
        patience_s: how long a statement waits for another process that holds the database.

    Raises:
        OtherVersionError: it has the tables of another version.
        sqlite3.DatabaseError: it is no database, or damaged.
    """
    connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a lost tail is read from the journals again
        return _with_tables(connection)
    except BaseException:
        connection.close()
        raise


def open_copy(path: Path, *, in_memory: bool) -> Database:
    """A database of this process alone, with what can be read of the file; the journals have the rest.

    Args:
        path: of the registry, which cannot be written.
        in_memory: keep all of it in memory; otherwise an unnamed temporary file takes what a small cache does not hold.
    """
    place = ":memory:" if in_memory else ""
    connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    try:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_open_for_reading(path)) as readable:
            readable.backup(connection)
        return _with_tables(connection)
    except (sqlite3.Error, OtherVersionError):  # the copy is damaged, or of another version: begin with nothing
        connection.close()
        return _with_tables(sqlite3.connect(place, isolation_level=None, check_same_thread=False))


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file for reading, in a transaction: a backup would wait for a lock without limit."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if _code(error) in _LOCKED:
            raise
        # where SQLite may not make its helper files, it opens a database only as one that nobody changes
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    return connection


def _with_tables(connection: sqlite3.Connection) -> Database:
    with _without_dataframes():
        from sqlite_utils import Database
    db = Database(connection)
    make_tables(db)
    return db


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


def set_aside(path: Path, reason: str) -> Path:
    """Rename a database, with its helper files, to `NAME.REASON`; returns its new path. An earlier one is replaced."""
    for part in _PARTS:
        old, new = path.with_name(path.name + part), path.with_name(f"{path.name}.{reason}{part}")
        new.unlink(missing_ok=True)
        if old.exists():
            old.rename(new)
    return path.with_name(f"{path.name}.{reason}")


def damage_stamp() -> str:
    """The reason under which `set_aside` keeps a damaged file: it has the time."""
    return time.strftime("damaged-%Y%m%d-%H%M%S")


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


# --- errors -----------------------------------------------------------------------------------------------------------


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or has wrong bytes in it."""
    return _code(error) in _DAMAGED


def is_of_one_run(error: sqlite3.Error) -> bool:
    """Whether the values that were written are at fault, and not the database."""
    return _code(error) in _OF_ONE_RUN or not isinstance(error, sqlite3.DatabaseError) or _code(error) == 0


def obstacle_of(error: BaseException) -> Obstacle | None:
    """What keeps the registry from being written, by an error of SQLite or of the file system; None for any other."""
    code = _code(error) if isinstance(error, sqlite3.Error) else -1
    number = error.errno if isinstance(error, OSError) else None
    if code in _OUT_OF_ROOM or number in DISK_FULL:
        return "full"
    if code in _LOCKED or isinstance(error, TimeoutError):
        return "locked"
    if code in _NOT_WRITABLE or number in NOT_WRITABLE:
        return "read-only"
    return None


def describe(obstacle: Obstacle, path: Path) -> str:
    """Why the registry at this path cannot be written, as a sentence."""
    if obstacle == "full":
        return f"the disk of the registry {path} is full"
    if obstacle == "read-only":
        return f"the registry {path} cannot be written"
    return f"the registry {path} is locked: {_holders(path)}"


def _holders(path: Path) -> str:
    """Which processes have the registry open, as far as this user may see; else which programs may hold it."""
    import psutil

    names = {str(path.resolve().with_name(path.name + part)) for part in _PARTS}
    names.add(str(path.resolve().with_suffix(".lock")))
    holders = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or belongs to another user
            if process.pid != os.getpid() and any(file.path in names for file in process.open_files()):
                stopped = ", stopped" if process.status() == psutil.STATUS_STOPPED else ""
                holders.append(f"{process.pid} ({process.name()}{stopped})")
    if not holders:
        return "a stopped command, a database browser or a backup program may hold it"
    more = f" and {len(holders) - _MOST_HOLDERS} more" if len(holders) > _MOST_HOLDERS else ""
    noun, verb = ("process", "has") if len(holders) == 1 else ("processes", "have")
    return f"{noun} {', '.join(holders[:_MOST_HOLDERS])}{more} {verb} it open"


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
