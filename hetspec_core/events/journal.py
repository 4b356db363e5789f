"""Writing and reading an append-only journal of events.

One event is one line and one `write` on a file opened for appending, so that several processes may write to one
journal. A process that dies in the middle of a line leaves a torn one: a reader leaves it alone while it is the last,
and the next writer closes it with a newline first, after which it reads as one `Unknown` event.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from hetspec_core.documents import DocumentError, open_regular
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
from hetspec_core.files import append_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

DURABLE = (CheckpointSaved, Artifact, Result, RunEnded, Submitted, Launched, FoundLost, Marked, Moved)
"""Events that are on the disk when they have been written; they record what is on disk, or an end."""
BULK = ("metric", "progress", "text", "log", "checkpoint_saved", "artifact", "result")
"""Types of the events that do not change the state of a run; most lines of a journal are of these types."""
PIECE_BYTES = 1 << 20
LONGEST_LINE_BYTES = 64 << 20
Chosen = TypeVar("Chosen", bound=KnownEvent)


class Journal:
    """The writing end of a journal, for one worker (or the desk).

    Args:
        path: the file; made when missing, its folder must exist.
        worker: the writer, entered in every event that names none.
        create: whether a missing file is made; else FileNotFoundError is raised.
    """

    def __init__(self, path: Path, worker: str, *, create: bool = True) -> None:
        self.path = path
        self.worker = worker
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o644)

    def write(self, event: EventBase) -> None:
        """Append one event; those in `DURABLE` are forced to disk before the return.

        Raises:
            OSError: the line could not be written, e.g. the disk is full. A part of it may be there; the next write
                closes it.
        """
        stamped = event if event.worker else replace(event, worker=self.worker)
        append_line(self._file, stamped.to_line())
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


def append_event(path: Path, worker: str, event: EventBase) -> None:
    """Append one event to a journal of a run, and force it to disk. A missing journal is made only in a folder that has
    a spec.toml, so that a deleted run does not come back.

    Raises:
        OSError: it could not be written.
    """
    try:
        journal = Journal(path, worker, create=False)
    except FileNotFoundError:
        if not path.with_name("spec.toml").exists():
            raise
        journal = Journal(path, worker)
    with journal:
        journal.write(event)
        if not isinstance(event, DURABLE):  # `write` has forced those to disk
            journal.sync()


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """Every complete event from byte `offset` on, and the offset to go on from.

    A torn last line is left for the next call. A missing file has no events. Of a file that has become shorter than
    `offset` nothing is returned but an offset at the end of its last complete line, so that what is appended later is
    read; a caller that must not miss what changed compares the returned offset with its own and begins again at 0.

    All events are in memory at once: `read_pieces` is for journals of any length.

    Args:
        path: the journal.
        offset: 0, or what an earlier call returned.

    Raises:
        OSError: the file cannot be read.
        DocumentError: it is no regular file.
    """
    events: list[Event] = []
    end = offset
    for piece, after in read_pieces(path, offset):
        events += piece
        end = after
    return events, end


def read_pieces(
    path: Path, offset: int = 0, *, skip: Iterable[str] = (), only: str = ""
) -> Iterator[tuple[list[Event], int]]:
    """As `read_events`, in pieces of about a mebibyte of the journal; at least one, which may be empty.

    A line of more than `LONGEST_LINE_BYTES` is read as one `Unknown` event without its content.

    Args:
        path: the journal.
        offset: 0, or the offset of an earlier piece.
        skip: types of events that the caller does not want. Most of them are left out without being decoded; a line
            whose keys are in another order than `Journal` writes them is decoded all the same.
        only: the one type that the caller wants; lines that do not contain this word are not decoded.

    Raises:
        OSError: the file cannot be read.
        DocumentError: it is no regular file.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        yield [], 0
        return
    unwanted, word = _pattern(tuple(skip)), f'"{only}"'.encode() if only else b""
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < offset:
            yield [], _last_line_end(file.fileno(), size)
            return
        file.seek(offset)
        left, rest, dropped, yielded = size - offset, b"", 0, False
        while left > 0 and (block := file.read(min(PIECE_BYTES, left))):
            left -= len(block)
            data = rest + block
            end = data.rfind(b"\n") + 1
            if not end:
                is_too_long = dropped or len(data) > LONGEST_LINE_BYTES
                rest, dropped = (b"", dropped + len(data)) if is_too_long else (data, 0)
                continue
            lines = data[:end].split(b"\n")
            found: list[Event] = []
            if dropped:
                found.append(Unknown(time=0.0, data={"bytes": dropped + len(lines.pop(0))}))
            if unwanted is not None:
                lines = [line for line in lines if not unwanted(line)]
            if word:
                lines = [line for line in lines if word in line]
            found += decode_lines(lines)
            offset += dropped + end
            rest, dropped, yielded = data[end:], 0, True
            yield found, offset
        if not yielded:
            yield [], offset


def select_events(path: Path, kind: type[Chosen], offset: int = 0) -> Iterator[Chosen]:
    """Events of one kind from byte `offset` on; none of a journal that is no regular file."""
    try:
        for events, _ in read_pieces(path, offset, only=kind.type):
            yield from (event for event in events if isinstance(event, kind))
    except DocumentError:
        return


@lru_cache
def _pattern(kinds: tuple[str, ...]) -> Callable[[bytes], object] | None:
    """Finds the beginning of a line of one of these types, as `Journal` writes it."""
    if not kinds:
        return None
    words = "|".join(map(re.escape, kinds))
    return re.compile(rf'\{{"time":[^",]+,"worker":"[^"\\]*","type":"(?:{words})"'.encode()).match


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


@cache
def _checked() -> TypeAdapter[KnownEvent]:
    """Reads and checks events; made for the first line, because pydantic takes 10 MB and a tenth of a second."""
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[KnownEvent, Field(discriminator="type")])


def decode_lines(lines: Iterable[bytes]) -> Iterable[Event]:
    """Events of complete lines (without their newlines); blank lines are none."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _checked().validate_json(line)
        except ValueError:
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
        time=_seconds(when),
        worker=worker if isinstance(worker, str) else "",
        data=data,
    )


def _seconds(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    except OverflowError:  # an integer of hundreds of digits
        return 0.0
