"""Thinning a curve inside SQLite, so that only the points that are drawn come out. It knows one table of points."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Literal, get_args

Axis = Literal["step", "tokens", "wall_s"]
AXES: tuple[Axis, ...] = get_args(Axis)

_COLUMNS = "step, value, tokens, wall_s"
_FROM = f"SELECT {_COLUMNS} FROM points WHERE series_id = ? AND step >= ? ORDER BY step LIMIT 1"
_BETWEEN = "WHERE series_id = ? AND step >= ? AND step < ?"
_LAST = f"SELECT {_COLUMNS} FROM points WHERE series_id = ? ORDER BY step DESC LIMIT 1"

Point = tuple[int, float | None, int | None, float | None]
"""step, value, tokens, wall_s."""


def count_points(connection: sqlite3.Connection, series: int) -> int:
    """How many points a series has."""
    return connection.execute("SELECT COUNT(*) FROM points WHERE series_id = ?", (series,)).fetchone()[0]


def thin(connection: sqlite3.Connection, series: int, most: int, axis: Axis = "step") -> list[Point]:
    """About `most` points of a series: of equal stretches of the axis the lowest and the highest value each, so that no
    peak is lost, and the first and the last point.

    The table is ordered by step, along which tokens and seconds only grow; so the border of a stretch is searched for
    by halves, and each stretch is one range of rows. Where they do not grow the stretches are uneven, and still no peak
    is lost.
    """
    first = connection.execute(_FROM, (series, -(2**62))).fetchone()
    if first is None:
        return []
    last = connection.execute(_LAST, (series,)).fetchone()
    found: dict[int, Point] = {first[0]: first, last[0]: last}
    borders = [*_borders(connection, series, max(1, (most - 2) // 2), axis, first, last), last[0] + 1]
    begin = first[0]
    for end in borders:
        if end > begin:
            for edge in ("MIN", "MAX"):  # SQLite takes the other columns from the row of the extreme
                sql = f"SELECT step, {edge}(value), tokens, wall_s FROM points {_BETWEEN}"
                point = connection.execute(sql, (series, begin, end)).fetchone()
                if point[1] is not None:
                    found[point[0]] = point
            begin = end
    return [found[step] for step in sorted(found)]


def _borders(
    connection: sqlite3.Connection, series: int, stretches: int, axis: Axis, first: Point, last: Point
) -> Iterator[int]:
    """The step at which each stretch but the first begins, in order."""
    place = 0 if axis == "step" else AXES.index(axis) + 1
    low, high = first[place], last[place]
    if low is None or high is None:  # not every point has it: steps will do
        place, low, high = 0, first[0], last[0]
    for number in range(1, stretches):
        border = low + (high - low) * number / stretches
        yield -int(-border // 1) if place == 0 else _first_at(connection, series, place, border, first[0], last[0])


def _first_at(connection: sqlite3.Connection, series: int, place: int, border: float, low: int, high: int) -> int:
    """The smallest step whose value on the axis has reached the border, between two steps."""
    while low < high:
        middle = (low + high) // 2
        point = connection.execute(_FROM, (series, middle)).fetchone()
        if point[place] is not None and point[place] >= border:
            high = middle
        else:
            low = max(point[0], middle) + 1
    return low
