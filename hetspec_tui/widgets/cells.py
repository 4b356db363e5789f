"""What a table is made of: columns, rows, cells, text cut to a width, and how all of them are drawn as strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from hetspec_tui.formatting import safe

Tone = Literal["", "muted", "accent", "primary", "success", "warning", "error", "strong"]
"""The colour of a cell, by the theme. Its text or a sign says the same, so that colour is never the only mark."""

TONES: tuple[Tone, ...] = ("muted", "accent", "primary", "success", "warning", "error", "strong")

GAP = 1
"""Empty cells between two columns."""

GUTTER = 3
"""Cells on the left that never scroll: the sign of the cursor, the mark, and a space."""

Mark = tuple[str, str]
"""Sign (one cell) and colour of a mark; an empty colour is that of the theme."""


@dataclass(frozen=True)
class Cell:
    """One cell. Its text is never read as markup."""

    text: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in messages and in saved settings.
        title: its heading.
        width: least width in cells.
        align: the side of shorter text.
        grow: its share of the remaining room; 0 = none.
        most: greatest width in cells.
    """

    key: str
    title: str
    width: int
    align: Literal["left", "right"] = "left"
    grow: int = 0
    most: int = 60


@dataclass(frozen=True)
class Row:
    """One row; its key stays the same when its content changes."""

    key: str
    cells: tuple[Cell, ...]
    tone: Tone = ""


def fit(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """The text in exactly `width` cells: control characters as escapes, cut with an ellipsis, or filled with spaces."""
    if width <= 0:
        return ""
    if text.isascii() and text.isprintable():  # the fast path for most text
        if len(text) > width:
            text = f"{text[: width - 1]}…"
        return text.rjust(width) if align == "right" else text.ljust(width)
    text = safe(text[: 4 * width]).replace("\ufe0f", "")  # terminals disagree on the width of a character with it
    size = cell_len(text)
    if size > width:
        kept = chop_cells(text, width - 1)[0] if width > 1 else ""
        text = f"{kept}…"
        size = cell_len(text)
    if size > width:  # a wide character in a single cell
        text, size = "…", 1
    room = " " * (width - size)
    return room + text if align == "right" else text + room


def share_out(columns: Sequence[Column], room: int) -> list[int]:
    """Widths of columns in `room` cells: each has its own, and the growing ones in view share the remaining room.

    Columns that do not fit stay beyond the right edge and are reached by scrolling sideways.
    """
    widths = [column.width for column in columns]
    ends = [sum(widths[: n + 1]) + GAP * n for n in range(len(widths))]
    fitting = sum(1 for end in ends if end <= room)
    spare = room - ends[fitting - 1] if fitting else 0
    while spare > 0:
        growing = [n for n in range(fitting) if columns[n].grow and widths[n] < columns[n].most]
        if not growing:
            break
        shares, before = sum(columns[n].grow for n in growing), spare
        for n in growing:
            more = min(max(1, before * columns[n].grow // shares), columns[n].most - widths[n], spare)
            widths[n] += more
            spare -= more
    return widths


class TableRenderer:
    """Draws the lines of one table.

    Args:
        widget: the table; its component classes give the styles.
        prefix: the first part of their names.
    """

    def __init__(self, widget: Widget, prefix: str) -> None:
        self._widget = widget
        self._prefix = prefix
        self._styles: dict[str, Style] = {}
        self._tones: dict[str, Style] = {}

    def forget(self) -> None:
        self._styles.clear()
        self._tones.clear()

    def style(self, part: str) -> Style:
        """Full style of a part of the table, background included; of plain rows for an empty name."""
        style = self._styles.get(part)
        if style is None:
            widget = self._widget
            style = widget.get_component_rich_style(f"{self._prefix}--{part}") if part else widget.rich_style
            self._styles[part] = style
        return style

    def tone(self, tone: str) -> Style:
        """The style of a tone: colour and weight without a background."""
        if not tone:
            return Style.null()
        style = self._tones.get(tone)
        if style is None:
            full = self._widget.get_component_rich_style(f"{self._prefix}--{tone}")
            style = Style(color=None if tone == "strong" else full.color, bold=full.bold or None)
            self._tones[tone] = style
        return style

    def heading(
        self, columns: Sequence[Column], widths: Sequence[int], sort: tuple[str, bool] | None
    ) -> tuple[Strip, Strip]:
        """Gutter and titles; an arrow marks the column of the order, ▼ = the largest first."""
        style = self.style("header")
        segments: list[Segment] = []
        for column, width in zip(columns, widths, strict=False):
            title = column.title
            if sort is not None and sort[0] == column.key:
                arrow = "▼" if sort[1] else "▲"
                title = f"{fit(title, min(len(title), width - 1)).rstrip()}{arrow}"
            segments += [*_apart(fit(title, width, column.align), style, style), Segment(" " * GAP, style)]
        return Strip([Segment(" " * GUTTER, style)]), Strip(segments)

    def row(
        self, row: Row, columns: Sequence[Column], widths: Sequence[int], is_cursor: bool, mark: Mark | None
    ) -> tuple[Strip, Strip]:
        """Gutter and cells of a row."""
        base = self.style("cursor" if is_cursor else "")
        segments: list[Segment] = []
        for column, width, cell in zip(columns, widths, row.cells, strict=False):
            if segments:
                segments.append(Segment(" " * GAP, base))
            tone = self._on(is_cursor, self.tone(cell.tone or row.tone))
            segments += _apart(fit(cell.text, width, column.align), base, base + tone)
        return self._gutter(is_cursor, mark), Strip(segments)

    def placeholder(self, word: str, is_cursor: bool, mark: Mark | None, width: int) -> tuple[Strip, Strip]:
        """Gutter and a word in place of a missing row."""
        base = self.style("cursor" if is_cursor else "")
        style = base + self._on(is_cursor, self.tone("muted"))
        return self._gutter(is_cursor, mark), Strip([Segment(fit(word, max(1, width)), style)])

    def message(self, text: str, y: int, size: Size) -> Strip:
        """Line `y` of a text in the middle of the table: a fact, and below it what to do."""
        lines, style = text.splitlines() or [""], self.style("")
        first = max(1, (size.height - len(lines)) // 2)
        if not first <= y < first + len(lines):
            return Strip.blank(size.width, style)
        line = fit(lines[y - first], max(1, size.width - 2)).strip()
        drawn = Strip([Segment(" " * ((size.width - len(line)) // 2), style),
                       Segment(line, style + self.tone("" if y == first else "muted"))])  # fmt: skip
        return drawn.extend_cell_length(size.width, style).crop(0, size.width)

    def _gutter(self, is_cursor: bool, mark: Mark | None) -> Strip:
        base = self.style("cursor" if is_cursor else "")
        sign, colour = mark or ("", "")
        style = base + self._on(is_cursor, Style(color=colour, bold=True) if colour else self.tone("marked"))
        return Strip([Segment("▌" if is_cursor else " ", base), Segment(fit(sign, GUTTER - 1), style)])

    def _on(self, is_cursor: bool, tone: Style) -> Style:
        """The tone, but not under the cursor of the focused table, whose background makes other colours unreadable."""
        return Style.null() if is_cursor and self._widget.has_focus else tone


def _apart(text: str, base: Style, style: Style) -> list[Segment]:
    """Text with its leading spaces in their own segment; SVG pictures of the screen lose them otherwise."""
    bare = text.lstrip(" ")
    if len(bare) == len(text):
        return [Segment(text, style)]
    return [Segment(" " * (len(text) - len(bare)), base), Segment(bare, style)]
