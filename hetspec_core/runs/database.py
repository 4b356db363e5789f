"""Opening the registry's SQLite file: write-ahead log, a short wait for others, tables up to date; or a copy of it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hetspec_core.errors import RunError
from hetspec_core.files import DISK_FULL, NOT_WRITABLE

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_TIMEOUT_S = 2.5
"""Patience with another program that holds the registry. A copy in memory answers after it."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUT_OF_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_OF_ONE_RUN = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})
_MOST_HOLDERS = 4


def open_database(path: Path, *, patience_s: float = BUSY_TIMEOUT_S) -> Database:
    """Open the registry, and make or migrate its tables; a copy is put beside it before tables are changed.

    Args:
        path: the file; made when missing.
        patience_s: how long a statement waits for another program that holds the database.

    Raises:
        RunError: a newer version of HetSpec has written it.
        sqlite3.DatabaseError: it is no database, or damaged.
    """
    with _without_dataframes():
        from sqlite_utils import Database

        from hetspec_core.runs.schema import migrate
    connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a lost tail is read from the journals again
        db = Database(connection)
        migrate(db, lambda version: _back_up(connection, path.with_name(f"{path.name}.backup-{version}")))
    except BaseException:
        connection.close()
        raise
    return db


def open_copy(source: sqlite3.Connection | Path | None = None, *, on_disk: bool = True) -> Database:
    """A database of this process alone, with what can be read of another one; the rest is read from the journals.

    Args:
        source: what is copied: an open database, or a file that cannot be written; nothing when absent.
        on_disk: keep what does not fit into a small cache in an unnamed temporary file instead of in memory.
    """
    with _without_dataframes():
        from sqlite_utils import Database

        from hetspec_core.runs.schema import migrate
    place = "" if on_disk else ":memory:"
    connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    with contextlib.suppress(sqlite3.Error), _readable(source) as readable:
        if readable is not None:
            if readable.in_transaction:
                readable.rollback()
            readable.execute("PRAGMA busy_timeout = 200")
            readable.execute("BEGIN")
            readable.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # a backup waits for a lock for ever
            readable.backup(connection)
    db = Database(connection)
    try:
        migrate(db)
    except (sqlite3.Error, RunError):  # the copy is damaged, or of a newer version: begin with nothing
        connection.close()
        db = Database(sqlite3.connect(place, isolation_level=None, check_same_thread=False))
        migrate(db)
    return db


@contextlib.contextmanager
def _readable(source: sqlite3.Connection | Path | None) -> Iterator[sqlite3.Connection | None]:
    if not isinstance(source, Path):
        yield source
        return
    place = source.absolute().as_uri()
    with contextlib.closing(_first_readable(f"{place}?mode=ro", f"{place}?mode=ro&immutable=1")) as connection:
        yield connection


def _first_readable(*places: str) -> sqlite3.Connection:
    """Without the right to make its helper files, SQLite opens a database only as one that nobody changes."""
    for number, place in enumerate(places, 1):
        connection = sqlite3.connect(place, uri=True, timeout=0.2)
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except sqlite3.Error:
            connection.close()
            if number == len(places):
                raise
        else:
            return connection
    raise AssertionError("unreachable")


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or one with wrong bytes in it."""
    return _code(error) in _DAMAGED


def is_of_one_run(error: sqlite3.Error) -> bool:
    """Whether the values that were written are at fault, and not the database."""
    return _code(error) in _OF_ONE_RUN or not isinstance(error, sqlite3.DatabaseError) or _code(error) == 0


def why_not_usable(error: BaseException, path: Path) -> str:
    """Why the registry cannot be written now, as a sentence; empty for any other error.

    Args:
        error: of SQLite, or of the file system.
        path: of the registry.
    """
    code = _code(error) if isinstance(error, sqlite3.Error) else -1
    number = error.errno if isinstance(error, OSError) else None
    if code in _OUT_OF_ROOM or number in DISK_FULL:
        return f"the disk of the registry {path} is full"
    if code in _LOCKED or isinstance(error, TimeoutError):
        return f"the registry {path} is locked: {holders(path)}"
    if code in _NOT_WRITABLE or number in NOT_WRITABLE:
        return f"the registry {path} cannot be written"
    return ""


def is_locked(error: BaseException) -> bool:
    """Whether another program holds the database, which passes."""
    return isinstance(error, TimeoutError) or (isinstance(error, sqlite3.Error) and _code(error) in _LOCKED)


def holders(path: Path) -> str:
    """Which processes have the registry open, as far as this user may see; else which programs may hold it."""
    found = [_described(pid) for pid in _pids_with(path)]
    if not found:
        return "a stopped command, a database browser or a backup program may hold it"
    more = f" and {len(found) - _MOST_HOLDERS} more" if len(found) > _MOST_HOLDERS else ""
    noun, verb = ("process", "has") if len(found) == 1 else ("processes", "have")
    return f"{noun} {', '.join(found[:_MOST_HOLDERS])}{more} {verb} it open"


def _pids_with(path: Path) -> Iterator[int]:
    names = {str(path.resolve().with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm")}
    names.add(str(path.resolve().with_suffix(".lock")))
    for folder in sorted(Path("/proc").glob("[1-9]*/fd")):
        pid = int(folder.parent.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if any(str(entry.readlink()) in names for entry in folder.iterdir()):
                yield pid


def _described(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return str(pid)
    name = fields[fields.index("(") + 1 : fields.rindex(")")]
    stopped = ", stopped" if fields[fields.rindex(")") + 2] in "Tt" else ""
    return f"{pid} ({name}{stopped})"


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


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
