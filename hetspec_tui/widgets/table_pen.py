"""How rows of a table are drawn as strips; what is drawn is kept. It knows styles, not where rows come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from hetspec_tui.widgets.cells import GAP, Column, Row, fit

GUTTER = 3
"""Cells on the left that never scroll: the sign of the cursor, the mark, and a space."""

Mark = tuple[str, str]
"""Sign of one cell and colour of a mark; an empty colour is that of the theme."""


class TablePen:
    """Draws the lines of one table.

    Args:
        widget: whose component classes give the styles.
        prefix: what those begin with.
    """

    def __init__(self, widget: Widget, prefix: str) -> None:
        self._widget = widget
        self._prefix = prefix
        self._styles: dict[str, Style] = {}
        self._tones: dict[str, Style] = {}
        self._rows: dict[tuple[str, bool, Mark | None], tuple[Strip, Strip]] = {}

    def forget(self) -> None:
        """Styles have changed: draw everything again."""
        self._styles.clear()
        self._tones.clear()
        self._rows.clear()

    def forget_rows(self, keys: Iterable[str] | None = None) -> None:
        """Draw these rows again, or all when columns or widths have changed."""
        if keys is None:
            self._rows.clear()
            return
        gone = set(keys)
        self._rows = {drawn: strips for drawn, strips in self._rows.items() if drawn[0] not in gone}

    def style(self, part: str) -> Style:
        """Full style of a part of the table, background included; of plain rows for an empty name."""
        style = self._styles.get(part)
        if style is None:
            widget = self._widget
            style = widget.get_component_rich_style(f"{self._prefix}--{part}") if part else widget.rich_style
            self._styles[part] = style
        return style

    def tone(self, tone: str) -> Style:
        """What a tone changes: colour and weight, never the background."""
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
        """Gutter and titles; the column of the order has an arrow, ▼ = the largest first."""
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
        drawn = self._rows.get((row.key, is_cursor, mark))
        if drawn is None:
            base = self.style("cursor" if is_cursor else "")
            segments: list[Segment] = []
            for place, (column, width, cell) in enumerate(zip(columns, widths, row.cells, strict=False)):
                if place:
                    segments.append(Segment(" " * GAP, base))
                tone = self._on(is_cursor, self.tone(cell.tone or row.tone))
                segments += _apart(fit(cell.text, width, column.align), base, base + tone)
            drawn = self._gutter(is_cursor, mark), Strip(segments)
            self._rows[row.key, is_cursor, mark] = drawn
        return drawn

    def placeholder(self, word: str, is_cursor: bool, mark: Mark | None, width: int) -> tuple[Strip, Strip]:
        """Gutter and a word for a row that is not there."""
        base = self.style("cursor" if is_cursor else "")
        style = base + self._on(is_cursor, self.tone("muted"))
        return self._gutter(is_cursor, mark), Strip([Segment(fit(word, max(1, width)), style)])

    def words(self, words: str, y: int, size: Size) -> Strip:
        """Line `y` of words in the middle of the table, in place of rows: a fact, and below it what to do."""
        lines, style = words.splitlines() or [""], self.style("")
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
        """A tone, except under the cursor of the focused table: on its background other colours cannot be read."""
        return Style.null() if is_cursor and self._widget.has_focus else tone


def _apart(text: str, base: Style, style: Style) -> list[Segment]:
    """Text with the spaces before it in a segment of their own: pictures of the screen lose them otherwise."""
    bare = text.lstrip(" ")
    if len(bare) == len(text):
        return [Segment(text, style)]
    return [Segment(" " * (len(text) - len(bare)), base), Segment(bare, style)]
