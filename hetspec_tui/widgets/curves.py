"""Curves of a chart: their points, colours and signs, and their braille dots. No widgets.

A column of dots spans the extremes of all points in it, so that a spike of a single point is always drawn.
"""

from __future__ import annotations

import csv
import io
import math
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import le

DARK = ("#5fafff", "#ffaf5f", "#87d75f", "#ff87d7", "#d7d75f", "#af87ff", "#5fd7d7", "#ff8787", "#d7afaf", "#87afaf")
LIGHT = ("#005fd7", "#af5f00", "#008700", "#af0087", "#878700", "#5f00d7", "#008787", "#d70000", "#875f5f", "#5f5f87")
"""Colours of curves on dark and on light themes, of the 256 that most terminals have; a theme has too few."""
SIGNS = "●■▲◆▼★○□△◇"
"""Signs in the order of the colours, for terminals and eyes that do not tell colours apart."""

DOTS_X, DOTS_Y = 2, 4
"""Columns and rows of dots in one cell."""
GREATEST = 1e300
"""A larger value counts as not finite, so that differences of values are finite."""

_FAR = 1e9  # positions farther outside are clipped to this many dots
_SETTLED = 1e-9  # weight below which the debiasing of the moving average ends
_NAN = math.nan


# --- colours ---------------------------------------------------------------------------------------------------------


def colour_indices(keys: Iterable[str]) -> dict[str, int]:
    """Key -> index of its colour and sign. It follows from the key alone, unless an earlier key has that index.

    Later keys never change the indices of earlier ones, so adding a run to a chart changes no colour.
    """
    indices: dict[str, int] = {}
    taken: set[int] = set()
    for key in keys:
        if key in indices:
            continue
        index = zlib.crc32(key.encode(errors="replace")) % len(DARK)
        if len(taken) < len(DARK):
            while index in taken:
                index = (index + 1) % len(DARK)
            taken.add(index)
        indices[key] = index
    return indices


def colour(index: int, *, dark: bool = True) -> str:
    """The colour of an index as #rrggbb."""
    colours = DARK if dark else LIGHT
    return colours[index % len(colours)]


def sign(index: int) -> str:
    """The sign of an index, one cell wide."""
    return SIGNS[index % len(SIGNS)]


# --- points ----------------------------------------------------------------------------------------------------------


class Curve:
    """Points in the order of x.

    Args:
        xs: x of the points, rising.
        ys: their values; nan is a gap.
    """

    def __init__(self, xs: array[float], ys: Sequence[float]) -> None:
        self.xs = xs
        # A gap is inf among the one and -inf among the other, so that neither a minimum nor a maximum is a gap.
        self._lows = array("d", [math.inf if y != y else y for y in ys])
        self._highs = array("d", [-math.inf if y != y else y for y in ys])

    def __len__(self) -> int:
        return len(self.xs)

    def value(self, index: int) -> float | None:
        """The value of a point; None = a gap."""
        low = self._lows[index]
        return None if low == math.inf else low

    def between(self, index: int, x: float) -> float | None:
        """The value at x on the line from the point before `index` to the point `index`; None = there is no line."""
        if not 0 < index < len(self.xs):
            return None
        (x0, x1), (y0, y1) = self.xs[index - 1 : index + 1], (self.value(index - 1), self.value(index))
        return None if y0 is None or y1 is None else y0 + (y1 - y0) * ((x - x0) / (x1 - x0))

    def extremes(self, start: int, stop: int) -> tuple[float, float]:
        """Minimum and maximum of the points from `start` to before `stop`; (inf, -inf) when all are gaps."""
        lows, highs = self._lows[start:stop], self._highs[start:stop]
        return min(lows, default=math.inf), max(highs, default=-math.inf)


class Series:
    """One curve to draw: its points, and the curves made of them when they are first drawn.

    Args:
        key: identifies the curve; its colour follows from it.
        label: its name in the legend.
        xs: x of its points, in any order.
        ys: their values; None, nan and infinities are gaps.
    """

    def __init__(self, key: str, label: str, xs: Sequence[float], ys: Sequence[float | None]) -> None:
        self.key, self.label = key, label
        self._given = (xs, ys)
        self._curves: dict[tuple[bool, float], Curve] = {}

    def equals(self, other: Series) -> bool:
        """Whether the other one is drawn in the same way."""
        return (self.key, self.label, self._given) == (other.key, other.label, other._given)

    @cached_property
    def points(self) -> tuple[array[float], array[float]]:
        """X and values of the points in the order of x; a gap is nan."""
        xs, ys = self._given
        places = array("d", xs[: len(ys)])
        values = array("d", [_NAN if y is None or not abs(y) <= GREATEST else y for y in ys[: len(xs)]])
        if places and not (all(map(le, places, places[1:])) and places[0] >= -GREATEST and places[-1] <= GREATEST):
            pairs = sorted(((x, y) for x, y in zip(places, values) if abs(x) <= GREATEST), key=lambda pair: pair[0])
            places, values = array("d", [x for x, _ in pairs]), array("d", [y for _, y in pairs])
        return places, values

    @property
    def xs(self) -> array[float]:
        return self.points[0]

    @cached_property
    def has_positive(self) -> bool:
        """Whether a value is above 0, so that a logarithm shows something."""
        return any(y > 0 for y in self.points[1])

    def curve(self, log: bool = False, smoothing: float = 0.0) -> Curve:
        """The curve: raw or smoothed, linear or as log10."""
        if (log, smoothing) not in self._curves:
            xs, ys = self.points
            values: Sequence[float] = _smoothed(ys, smoothing) if smoothing else ys
            if log:
                values = [math.log10(value) if value > 0 else _NAN for value in values]
            self._curves[log, smoothing] = Curve(xs, values)
        return self._curves[log, smoothing]


def csv_of(series: Iterable[Series], x_name: str, x_range: tuple[float, float] | None) -> str:
    """One line per point in view: series, x, value; a gap has no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("series", x_name, "value"))
    left, right = x_range or (-math.inf, math.inf)
    for one in series:
        points = zip(*one.points)
        writer.writerows((one.label, f"{x:.17g}", "" if y != y else repr(y)) for x, y in points if left <= x <= right)
    return text.getvalue()


def _smoothed(ys: Sequence[float], smoothing: float) -> list[float]:
    """The exponential moving average divided by the weight gathered so far, so that it begins at the first value."""
    values, average, missing = [], 0.0, 1.0  # missing = 1 - the weight gathered so far
    for y in ys:
        if y == y:
            average = average * smoothing + y * (1.0 - smoothing)
            missing = missing * smoothing if missing > _SETTLED else 0.0
            values.append(average / (1.0 - missing))
        else:
            values.append(_NAN)
    return values


# --- dots ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Viewport:
    """What is in view: x from `left` to `right`, y from `bottom` to `top`, all finite, the bounds apart."""

    left: float
    right: float
    bottom: float
    top: float

    def column(self, x: float, columns: int) -> float:
        """Position of x among `columns` columns, from the left."""
        return max(-_FAR, min(_FAR, (x - self.left) / (self.right - self.left) * columns))

    def row(self, y: float, rows: int) -> float:
        """Position of y among `rows` rows, from the top; whole numbers are the middles of rows."""
        return max(-_FAR, min(_FAR, (self.top - y) / (self.top - self.bottom) * (rows - 1)))

    def x(self, column: float, columns: int) -> float:
        """The x in the middle of a column."""
        return self.left + (column + 0.5) / columns * (self.right - self.left)


def visible(curve: Curve, left: float, right: float) -> tuple[int, int]:
    """The points with x from `left` to `right`, as a range."""
    return bisect_left(curve.xs, left), bisect_right(curve.xs, right)


def trace(curve: Curve, view: Viewport, columns: int, rows: int) -> list[int]:
    """The dots of a curve: per column of dots an integer, with bit 0 for the top row.

    A column has the dots from the least to the greatest value in it: of its points, and of the lines that cross its
    edges. Lines join neighbouring points and stop at gaps.
    """
    masks = [0] * columns
    step = (view.right - view.left) / columns
    end, right = bisect_left(curve.xs, view.left), view.left
    for column in range(columns):
        begin, left = end, right
        if column < columns - 1:
            right = view.left + (column + 1) * step
            end = bisect_left(curve.xs, right, begin)
        else:
            right = view.right
            end = bisect_right(curve.xs, right, begin)
        low, high = curve.extremes(begin, end)
        edges = [
            view.row(value, rows)
            for value in (curve.between(begin, left), curve.between(end, right))
            if value is not None
        ]
        if low <= high:
            top, bottom = view.row(high, rows), view.row(low, rows)
        elif len(edges) == 2:
            top = bottom = sum(edges) / 2
        else:
            continue
        top = min([top, *(edge + 0.5 for edge in edges)])  # the dot at an edge belongs to the next column
        bottom = max([bottom, *(edge - 0.5 for edge in edges)])
        first, last = max(0, math.floor(top + 0.5)), min(rows - 1, math.floor(bottom + 0.5))
        if first <= last:
            masks[column] = ((1 << (last - first + 1)) - 1) << first
    return masks


def _braille() -> list[str]:
    left, right = (0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80)
    signs = []
    for code in range(256):
        dots = sum(bit for row, bit in enumerate(left) if code >> row & 1)
        dots += sum(bit for row, bit in enumerate(right) if code >> (4 + row) & 1)
        signs.append(chr(0x2800 + dots))
    return signs


BRAILLE = _braille()
"""Dots of a cell as left + 16 * right, each with bit 0 for the top row -> character."""


def put_dots(masks: list[int], grid: list[list[tuple[str, int]]], owner: int) -> None:
    """Put the dots of a curve into a grid of cells (character, owner); the last curve with a dot in a cell owns it.

    Args:
        masks: columns of dots, two for each column of cells.
        grid: rows of cells.
        owner: number of the curve.
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
