"""Locks that the kernel gives back when their holder dies, however it dies. They know nothing of what they guard."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hetspec_core.paths import make_folders

_POLL_S = 0.01


def take(path: Path, *, patience_s: float = 0.0, make_folder: bool = True) -> int | None:
    """Take the lock of a file, made when missing; returns the file to hold (closing it gives the lock back).

    Args:
        path: the file.
        patience_s: how long to try; None is returned when somebody else holds it for all of that time.
        make_folder: make its folder when missing. Not for a run: a deleted run does not come back.

    Raises:
        OSError: the file cannot be made.
    """
    if make_folder:
        make_folders(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    limit = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= limit:
                os.close(file)
                return None
            time.sleep(_POLL_S)


def is_taken(path: Path) -> bool:
    """Whether somebody holds the lock. Looking takes it for a moment, so who takes locks needs a little patience."""
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
def held(path: Path) -> Iterator[None]:
    """Hold the lock, waiting for it as long as it takes."""
    make_folders(path.parent)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
