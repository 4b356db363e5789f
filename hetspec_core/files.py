"""What goes wrong when a file is read or written, said the same way everywhere, and how a user's own file is written.

It knows the errors of the operating system; which file belongs to what is the business of `paths` and of the callers.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from hetspec_core.errors import HetSpecError, NotFoundError, ResourceError, UsageError
from hetspec_core.paths import write_atomic

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a file system that takes no more bytes: the disk, a quota, the largest file."""

ROOM_HINT = "make room, e.g. `hetspec-core runs trash --empty`, and run the command again; earlier files are intact"

NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""Error numbers of a place where this user may not write."""

_SAID_FULL = ("No space left on device", *(f"os error {number}" for number in sorted(DISK_FULL)))
_NO_SUCH_PLACE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})


def is_full(error: BaseException | None) -> bool:
    """Whether `error`, or an error that it was raised from, means that a file system takes no more bytes.

    Libraries that write files from compiled code say it only in the text of their own exception.
    """
    seen = 0
    while error is not None and seen < 16:  # a chain may be a circle
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        if any(sign in str(error) for sign in _SAID_FULL):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def explain(error: OSError, *, doing: str = "", path: str | Path | None = None) -> HetSpecError | None:
    """The error for the user that an error of the operating system stands for; None for one that says nothing known.

    Args:
        error: what was raised.
        doing: the act, as "writing the draft"; it begins the sentence.
        path: the file or folder, where the error does not name it.
    """
    where = path if path is not None else error.filename
    act = doing or "a file could not be read or written"
    place = f" ({os.fsdecode(where) if isinstance(where, bytes) else where})" if where is not None else ""
    if error.errno in DISK_FULL:
        return ResourceError(
            f"{act}: the disk is full, or a quota is used up{place}",
            hint=ROOM_HINT,
        )
    if error.errno == errno.EROFS:
        return ResourceError(f"{act}: the file system is read-only{place}", hint="write to another folder")
    if error.errno in NOT_WRITABLE:
        return ResourceError(f"{act}: permission denied{place}", hint="check the owner and the mode of that folder")
    if error.errno in _NO_SUCH_PLACE:
        reason = (os.strerror(error.errno or 0)).lower()
        return NotFoundError(f"{act}: {reason}{place}", hint="check the path")
    return None


def write_output(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Write what a user asked for with `-o PATH`, and replace nothing but a regular file. Text is written as UTF-8.

    A regular file, or a name that is free, is written atomically; a link is followed first, so that it stays a link. A
    device, a named pipe or a socket is written into as it is. `mode` is that of a new regular file.

    Raises:
        UsageError: the path is a folder.
        ResourceError: the file system refused it; the sentence says why.
    """
    try:
        kind = _kind(path)  # before links are resolved: /dev/stdout that is a pipe leads to no name on the disk
        if kind is not None and stat.S_ISDIR(kind):
            raise UsageError(f"{path} is a folder; -o needs the name of a file", hint=f"for example {path / 'out'}")
        if kind is None or stat.S_ISREG(kind):
            write_atomic(path.resolve(), data, mode=mode)
            return
        with path.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        told = explain(error, doing=f"{path} was not written")
        if told is None:
            raise
        raise ResourceError(told.message, hint=told.hint) from error


def _kind(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
