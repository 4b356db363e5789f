"""Text that grows at its end, broken into lines of so many cells as it comes; each letter keeps the tag it came with.

What has been broken is never looked at again, so an answer costs the same per token however long it is. No widgets.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len

from hetspec_tui.formatting import safe

Run = tuple[str, int]
"""Letters of one tag."""
_TAB = "    "
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}  # terminals disagree on how wide a sign becomes by them


class Wrapping:
    """Lines of text.

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
        """One line."""
        return self._closed[number] if number < len(self._closed) else _runs(self._open)

    def add(self, text: str, tag: int) -> None:
        """Put text behind what there is. Line breaks are kept; other controls are shown by name."""
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
            return  # nothing that it could stand on, or a sign that cannot be seen
        if self._cells + cells > self.width:
            if letter == " ":  # the end of a line is a space
                self._close(self._open)
                self._open, self._cells = [], 0
                return
            self._break(cells)
        self._open.append((letter, cells, tag))
        self._cells += cells

    def _break(self, cells: int) -> None:
        """Begin a new line behind the last space, or behind the last letter where words have no spaces."""
        cut = 0
        if cells < 2:
            cut = next((at + 1 for at in range(len(self._open) - 1, -1, -1) if self._open[at][0] == " "), 0)
        if cut == 0:
            cut = len(self._open)
        self._close(self._open[:cut])
        self._open = self._open[cut:]
        self._cells = sum(one[1] for one in self._open)

    def _close(self, letters: list[tuple[str, int, int]]) -> None:
        self._closed.append(_runs(letters))


def _runs(letters: list[tuple[str, int, int]]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for at in range(1, len(letters) + 1):
        if at == len(letters) or letters[at][2] != letters[start][2]:
            runs.append(("".join(letter for letter, _, _ in letters[start:at]), letters[start][2]))
            start = at
    return runs
