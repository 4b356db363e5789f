"""Where a log view has its lines from, and what lines are asked for. It knows neither files nor widgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

try:  # the parser of Python's own patterns has no public name
    from re import _parser as _pattern_parser  # pyright: ignore[reportAttributeAccessIssue]
except ImportError:  # pragma: no cover - another Python
    _pattern_parser = None

Search = Callable[[str], "re.Match[str] | None"]


class LineState(Protocol):
    """What is known of the lines; see `service.logs.LogState`."""

    @property
    def generation(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def closed(self) -> int: ...
    @property
    def complete(self) -> bool: ...


class LineSource(Protocol):
    """Numbered lines that may grow. Lines are clean: no control characters but SGR escapes."""

    async def look(self) -> LineState:
        """What is known now; asked again and again."""
        ...

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        """The lines of these numbers, which rise."""
        ...

    async def tail(self, most: int) -> list[str]:
        """The last lines, also before all before them are known."""
        ...

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        """Numbers of closed lines from `start` on that have it (inverse: that do not), and where to go on."""
        ...


@dataclass(frozen=True)
class Known:
    """A plain `LineState`."""

    generation: int = 0
    count: int = 0
    closed: int = 0
    complete: bool = True


class ListSource:
    """Lines in memory; they only grow, unless `clear` is called."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._lines = list(lines)
        self._generation = 0

    def extend(self, lines: Sequence[str]) -> None:
        """Add lines at the end."""
        self._lines.extend(lines)

    def clear(self) -> None:
        """Begin again with no lines."""
        self._lines.clear()
        self._generation += 1

    async def look(self) -> LineState:
        return Known(self._generation, len(self._lines), len(self._lines))

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        return [self._lines[number] for number in numbers if number < len(self._lines)]

    async def tail(self, most: int) -> list[str]:
        return self._lines[-most:] if most > 0 else []

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        stop = min(len(self._lines), start + 4096)
        found = [number for number in range(start, stop) if (search(self._lines[number]) is None) == inverse]
        return found, stop


class PatternError(ValueError):
    """A filter cannot be understood, or could take for ever; its text says why."""


@dataclass(frozen=True)
class LineFilter:
    """Which lines to show: those that a regular expression is found in, or with `inverse` the others.

    Attributes:
        text: as it was typed.
        pattern: what it means; letters of either case when `text` has no capitals.
        inverse: it began with `!`.
    """

    text: str
    pattern: re.Pattern[str]
    inverse: bool

    @classmethod
    def parse(cls, text: str) -> LineFilter | None:
        """The filter of a text as typed; None when it is empty.

        Raises:
            PatternError: it is no regular expression, or one that repeats what repeats.
        """
        inverse = text.startswith("!")
        body = text[1:] if inverse else text
        if not body:
            return None
        try:
            pattern = re.compile(body, 0 if body != body.lower() else re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(str(error)) from None
        if _pattern_parser is not None and _repeats_repeats(_pattern_parser.parse(body), False):
            raise PatternError("a repeat of a repeat can take for ever")
        return cls(text, pattern, inverse)


def _repeats_repeats(parsed: Any, inside: bool) -> bool:
    """Whether an unbounded repeat is inside another one, or right behind one of the same: some lines take for ever."""
    before = ""
    for operation, argument in parsed:
        name, body = str(operation), ""
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            many = argument[1] > 16
            body = str(list(argument[2])) if many else ""
            if (many and inside) or (many and body == before) or _repeats_repeats(argument[2], inside or many):
                return True
        elif name == "SUBPATTERN":
            if _repeats_repeats(argument[3], inside):
                return True
        elif name == "BRANCH" and any(_repeats_repeats(branch, inside) for branch in argument[1]):
            return True
        before = body
    return False
