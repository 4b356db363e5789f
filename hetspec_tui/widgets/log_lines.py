"""The lines of a log on the screen. It fetches, parses and draws only the lines in view; lines are never markup.

Its owner sets the number of lines and answers `LogLines.Wanted` with the missing ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from rich.ansi import AnsiDecoder
from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

_HELD = 8192  # lines kept in memory
_ERROR = re.compile(r"\b(?:ERROR|CRITICAL|FATAL|Traceback|[A-Za-z]*(?:Error|Exception):)")
_WARNING = re.compile(r"\bWARN(?:ING)?\b|[A-Za-z]*Warning:")


class PatternError(ValueError):
    """A filter is no regular expression; the text of the error gives the reason."""


@dataclass(frozen=True)
class LineFilter:
    """Shows the lines in which a regular expression matches, or with `inverse` the others.

    Attributes:
        text: the filter as typed.
        pattern: its expression; it ignores case when `text` has no capitals.
        inverse: whether the text begins with `!`.
    """

    text: str
    pattern: re.Pattern[str]
    inverse: bool

    @classmethod
    def parse(cls, text: str) -> LineFilter | None:
        """The filter of a text as typed; None when it is empty.

        Raises:
            PatternError: it is no regular expression.
        """
        body = text.removeprefix("!")
        if not body:
            return None
        try:
            pattern = re.compile(body, 0 if body != body.lower() else re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(str(error)) from None
        return cls(text, pattern, text.startswith("!"))


class LogLines(ScrollView, can_focus=True):
    """Rows of lines: all of them when `numbers` is None, otherwise those with these numbers, the matches."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "log-lines--error",
        "log-lines--warning",
        "log-lines--match",
        "log-lines--number",
        "log-lines--here",
    }
    DEFAULT_CSS = """
    LogLines {
        height: 1fr;
        overflow-y: scroll;
        scrollbar-size-horizontal: 1;
        scrollbar-size-vertical: 1;

        & .log-lines--error { color: $text-error; }
        & .log-lines--warning { color: $text-warning; }
        & .log-lines--match { background: $warning 40%; text-style: bold; }
        & .log-lines--number { color: $text-muted; }
        & .log-lines--here { background: $primary 30%; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "go(-1)", "Up", id="log.up", show=False),
        Binding("down,j", "go(1)", "Down", id="log.down", show=False),
        Binding("pageup,b", "page(-1)", "Page up", id="log.page-up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", id="log.page-down", show=False),
        Binding("home,g", "first", "First line", id="log.first", show=False),
        Binding(
            "end,G", "last", "Follow", id="log.last", show=False, tooltip="Go to the end and follow what is written"
        ),
    ]

    @dataclass
    class Wanted(Message):
        """Lines in view are missing."""

        numbers: list[int]

    @dataclass
    class Moved(Message):
        """Another part is in view, or following began or ended."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.following = True
        self.wrap = False
        self.numbers: Sequence[int] | None = None
        self.pattern: re.Pattern[str] | None = None
        self.here: int | None = None
        self._count = 0
        self._lines: dict[int, str] = {}
        self._strips: dict[tuple[int, int], list[Strip]] = {}
        self._asked: set[int] = set()
        self._rows: list[tuple[int, int]] | None = None  # per screen row: row of lines, part of the wrapped line
        self._widest = 0
        self._moving = False

    # --- content ------------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Number of rows: all lines, or the matches."""
        return self._count if self.numbers is None else len(self.numbers)

    def number(self, row: int) -> int:
        """The number of the line in a row."""
        return row if self.numbers is None else self.numbers[row]

    def show(
        self, count: int, lines: Mapping[int, str], *, numbers: Sequence[int] | None = None, closed: int | None = None
    ) -> None:
        """Show this many lines.

        Args:
            count: number of all lines.
            lines: some of them by number; those that will be in view, if possible.
            numbers: the lines to show; None = all.
            closed: lines from here on may have changed and are fetched again.
        """
        if closed is not None:
            for number in [number for number in self._lines if number >= closed and number not in lines]:
                del self._lines[number]
            for number in lines:
                if number >= closed:
                    self._forget_strips(number)
        self._count, self.numbers = count, numbers
        self.supply(lines)
        self._fit()

    def supply(self, lines: Mapping[int, str]) -> None:
        for number, line in lines.items():
            if self._lines.get(number) != line:
                self._forget_strips(number)
        self._lines.update(lines)
        self._asked.difference_update(lines)
        if len(self._lines) > _HELD:
            kept = {self.number(row) for row, _ in self.layout_rows()} | set(lines)
            self._lines = {number: line for number, line in self._lines.items() if number in kept}
            self._strips.clear()
        self._rows = None
        self.refresh()

    def forget(self) -> None:
        """Drop all lines: their numbers now mean other lines."""
        self._lines.clear()
        self._asked.clear()
        self.redraw()

    def redraw(self) -> None:
        """Draw all lines again after a change of pattern, wrapping or theme."""
        self._strips.clear()
        self._rows = None
        self._fit()
        self.refresh()

    def line(self, number: int) -> str | None:
        """A line; None when it was not fetched."""
        return self._lines.get(number)

    # --- position -----------------------------------------------------------------------------------------------------

    @property
    def top(self) -> int:
        """The first row of lines in view."""
        return round(self.scroll_y)

    @property
    def _height(self) -> int:
        return max(1, self.scrollable_content_region.height)

    def _fit(self) -> None:
        """Set the virtual size; stay at the end when following."""
        height = self.rows + (self._height - 1 if self.wrap and self.rows else 0)
        self.virtual_size = Size(0 if self.wrap else self._widest, height)
        if self.following:
            self._to(self._last_top())
        elif self.top > max(0, self.rows - 1):
            self._to(max(0, self.rows - 1))

    def _last_top(self) -> int:
        """The top row at which the last line ends in the last row of the screen."""
        if not self.wrap:
            return max(0, self.rows - self._height)
        room, row = self._height, self.rows
        while row > 0 and room > 0:
            row -= 1
            room -= self._parts(row)
        return min(self.rows - 1, row + (room < 0)) if self.rows else 0

    def _to(self, row: int) -> None:
        self._moving = True
        self._rows = None
        self.scroll_to(y=row, animate=False, immediate=True)
        self._moving = False

    def go_to(self, row: int) -> None:
        """Show a row near the middle, and stop following."""
        self.following = False
        self._to(max(0, min(row - self._height // 3, self._last_top())))
        self.redraw()
        self.post_message(self.Moved())

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._rows = None
        if round(old_value) == round(new_value) or self._moving:
            return
        self.following = self.top >= self._last_top()
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        self.redraw()

    def action_go(self, rows: int) -> None:
        last = self._last_top()
        target = max(0, min(self.top + rows, last))
        self.following = target >= last
        self._to(target)
        self.refresh()
        self.post_message(self.Moved())

    def action_page(self, pages: int) -> None:
        self.action_go(pages * max(1, self._height - 1))

    def action_first(self) -> None:
        self.action_go(-self.rows)

    def action_last(self) -> None:
        self.following = True
        self._fit()
        self.refresh()
        self.post_message(self.Moved())

    # --- drawing ------------------------------------------------------------------------------------------------------

    def layout_rows(self) -> list[tuple[int, int]]:
        """Per row of the screen: the row of lines, and the part of it when it is wrapped."""
        if self._rows is not None:
            return self._rows
        height, rows = self._height, []
        if self.wrap and self.following:
            row = self.rows
            while row > 0 and len(rows) < height:
                row -= 1
                rows[:0] = [(row, part) for part in range(self._parts(row))]
            rows = rows[-height:]
        else:
            row = self.top
            while row < self.rows and len(rows) < height:
                rows += [(row, part) for part in range(self._parts(row))]
                row += 1
            rows = rows[:height]
        self._rows = rows
        wanted = sorted({self.number(row) for row, _ in rows} - self._lines.keys() - self._asked)
        if wanted:
            self._asked.update(wanted)
            self.post_message(self.Wanted(wanted))
        return rows

    def texts_in_view(self) -> list[str]:
        """The lines in view, without colours."""
        numbers = dict.fromkeys(self.number(row) for row, _ in self.layout_rows())
        return [_text(self._lines.get(number, "")).plain for number in numbers]

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        rows = self.layout_rows()
        if y >= len(rows):
            return Strip.blank(width, self.rich_style)
        row, part = rows[y]
        strips = self._strips_of(row)
        strip = strips[min(part, len(strips) - 1)]
        left = 0 if self.wrap else round(self.scroll_x)
        return strip.crop_extend(left, left + width, self.rich_style)

    def _parts(self, row: int) -> int:
        return len(self._strips_of(row)) if self.wrap else 1

    def _strips_of(self, row: int) -> list[Strip]:
        number = self.number(row)
        line = self._lines.get(number)
        if line is None:
            return [Strip([Segment("…", self.get_component_rich_style("log-lines--number"))])]
        width = self.scrollable_content_region.width if self.wrap else 0
        strips = self._strips.get((number, width))
        if strips is None:
            if len(self._strips) > 4 * self._height + 1024:
                self._strips.clear()
            strips = self._strips[number, width] = self._make_strips(number, line, width)
        return strips

    def _make_strips(self, number: int, line: str, width: int) -> list[Strip]:
        base = self.rich_style
        text = _text(line)
        if not text.spans:
            if _ERROR.search(line):
                text.stylize(self._style("error"))
            elif _WARNING.search(line):
                text.stylize(self._style("warning"))
        if self.pattern is not None:
            style = self._style("match")
            for match in self.pattern.finditer(text.plain):
                text.stylize(style, *match.span())
        if number == self.here:
            text.stylize(self._style("here"))
        gutter = ""
        if self.numbers is not None:
            gutter = f"{number + 1:>{len(str(self._count))}} "
        lead = [Segment(gutter, base + self._style("number"))] if gutter else []
        if not width:
            self._widen(len(gutter) + cell_len(text.plain))
            return [Strip([*lead, *self._segments(text, base)])]
        room = max(1, width - len(gutter))
        ends = list(accumulate(len(piece) for piece in chop_cells(text.plain, room)))
        parts = text.divide(ends[:-1]) if len(ends) > 1 else [text]
        blank = [Segment(" " * len(gutter), base)] if gutter else []
        return [Strip([*(blank if index else lead), *self._segments(part, base)]) for index, part in enumerate(parts)]

    def _segments(self, text: Text, base: Style) -> list[Segment]:
        if not text.spans:
            return [Segment(text.plain, base)]
        return [
            Segment(piece, base + style if style else base) for piece, style, _ in text.render(self.app.console, "")
        ]

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"log-lines--{name}", partial=True)

    def _widen(self, width: int) -> None:
        if width > self._widest:
            self._widest = width
            self.call_later(self._fit)

    def _forget_strips(self, number: int) -> None:
        for key in [key for key in self._strips if key[0] == number]:
            del self._strips[key]

    def notify_style_update(self) -> None:
        self._strips.clear()
        super().notify_style_update()


def _text(line: str) -> Text:
    return AnsiDecoder().decode_line(line) if "\x1b" in line else Text(line)
