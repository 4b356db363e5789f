"""Files: atomic writes, appended lines, locks, and the sentences for errors of the file system.

A durable file is written to a temporary name, forced to disk and renamed. An open file holds a lock: the kernel
releases it when its holder ends, for whatever reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from hetspec_core.errors import HetSpecError, NotFoundError, ResourceError, UsageError
from hetspec_core.paths import make_folders

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a file system that takes no more bytes: disk, quota or file size."""

ROOM_HINT = "make room, e.g. `hetspec-core runs trash --empty`, and run the command again; earlier files are intact"

NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""Error numbers of a place where this user may not write."""

_FULL_SIGNS = ("No space left on device", *(f"os error {number}" for number in sorted(DISK_FULL)))
_LOCK_POLL_S = 0.01
_NO_SUCH_PLACE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG})


def is_full(error: BaseException | None) -> bool:
    """Whether `error`, or an error that it was raised from, means that a file system takes no more bytes.

    Libraries of compiled code say it only in the text of their own exception.
    """
    seen = 0
    while error is not None and seen < 16:  # a chain may be a circle
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        if any(sign in str(error) for sign in _FULL_SIGNS):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def explain(error: OSError, *, doing: str = "", path: str | Path | None = None) -> HetSpecError | None:
    """The error for the user that corresponds to an error of the operating system; None for an unknown one.

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


def write_atomic(path: Path, data: str | bytes, *, mode: int = 0o644, make_folder: bool = True) -> None:
    """Write `data` to `path` as a whole: a reader sees the old file or the new one, even after a power cut.

    Args:
        path: where.
        data: the whole content; text is written as UTF-8.
        mode: permission bits of the new file, less those that the umask takes.
        make_folder: make the parent folder when it is missing. Not for the files of a run: a write must not restore a
            deleted run folder.

    Raises:
        OSError: the disk is full, or there is no such folder.
    """
    if make_folder:
        make_folders(path.parent)
    raw = data.encode() if isinstance(data, str) else data
    name = str(path.parent / f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(staging: Path, folder: Path) -> None:
    """Rename a finished folder to `folder`. The old folder of that name stays until the new one is complete."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` to fill; at the end of the block it is synced and replaces `target`.

    After an exception it is removed, and `target` is unchanged.
    """
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    staging.mkdir(mode=0o700)
    try:
        yield staging
        for path in staging.rglob("*"):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(staging)
        staging.chmod(0o755)
        replace_folder(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def private(path: str, flags: int) -> int:
    """Open a file that only its user may read when it is new; an `opener` for `open`."""
    return os.open(path, flags, 0o600)


def append_line(file: int, line: bytes) -> None:
    """Append a line, with one write where the disk takes it all.

    Args:
        file: opened for appending; a regular file for reading too. A torn line at its end is closed first, so that it
            spoils no other line.
        line: without its newline.

    Raises:
        OSError: the line could not be written, e.g. the disk is full. A part of it may be in the file.
    """
    about = os.fstat(file)
    torn = stat.S_ISREG(about.st_mode) and about.st_size > 0 and os.pread(file, 1, about.st_size - 1) != b"\n"
    rest = (b"\n" if torn else b"") + line + b"\n"
    while rest:  # a disk about to be full takes a part; the rest then raises
        rest = rest[os.write(file, rest) :]


def file_size(path: Path) -> int:
    """Bytes in a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def tail(path: Path, offset: int = 0, *, most_bytes: int = 1 << 16) -> str:
    """The last part of a text file, nothing before `offset`; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - most_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def take_lock(path: Path, *, patience_s: float | None = 0.0, make_folder: bool = True) -> int | None:
    """Take the lock of a file, which is made when missing. Closing the returned file releases the lock.

    Args:
        path: the file.
        patience_s: for how long to try; None = without limit.
        make_folder: make the parent folder when it is missing. Not for a run: see `write_atomic`.

    Returns:
        The open file; None when another holder had the lock for all of that time.

    Raises:
        OSError: the file cannot be made.
    """
    if make_folder:
        make_folders(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    limit = None if patience_s is None else time.monotonic() + patience_s
    try:
        while limit is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() >= limit:
                    os.close(file)
                    return None
                time.sleep(_LOCK_POLL_S)
        fcntl.flock(file, fcntl.LOCK_EX)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(file)
        raise
    return file


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock. The check takes it for a moment, so `take_lock` needs a little patience."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextlib.contextmanager
def locked(path: Path, *, patience_s: float | None = None, make_folder: bool = True) -> Iterator[None]:
    """Hold the lock of a file; arguments as of `take_lock`.

    Raises:
        TimeoutError: another process held it for `patience_s`.
        OSError: the file cannot be made.
    """
    file = take_lock(path, patience_s=patience_s, make_folder=make_folder)
    if file is None:
        raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
    try:
        yield
    finally:
        os.close(file)


def write_output(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Write the file of an option `-o PATH`; only a regular file is replaced. Text is written as UTF-8.

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
        explained = explain(error, doing=f"{path} was not written")
        if explained is None:
            raise
        raise ResourceError(explained.message, hint=explained.hint) from error


def _kind(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
