"""A log file of any length and content as numbered lines.

Only the offsets of the lines are kept (8 bytes a line); lines are read on request. The file may grow, be cut or be
replaced at any time.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from hetspec_core.terminal_text import LONGEST, clean_line, final, plain, plain_lines

_BLOCK = 1 << 20
_TAIL = 1 << 16
_WITNESS = 64  # last known bytes, by which a replaced file is detected
_LONG = 4 * LONGEST  # of longer lines only both ends are read
_FIND_LINES = 2048


@dataclass(frozen=True)
class LogState:
    """The state of a log.

    Attributes:
        generation: changes when the file was cut or replaced, which invalidates line numbers.
        count: number of known lines, with a last one without a newline.
        closed: number of lines that end in a newline.
        known_bytes, bytes: how much of the file is indexed, and its size.
    """

    generation: int = 0
    count: int = 0
    closed: int = 0
    known_bytes: int = 0
    bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether the whole file is indexed."""
        return self.known_bytes >= self.bytes


class LogFile:
    """The lines of one file; may be used by several threads.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._generation = 0
        self._forget()

    def _forget(self) -> None:
        self._starts = array("Q", [0])
        self._known = 0
        self._size = 0
        self._identity: tuple[int, int] | None = None
        self._witness = b""

    def advance(self, budget_s: float = 0.05) -> LogState:
        """Index what is new, for about `budget_s` seconds; call it again while the state is not complete.

        Raises:
            OSError: the file exists and cannot be read.
        """
        limit = time.monotonic() + budget_s
        with self._lock:
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                if self._identity is not None:
                    self._begin_again()
                return self._state()
            try:
                self._check_same(handle)
                while self._known < self._size:
                    block = os.pread(handle, min(_BLOCK, self._size - self._known), self._known)
                    if not block:
                        break
                    self._take(block)
                    if time.monotonic() > limit:
                        break
            finally:
                os.close(handle)
            return self._state()

    def lines(self, start: int, stop: int) -> list[str]:
        """The known lines from `start` to before `stop`, each cleaned for a screen (`clean_line`).

        Raises:
            OSError: the file exists and cannot be read.
        """
        with self._lock:
            start, stop = max(0, start), min(stop, self._count())
            if start >= stop:
                return []
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
            try:
                return self._read(handle, start, stop)
            finally:
                os.close(handle)

    def pick(self, numbers: Sequence[int]) -> list[str]:
        """The lines with these numbers, which must rise; unknown ones are left out.

        Raises:
            OSError: the file exists and cannot be read.
        """
        found: list[str] = []
        start = 0
        for place in range(1, len(numbers) + 1):
            if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
                found += self.lines(numbers[start], numbers[place - 1] + 1)
                start = place
        return found

    def tail(self, most: int) -> list[str]:
        """The last lines of the file, without an index."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            size = os.fstat(handle).st_size
            start = max(0, size - _TAIL)
            lines = os.pread(handle, size - start, start).split(b"\n")
        finally:
            os.close(handle)
        if lines and not lines[-1]:
            lines.pop()
        if start and len(lines) > 1:
            lines = lines[1:]  # the first one begins before the block
        return [clean_line(line) for line in lines[-most:]] if most > 0 else []

    def find(
        self, search: Callable[[str], object], start: int = 0, *, inverse: bool = False, budget_s: float = 0.05
    ) -> tuple[array[int], int]:
        """(numbers of the closed lines from `start` on that match, line at which to continue).

        Args:
            search: called with every line without colours; usually the `search` of a compiled pattern.
            start: first line to search.
            inverse: give the lines that do not match.
            budget_s: about how long to search.

        Raises:
            OSError: the file exists and cannot be read.
        """
        limit = time.monotonic() + budget_s
        found: array[int] = array("Q")
        while True:
            with self._lock:
                stop = min(start + _FIND_LINES, len(self._starts) - 1)
                if start >= stop:
                    return found, start
                texts = self._plain_lines(start, stop)
            found.extend([number for number, text in enumerate(texts, start) if (not search(text)) == inverse])
            start = stop
            if time.monotonic() > limit:
                return found, start

    # --- inside ------------------------------------------------------------------------------------------------------

    def _state(self) -> LogState:
        return LogState(self._generation, self._count(), len(self._starts) - 1, self._known, self._size)

    def _count(self) -> int:
        return len(self._starts) - (self._known <= self._starts[-1])

    def _begin_again(self) -> None:
        self._generation += 1
        self._forget()

    def _check_same(self, handle: int) -> None:
        status = os.fstat(handle)
        identity = (status.st_dev, status.st_ino)
        if self._identity not in (None, identity) or status.st_size < self._known or not self._is_known(handle):
            self._begin_again()
        self._identity, self._size = identity, status.st_size

    def _is_known(self, handle: int) -> bool:
        start = self._known - len(self._witness)
        return os.pread(handle, len(self._witness), start) == self._witness

    def _take(self, block: bytes) -> None:
        parts = block.split(b"\n")
        parts.pop()
        starts = accumulate(map((1).__add__, map(len, parts)), initial=self._known)
        first = next(starts)
        if parts:
            # The piece before the first newline may go on with a line of the block before; its start is known already.
            self._starts.extend(starts)
        self._known = first + len(block)
        self._witness = (self._witness + block[-_WITNESS:])[-_WITNESS:]

    def _read(self, handle: int, start: int, stop: int) -> list[str]:
        ends = self._starts[start + 1 : stop + 1]
        if len(ends) < stop - start:
            ends.append(self._known + 1)  # as if the open line had its newline
        begins = self._starts[start : start + len(ends)]
        if ends[-1] - begins[0] <= _BLOCK and max(end - begin for begin, end in zip(begins, ends)) <= _LONG:
            data, base = os.pread(handle, ends[-1] - begins[0], begins[0]), begins[0]
            return [clean_line(data[begin - base : end - 1 - base]) for begin, end in zip(begins, ends)]
        return [_read_line(handle, begin, end - 1) for begin, end in zip(begins, ends)]

    def _plain_lines(self, start: int, stop: int) -> list[str]:
        begin, end = self._starts[start], self._starts[stop]
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return [""] * (stop - start)
        try:
            if end - begin > 16 * _BLOCK:
                return [plain(line) for line in self._read(handle, start, stop)]
            data = os.pread(handle, end - begin, begin)
        finally:
            os.close(handle)
        texts = plain_lines(data.decode(errors="replace"))
        if texts is not None:
            return [line[:LONGEST] for line in texts[: stop - start]]
        return [plain(clean_line(line)) for line in data.split(b"\n")[: stop - start]]


def _read_line(handle: int, begin: int, end: int) -> str:
    """A line from its first and last bytes when it is long."""
    if end - begin <= _LONG:
        return clean_line(os.pread(handle, end - begin, begin))
    last = os.pread(handle, _LONG, end - _LONG).rstrip(b"\r")
    if b"\r" in last:  # a progress bar that was drawn many times
        return clean_line(final(last))
    return clean_line(os.pread(handle, _LONG, begin), cut=end - begin - _LONG)
