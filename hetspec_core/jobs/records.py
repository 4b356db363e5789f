"""Lines for the journals of a run, written and read without the event models.

A supervisor lives as long as its run, so it must stay small, and pydantic alone is as large as all the rest of it. The
lines are those that `hetspec_core.events` reads; one line is one write, as there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hetspec_core.documents import DocumentError, open_regular

TAIL_BYTES = 1 << 16


def append(path: Path, kind: str, worker: str, **values: Any) -> None:
    """Append one event and force it to disk; a torn line before it is closed first. A journal is made only in a folder
    that has a spec.toml: a deleted run does not come back.

    Raises:
        OSError: it could not be written.
    """
    line = json.dumps({"type": kind, "time": time.time(), "worker": worker, **values}, ensure_ascii=False).encode()
    file = _open(path)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        line = (b"\n" if torn else b"") + line + b"\n"
        written = os.write(file, line)
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if not path.with_name("spec.toml").exists():
            raise
        return os.open(path, flags | os.O_CREAT, 0o644)


def records(path: Path, offset: int = 0, *, kind: str) -> Iterator[dict[str, Any]]:
    """Events of one kind from byte `offset` on; lines that cannot be read are left out."""
    mark = f'"{kind}"'.encode()
    try:
        with open_regular(path) as file:
            file.seek(offset)
            for line in file:
                if mark not in line:
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and record.get("type") == kind:
                    yield record
    except (FileNotFoundError, DocumentError):
        return


def tail(path: Path, offset: int = 0) -> str:
    """The last part of a text file, not beginning before `offset`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def size(path: Path) -> int:
    """Bytes in a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
