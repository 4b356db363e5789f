"""What answers that grow twenty times a second need: a view that grows without a layout of the screen, and wrapping.

Neither looks again at lines that are complete, so the cost per token does not depend on the length of the answer.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView

from hetspec_tui.formatting import safe

Run = tuple[str, int]
"""Text and its tag."""
_SCROLL = 3
_TAB = "    "
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}  # terminals disagree on the width of a character that has one of them


class GrowingView(ScrollView, inherit_bindings=False):
    """A scroll view whose vertical bar is always there."""

    DEFAULT_CSS = """
    GrowingView {
        height: 1fr;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._base: Style | None = None
        self._styles: dict[str, Style] = {}

    def set_extent(self, size: Size) -> None:
        """Set the size of the content; a new height alone causes no layout."""
        if size == self.virtual_size:
            return
        if size.width != self.virtual_size.width or not self.is_attached:
            self.virtual_size = size
            return
        self.set_reactive(ScrollView.virtual_size, size)  # type: ignore[arg-type] - a reactive, seen from the class
        self.vertical_scrollbar.window_virtual_size = size.height
        if self.scroll_offset.y > self.max_scroll_y:
            self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True)

    def base_style(self, y: int) -> Style:
        """Style of line `y` of the screen; looked up once per drawing."""
        if y == 0 or self._base is None:
            self._base = self.rich_style
        return self._base

    def part_style(self, name: str) -> Style:
        """Style of a component class without its background; looked up once."""
        style = self._styles.get(name)
        if style is None:
            style = self._styles[name] = self.get_component_rich_style(name, partial=True)
        return style

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._base = None
        self._styles.clear()

    def on_mouse_scroll_down(self) -> None:
        self.scroll_relative(y=_SCROLL, animate=False)

    def on_mouse_scroll_up(self) -> None:
        self.scroll_relative(y=-_SCROLL, animate=False)


class Wrapping:
    """Text broken into lines as it arrives; every letter keeps the tag that it came with.

    Args:
        width: cells of a line.
    """

    def __init__(self, width: int) -> None:
        self.width = max(2, width)
        self._closed: list[list[Run]] = []
        self._open: list[tuple[str, int, int]] = []  # letter, cells, tag
        self._cells = 0

    @property
    def lines(self) -> list[list[Run]]:
        """All lines; the last one may still grow."""
        return [*self._closed, _runs(self._open)]

    def __len__(self) -> int:
        return len(self._closed) + 1

    def line(self, number: int) -> list[Run]:
        """One line as pieces of one tag each."""
        return self._closed[number] if number < len(self._closed) else _runs(self._open)

    def add(self, text: str, tag: int) -> None:
        """Append text. Line breaks are kept; other control characters are drawn as escapes."""
        for letter in text:
            if letter == "\n":
                self._close(self._open)
                self._open, self._cells = [], 0
            elif letter in _JOINERS:
                continue
            elif letter.isascii() and letter.isprintable():
                self._put(letter, 1, tag)
            else:
                shown = _TAB if letter == "\t" else safe(letter)
                if len(shown) > 1:
                    for part in shown:
                        self._put(part, 1, tag)
                else:
                    self._put(shown, cell_len(shown), tag)

    def _put(self, letter: str, cells: int, tag: int) -> None:
        if cells == 0 and not (self._open and unicodedata.combining(letter)):
            return  # a combining mark with no letter before it, or an invisible character
        if self._cells + cells > self.width:
            if letter == " ":  # the line break replaces the space
                self._close(self._open)
                self._open, self._cells = [], 0
                return
            self._break(cells)
        self._open.append((letter, cells, tag))
        self._cells += cells

    def _break(self, cells: int) -> None:
        """Begin a new line after the last space, or after the last letter of a line without spaces."""
        cut = 0
        if cells < 2:
            cut = next((i + 1 for i in range(len(self._open) - 1, -1, -1) if self._open[i][0] == " "), 0)
        if cut == 0:
            cut = len(self._open)
        self._close(self._open[:cut])
        self._open = self._open[cut:]
        self._cells = sum(cells for _, cells, _ in self._open)

    def _close(self, letters: list[tuple[str, int, int]]) -> None:
        self._closed.append(_runs(letters))


def _runs(letters: list[tuple[str, int, int]]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for index in range(1, len(letters) + 1):
        if index == len(letters) or letters[index][2] != letters[start][2]:
            runs.append(("".join(letter for letter, _, _ in letters[start:index]), letters[start][2]))
            start = index
    return runs
