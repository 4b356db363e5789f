"""Points of curves, prepared so that any stretch of them is drawn at once. It knows numbers, not how they are drawn.

Of each curve a pyramid of minima and maxima is kept: level k has one entry for 16 of level k-1. The extremes of any
stretch then take a few short looks, however long the curve is, and a spike of one point is never lost. All of it grows
with the curve; nothing is computed twice.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import le

FAN = 16
GREATEST = 1e300
"""Beyond it a value counts as not finite, so that differences of values are finite."""

_SETTLED = 1e-9  # of the weight that debiasing divides by
_NAN = math.nan


@dataclass(frozen=True)
class Series:
    """One curve to draw.

    Attributes:
        key: what its colour and place follow from; the same key next time is the same curve.
        label: its name in the legend.
        xs: where its points are; need not be sorted.
        ys: their values; None, nan and infinities are gaps.
    """

    key: str
    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]


@dataclass(frozen=True)
class ChartData:
    """The points of a chart, apart from the widget: `series` is label, x and values (a gap is nan)."""

    x_name: str
    series: list[tuple[str, array[float], array[float]]]
    x_range: tuple[float, float] | None

    def to_csv(self) -> str:
        """One line per point that is seen: series, x, value; a gap has no value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("series", self.x_name, "value"))
        left, right = self.x_range or (-math.inf, math.inf)
        for label, xs, ys in self.series:
            writer.writerows(
                (label, f"{x:.17g}", "" if y != y else repr(y)) for x, y in zip(xs, ys) if left <= x <= right
            )
        return text.getvalue()


class Curve:
    """Points in the order of x, with their pyramid.

    Attributes:
        xs: array of x.
        levels: per level minima and maxima; in level 0 a gap has its minimum (inf) above its maximum (-inf).
    """

    def __init__(self) -> None:
        self.xs = array("d")
        self.levels: list[tuple[array[float], array[float]]] = [(array("d"), array("d"))]

    def __len__(self) -> int:
        return len(self.xs)

    def value(self, index: int) -> float | None:
        """The value of a point; None = a gap."""
        low = self.levels[0][0][index]
        return None if low == math.inf else low

    def extend(self, xs: array[float], ys: Sequence[float]) -> None:
        """Add points behind the last one; nan is a gap."""
        lows, highs = self.levels[0]
        self.xs.extend(xs)
        if math.isnan(sum(ys)):
            lows.extend([math.inf if y != y else y for y in ys])
            highs.extend([-math.inf if y != y else y for y in ys])
        else:
            more = ys if isinstance(ys, array) else array("d", ys)
            lows.extend(more)
            highs.extend(more)
        self._build()

    def extremes(self, start: int, stop: int) -> tuple[float, float]:
        """Minimum and maximum of the points from `start` to before `stop`; (inf, -inf) when all are gaps."""
        low, high = math.inf, -math.inf
        for lows, highs in self.levels:
            if stop - start <= 2 * FAN or lows is self.levels[-1][0]:
                if start < stop:
                    low, high = min(low, *lows[start:stop]), max(high, *highs[start:stop])
                break
            inner_start, inner_stop = -(-start // FAN), stop // FAN
            for left, right in ((start, inner_start * FAN), (inner_stop * FAN, stop)):
                if left < right:
                    low, high = min(low, *lows[left:right]), max(high, *highs[left:right])
            start, stop = inner_start, inner_stop
        return low, high

    def _build(self) -> None:
        level = 0
        while len(self.levels[level][0]) >= 2 * FAN:
            if level + 1 == len(self.levels):
                self.levels.append((array("d"), array("d")))
            (lows, highs), (upper_lows, upper_highs) = self.levels[level], self.levels[level + 1]
            places = range(len(upper_lows) * FAN, len(lows) // FAN * FAN, FAN)
            upper_lows.extend([min(lows[place : place + FAN]) for place in places])
            upper_highs.extend([max(highs[place : place + FAN]) for place in places])
            level += 1


class GrowingSeries:
    """The points of one series as they grow, and what is made of them: raw or smoothed, linear or as log10.

    Smoothing is the exponential moving average, divided by the weight it has gathered, so that it begins at the first
    value and not at zero.
    """

    def __init__(self) -> None:
        self._given = (array("d"), array("d"))
        self._xs = array("d")
        self._ys = array("d")
        self._made: dict[tuple[bool, float], _Made] = {}

    def __len__(self) -> int:
        return len(self._xs)

    @property
    def points(self) -> tuple[array[float], array[float]]:
        """X and value of every point, by x; a gap is nan."""
        return self._xs, self._ys

    def copy(self) -> tuple[array[float], array[float]]:
        """The points, apart from what comes later."""
        return self._xs[:], self._ys[:]

    def take(self, xs: Sequence[float], ys: Sequence[float | None]) -> bool:
        """Take the series as it is now; whether anything is new. What only grew at its end is not made again."""
        size = min(len(xs), len(ys))
        new_xs, new_ys = _doubles(xs, size), _doubles(ys, size)
        old_xs, old_ys = self._given
        known = len(old_xs)
        grown = size >= known and _same(new_xs, old_xs, known) and _same(new_ys, old_ys, known)
        if grown and size == known:
            return False
        self._given = (new_xs, new_ys)
        if grown and known:
            tail_xs = new_xs[known:]
            if _is_sorted(tail_xs) and (not self._xs or tail_xs[0] >= self._xs[-1]):
                self._xs.extend(tail_xs)
                self._ys.extend(_finite(new_ys[known:]))
                return True
        self._made.clear()
        self._xs, self._ys = new_xs[:], _finite(new_ys)
        if not _is_sorted(new_xs):
            pairs = sorted(((x, y) for x, y in zip(new_xs, self._ys) if abs(x) <= GREATEST), key=lambda pair: pair[0])
            self._xs, self._ys = array("d", [x for x, _ in pairs]), array("d", [y for _, y in pairs])
        return True

    def make(self, log: bool, smoothing: float, most: int) -> bool:
        """Go on making the curve of this kind, by at most `most` points; whether it is complete."""
        made = self._of(log, smoothing)
        start = len(made.curve)
        stop = min(len(self._xs), start + most)
        if start < stop:
            ys = self._ys[start:stop]
            values: Sequence[float] = made.smooth(ys, smoothing) if smoothing else ys
            if log:
                values = _logarithms(values)
            made.curve.extend(self._xs[start:stop], values)
        return stop == len(self._xs)

    def curve(self, log: bool = False, smoothing: float = 0.0) -> Curve:
        """The curve of this kind, as far as it is made."""
        return self._of(log, smoothing).curve

    def _of(self, log: bool, smoothing: float) -> _Made:
        return self._made.setdefault((log, smoothing), _Made())


class _Made:
    def __init__(self) -> None:
        self.curve = Curve()
        self._average = 0.0
        self._missing = 1.0  # 1 - the weight gathered so far

    def smooth(self, ys: array[float], smoothing: float) -> list[float]:
        """The next values, smoothed; a gap stays one and does not count."""
        rest = 1.0 - smoothing
        average, missing = self._average, self._missing
        if missing == 0.0 and not math.isnan(sum(ys)):  # settled and without gaps: the fast way
            values = list(accumulate(ys, lambda last, y: last * smoothing + y * rest, initial=average))[1:]
            self._average = values[-1] if values else average
            return values
        values = []
        for y in ys:
            if y == y:
                average = average * smoothing + y * rest
                missing *= smoothing
                if missing < _SETTLED:
                    missing = 0.0
                values.append(average / (1.0 - missing))
            else:
                values.append(_NAN)
        self._average, self._missing = average, missing
        return values


def _doubles(values: Sequence[float | None], size: int) -> array[float]:
    if isinstance(values, array) and values.typecode == "d":
        return values[:size]
    try:
        return array("d", values[:size])  # pyright: ignore[reportArgumentType, reportCallIssue] - None is met below
    except TypeError:
        return array("d", [_NAN if value is None else value for value in values[:size]])


def _same(new: array[float], old: array[float], size: int) -> bool:
    """Whether the first `size` numbers are the same bits; nan is the same as nan here."""
    return memoryview(new)[:size].tobytes() == memoryview(old)[:size].tobytes()


def _is_sorted(xs: array[float]) -> bool:
    """Whether no x is before the one in front of it; false also for an x that is not finite."""
    return all(map(le, xs, xs[1:])) and (not xs or (xs[0] >= -GREATEST and xs[-1] <= GREATEST))


def _finite(ys: array[float]) -> array[float]:
    if not ys or (math.isfinite(sum(ys)) and min(ys) >= -GREATEST and max(ys) <= GREATEST):
        return ys
    return array("d", [y if -GREATEST <= y <= GREATEST else _NAN for y in ys])


def _logarithms(values: Sequence[float]) -> list[float]:
    log10 = math.log10
    return [log10(value) if value > 0 else _NAN for value in values]
