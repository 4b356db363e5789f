"""What a table is made of: columns, rows and cells, and text that fits into so many cells of a terminal. No widgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, chop_cells

from hetspec_tui.formatting import safe

Tone = Literal["", "muted", "accent", "primary", "success", "warning", "error", "strong"]
"""How a cell is coloured; the theme says with what. Text or a sign says the same, so that colour is never alone."""

TONES: tuple[Tone, ...] = ("muted", "accent", "primary", "success", "warning", "error", "strong")

GAP = 1
"""Empty cells between two columns."""


@dataclass(frozen=True)
class Cell:
    """One cell; its text may come from anywhere, it is never read as markup."""

    text: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name, in messages and in the state that is kept.
        title: its heading.
        width: cells of a terminal; at least so many.
        align: where shorter text stands.
        grow: its share of the room that is left over; 0 = none.
        most: cells that it grows to at most.
    """

    key: str
    title: str
    width: int
    align: Literal["left", "right"] = "left"
    grow: int = 0
    most: int = 60


@dataclass(frozen=True)
class Row:
    """One row, by a key that stays the same when its content changes."""

    key: str
    cells: tuple[Cell, ...]
    tone: Tone = ""


def fit(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """The text in exactly `width` cells: control characters as escapes, cut with an ellipsis, or filled with spaces."""
    if width <= 0:
        return ""
    if text.isascii() and text.isprintable():  # what nearly all text is
        if len(text) > width:
            text = f"{text[: width - 1]}…"
        return text.rjust(width) if align == "right" else text.ljust(width)
    text = safe(text[: 4 * width]).replace("\ufe0f", "")  # terminals disagree on how wide a sign becomes by it
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
    """Widths of columns in `room` cells: each has its own, and those in view that grow share what is left over there.

    Columns that do not fit stay beyond the right edge, where scrolling sideways finds them.
    """
    widths = [column.width for column in columns]
    ends = [sum(widths[: n + 1]) + GAP * n for n in range(len(widths))]
    seen = sum(1 for end in ends if end <= room)
    spare = room - ends[seen - 1] if seen else 0
    while spare > 0:
        growing = [n for n in range(seen) if columns[n].grow and widths[n] < columns[n].most]
        if not growing:
            break
        shares, before = sum(columns[n].grow for n in growing), spare
        for n in growing:
            more = min(max(1, before * columns[n].grow // shares), columns[n].most - widths[n], spare)
            widths[n] += more
            spare -= more
    return widths
