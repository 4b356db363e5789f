"""Curves as braille dots: every cell has two columns and four rows of them. It knows no colours and no widgets.

A column of dots is one integer, with bit 0 for the top row.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from hetspec_tui.widgets.curves import Curve

DOTS_X, DOTS_Y = 2, 4
_LEFT, _RIGHT = (0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80)
_FAR = 1e9  # dots; what is farther outside is as good as there


def _braille() -> list[str]:
    found = []
    for code in range(256):
        dots = sum(bit for row, bit in enumerate(_LEFT) if code >> row & 1)
        dots += sum(bit for row, bit in enumerate(_RIGHT) if code >> (4 + row) & 1)
        found.append(chr(0x2800 + dots))
    return found


BRAILLE = _braille()
"""Dots of a cell as left + 16 * right, each with bit 0 for the top row -> character."""


@dataclass(frozen=True)
class Viewport:
    """What is seen: x from `left` to `right`, y from `bottom` to `top`, all of them finite and apart."""

    left: float
    right: float
    bottom: float
    top: float

    def column(self, x: float, columns: int) -> float:
        """Where x lies among `columns` columns of dots, as a fraction of columns from the left."""
        place = (x - self.left) / (self.right - self.left) * columns
        return max(-_FAR, min(_FAR, place))

    def row(self, y: float, rows: int) -> float:
        """Where y lies among `rows` rows of dots, from the top; whole numbers are the middles of rows."""
        place = (self.top - y) / (self.top - self.bottom) * (rows - 1)
        return max(-_FAR, min(_FAR, place))

    def x(self, column: float, columns: int) -> float:
        """The x in the middle of a column."""
        return self.left + (column + 0.5) / columns * (self.right - self.left)


def visible(curve: Curve, left: float, right: float) -> tuple[int, int]:
    """The points with x from `left` to `right`, as a range."""
    return bisect_left(curve.xs, left), bisect_right(curve.xs, right)


def trace(curve: Curve, view: Viewport, columns: int, rows: int) -> list[int]:
    """The columns of dots of one curve. Lines join neighbouring points; nothing joins over a gap."""
    canvas = _Canvas(columns, rows)
    start, stop = visible(curve, view.left, view.right)
    start, stop = max(0, start - 1), min(len(curve), stop + 1)
    if stop - start <= 2 * columns:
        _trace_points(canvas, curve, view, start, stop)
    else:
        _trace_columns(canvas, curve, view, start, stop)
    return canvas.masks


def _trace_points(canvas: _Canvas, curve: Curve, view: Viewport, start: int, stop: int) -> None:
    last: tuple[float, float] | None = None
    for index in range(start, stop):
        value = curve.value(index)
        if value is None:
            last = None
            continue
        here = (view.column(curve.xs[index], canvas.columns), view.row(value, canvas.rows))
        if here[0] == canvas.columns:  # the right edge belongs to the last column
            here = (canvas.columns - 1e-6, here[1])
        if last is None:
            canvas.bar(math.floor(here[0]), here[1], here[1])
        else:
            canvas.line(last, here)
        last = here


def _trace_columns(canvas: _Canvas, curve: Curve, view: Viewport, start: int, stop: int) -> None:
    columns, rows, xs = canvas.columns, canvas.rows, curve.xs
    step = (view.right - view.left) / columns
    last: tuple[int, float, float] | None = None  # index of a point, its column and row
    begin = bisect_left(xs, view.left, start, stop)
    for column in range(columns):
        end = bisect_left(xs, view.left + (column + 1) * step, begin, stop)
        if column == columns - 1:
            end = bisect_right(xs, view.right, begin, stop)
        if begin == end:
            continue
        low, high = curve.extremes(begin, end)
        if low > high:  # nothing but gaps
            last, begin = None, end
            continue
        top, bottom = view.row(high, rows), view.row(low, rows)
        first_value, last_value = curve.value(begin), curve.value(end - 1)
        if last is not None and first_value is not None and last[0] == begin - 1:
            first_row = view.row(first_value, rows)
            if last[1] == column - 1:
                if last[2] < top:
                    top = min(top, last[2] + 1)
                elif last[2] > bottom:
                    bottom = max(bottom, last[2] - 1)
            else:
                canvas.line((last[1] + 0.5, last[2]), (column + 0.5, first_row))
        canvas.bar(column, top, bottom)
        last = None if last_value is None else (end - 1, float(column), view.row(last_value, rows))
        begin = end


class _Canvas:
    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.masks = [0] * columns

    def bar(self, column: int, top: float, bottom: float) -> None:
        """Dots from row `top` down to row `bottom`; what lies outside is cut off."""
        if not 0 <= column < self.columns:
            return
        first, last = math.floor(top + 0.5), math.floor(bottom + 0.5)
        if last < 0 or first >= self.rows:
            return
        first, last = max(first, 0), min(last, self.rows - 1)
        self.masks[column] |= ((1 << (last - first + 1)) - 1) << first

    def line(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A line between two places (column, row), the second not left of the first."""
        (x0, y0), (x1, y1) = start, end
        first, last = math.floor(x0), math.floor(x1)
        if first == last:
            self.bar(first, min(y0, y1), max(y0, y1))
            return
        slope = (y1 - y0) / (x1 - x0)
        for column in range(max(first, 0), min(last, self.columns - 1) + 1):
            here = y0 + (max(x0, column) - x0) * slope
            there = y0 + (min(x1, column + 1) - x0) * slope
            low, high = min(here, there), max(here, there)
            if high - low > 1:  # leave the dot at which the next column begins to the next column
                low, high = low + 0.5, high - 0.5
            self.bar(column, low, high)


def cells(masks: list[int], grid: list[list[tuple[str, int]]], owner: int) -> None:
    """Put a curve's dots into the cells of a grid; a cell belongs to the last curve that has a dot in it.

    Args:
        masks: its columns of dots, two for each column of cells.
        grid: rows of cells: character and owner.
        owner: who it is.
    """
    for column in range(len(masks) // DOTS_X):
        left, right = masks[2 * column], masks[2 * column + 1]
        both = left | right
        if not both:
            continue
        first, last = ((both & -both).bit_length() - 1) // DOTS_Y, (both.bit_length() - 1) // DOTS_Y
        for row in range(first, min(last, len(grid) - 1) + 1):
            code = (left >> (DOTS_Y * row) & 15) | (right >> (DOTS_Y * row) & 15) << 4
            if code:
                grid[row][column] = (BRAILLE[code], owner)
