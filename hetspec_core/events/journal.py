"""Writing and reading an append-only journal of events. It knows lines and bytes, not what a run is.

One event is one line and one `write` on a file opened for appending, so that several processes may write to one
journal. A process that dies in the middle of a line leaves a torn one: a reader leaves it alone while it is the last,
and the next writer closes it with a newline first, after which it reads as one `Unknown` event.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from hetspec_core.events.models import (
    Artifact,
    CheckpointSaved,
    Event,
    EventBase,
    FoundLost,
    KnownEvent,
    Launched,
    Marked,
    Moved,
    Result,
    RunEnded,
    Submitted,
    Unknown,
)

DURABLE = (CheckpointSaved, Artifact, Result, RunEnded, Submitted, Launched, FoundLost, Marked, Moved)
"""Events that are on the disk when they have been written; they state what is there, or an end."""
_KNOWN: TypeAdapter[Event] = TypeAdapter(KnownEvent)


class Journal:
    """The writing end of a journal, for one worker (or the desk).

    Args:
        path: the file; made when missing, its folder must exist.
        worker: who speaks; stamped on every event that does not say.
    """

    def __init__(self, path: Path, worker: str) -> None:
        self.path = path
        self.worker = worker
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = _ends_torn(self._file)

    def write(self, event: EventBase) -> None:
        """Append one event; the ones that state what is on disk, or an end, are forced to disk before the return.

        Raises:
            OSError: the line could not be written, e.g. the disk is full. A part of it may be there; the next write
                closes it.
        """
        stamped = event if event.worker else event.model_copy(update={"worker": self.worker})
        line = stamped.model_dump_json().encode() + b"\n"
        if self._torn:
            line = b"\n" + line
        self._torn = True
        written = os.write(self._file, line)
        while written < len(line):  # a disk about to be full takes a part; the rest then raises
            written += os.write(self._file, line[written:])
        self._torn = False
        if isinstance(event, DURABLE):
            os.fsync(self._file)

    def sync(self) -> None:
        """Force to disk what was written: before something is made durable that stands for it."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; writing afterwards is an error of the program."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ends_torn(file: int) -> bool:
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Every complete event from byte `offset` on, and the offset to go on from.

    A torn last line is left for the next call. A missing file has no events. Of a file that has become shorter than
    `offset` nothing is returned but an offset at the end of its last complete line, so that what is appended later is
    read; a caller that must not miss what changed compares the returned offset with its own and begins again at 0.

    Args:
        path: the journal.
        offset: 0, or what an earlier call returned.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < offset:
                return [], _last_line_end(file.fileno(), size)
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    end = data.rfind(b"\n") + 1
    return list(decode_lines(data[:end].split(b"\n"))), offset + end


def _last_line_end(file: int, size: int) -> int:
    block = 1 << 16
    end = size
    while end > 0:
        start = max(0, end - block)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def decode_lines(lines: Iterable[bytes]) -> Iterable[Event]:
    """Events of complete lines (without their newlines); blank lines are none."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _KNOWN.validate_json(line)
        except ValidationError:
            yield _unknown(line)


def _unknown(line: bytes) -> Unknown:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        return Unknown(time=0.0, data={"line": line.decode(errors="replace")})
    kind, when, worker = data.get("type"), data.get("time"), data.get("worker")
    return Unknown(
        type=kind if isinstance(kind, str) else "",
        time=float(when) if isinstance(when, int | float) and not isinstance(when, bool) else 0.0,
        worker=worker if isinstance(worker, str) else "",
        data=data,
    )
