"""A whole chart as rows of styled text: legend, axes, curves, crosshair. Pure: the same picture gives the same rows."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from hetspec_tui.formatting import duration, number, safe
from hetspec_tui.widgets.curves import DOTS_X, DOTS_Y, Curve, Viewport, put_dots, trace, visible

Row = list[tuple[str, str]]
"""Pieces of a row: text, and a style name: "", "axis", "cross", "title", "flag", "N" or "N dim" for curve N."""

_NO_OWNER, _CROSS = -1, -2
_LEAST_WIDTH, _LEAST_HEIGHT = 16, 5  # a smaller chart has neither axes nor legend
_SIGN_EVERY = 24  # cells between the signs on a curve
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


@dataclass(frozen=True)
class Line:
    """One curve of the picture.

    Attributes:
        label: its name.
        sign: its sign, one cell.
        curve: its points; log10 of the values when the picture is logarithmic.
        raw: the points before smoothing, drawn dim below it; None = not smoothed.
    """

    label: str
    sign: str
    curve: Curve
    raw: Curve | None = None


@dataclass(frozen=True)
class Picture:
    """What to draw.

    Attributes:
        lines: the curves; later ones lie above.
        x_name: the name of x; "time" is seconds.
        log: the curves are log10 of the values.
        x_range: the visible part of x; None = all.
        cursor: x of the crosshair; None = none.
        flags: words about the view, at the end of the legend.
        signs: draw signs along the curves, for terminals without colours.
        empty: text that is shown when there are no points.
    """

    lines: tuple[Line, ...] = ()
    x_name: str = "step"
    log: bool = False
    x_range: tuple[float, float] | None = None
    cursor: float | None = None
    flags: tuple[str, ...] = ()
    signs: bool = False
    empty: str = "no points yet"


@dataclass
class Drawing:
    """The rows of a chart, one per line of the widget, and the area of its curves in cells.

    Attributes:
        view: what the area shows; None when there are no points.
    """

    rows: list[Row]
    left: int = 0
    top: int = 0
    width: int = 0
    height: int = 0
    view: Viewport | None = None


def x_bounds(lines: tuple[Line, ...]) -> tuple[float, float] | None:
    """Least and greatest x of all curves; None when they have no points."""
    curves = [curve for curve in _curves(lines) if len(curve)]
    return widen(min(curve.xs[0] for curve in curves), max(curve.xs[-1] for curve in curves), 0.0) if curves else None


def y_bounds(lines: tuple[Line, ...], left: float, right: float) -> tuple[float, float] | None:
    """Least and greatest value from `left` to `right`; None when there is none."""
    low, high = math.inf, -math.inf
    for curve in _curves(lines):
        start, stop = visible(curve, left, right)
        if start >= stop and 0 < start < len(curve):  # between two points: use the line that joins them
            start, stop = start - 1, start + 1
        least, greatest = curve.extremes(start, stop)
        low, high = min(low, least), max(high, greatest)
    return None if low > high else widen(low, high, 0.03)


def nearest(curve: Curve, x: float) -> int | None:
    """Index of the point nearest to x that is no gap, within a few points; None when there is none."""
    index = bisect_left(curve.xs, x)
    near = [i for i in range(index - 3, index + 3) if 0 <= i < len(curve) and curve.value(i) is not None]
    return min(near, key=lambda i: abs(curve.xs[i] - x), default=None)


def draw(picture: Picture, width: int, height: int) -> Drawing:
    """The chart at a size in cells."""
    if width <= 0 or height <= 0:
        return Drawing([])
    bounds = x_bounds(picture.lines)
    if picture.x_range is not None and bounds is not None:
        bounds = widen(*picture.x_range, 0.0)
    y = None if bounds is None else y_bounds(picture.lines, *bounds)
    if bounds is None or (y is None and not any(len(curve) for curve in _curves(picture.lines))):
        return Drawing(_message(picture.empty, width, height))
    bottom, top = y or (0.0, 1.0)
    view = Viewport(bounds[0], bounds[1], bottom, top)
    framed = width >= _LEAST_WIDTH and height >= _LEAST_HEIGHT
    legend = _legend(picture, width, 1 + (height >= 14) + (height >= 24)) if framed else []
    if not framed:
        drawing = Drawing([], 0, 0, width, height, view)
        drawing.rows = _body(picture, drawing)
        return drawing
    space = height - len(legend) - 2
    marks = _y_marks(view, picture.log, space)
    gutter = min(max((cell_len(label) for label in marks.values()), default=1), width // 3)
    drawing = Drawing([], gutter + 1, len(legend), width - gutter - 1, space, view)
    rows = _body(picture, drawing)
    for index, row in enumerate(rows):
        label = marks.get(index, "").rjust(gutter)
        row[:0] = [(set_cell_size(label, gutter), "axis"), ("┤" if index in marks else "│", "axis")]
    drawing.rows = [*legend, *rows, *_x_axis(picture, drawing, gutter)]
    return drawing


def _curves(lines: tuple[Line, ...]) -> list[Curve]:
    return [curve for line in lines for curve in (line.raw, line.curve) if curve is not None]


def _message(text: str, width: int, height: int) -> list[Row]:
    rows: list[Row] = [[(" " * width, "")] for _ in range(height)]
    rows[(height - 1) // 2] = [(set_cell_size(text.center(width), width), "axis")]
    return rows


def _body(picture: Picture, drawing: Drawing) -> list[Row]:
    """The rows of the curves alone."""
    width, height, view = drawing.width, drawing.height, drawing.view
    grid: list[list[tuple[str, int]]] = [[(" ", _NO_OWNER)] * width for _ in range(height)]
    if view is None:
        return [[(" " * width, "")] for _ in grid]
    columns, dots = width * DOTS_X, height * DOTS_Y
    for index, line in enumerate(picture.lines):
        if line.raw is not None:
            put_dots(trace(line.raw, view, columns, dots), grid, 2 * index + 1)
    for index, line in enumerate(picture.lines):
        put_dots(trace(line.curve, view, columns, dots), grid, 2 * index)
        _put_signs(picture, line, index, grid, view)
    cross = None if picture.cursor is None else math.floor(min(view.column(picture.cursor, width), width - 1e-6))
    return [_row(cells, cross) for cells in grid]


def _put_signs(picture: Picture, line: Line, order: int, grid: list[list[tuple[str, int]]], view: Viewport) -> None:
    """Put the sign of a curve at its last visible point and, with `signs`, also along it."""
    width, height = len(grid[0]), len(grid)
    columns = [width - 1] if len(picture.lines) > 1 else []
    if picture.signs:
        columns += range((order * 5) % _SIGN_EVERY, width, _SIGN_EVERY)
    for column in columns:
        index = nearest(line.curve, view.x(column, width))
        if index is None:
            continue
        value = line.curve.value(index)
        x = view.column(line.curve.xs[index], width)
        cell, row = math.floor(min(x, width - 1e-6)), math.floor(view.row(value or 0.0, height) + 0.5)
        if value is not None and 0 <= cell < width and 0 <= row < height:
            grid[row][cell] = (line.sign, 2 * order)


def _row(cells: list[tuple[str, int]], cross: int | None) -> Row:
    row: Row = []
    text, last = "", _NO_OWNER
    for column, (letter, owner) in enumerate(cells):
        if column == cross and owner == _NO_OWNER:
            letter, owner = "│", _CROSS
        if owner != last and text:
            row.append((text, _style(last)))
            text = ""
        last = owner
        text += letter
    return [*row, (text, _style(last))] if text else row


def _style(owner: int) -> str:
    if owner < 0:
        return "cross" if owner == _CROSS else ""
    return f"{owner // 2} dim" if owner % 2 else str(owner // 2)


# --- axes and legend -------------------------------------------------------------------------------------------------


def _y_marks(view: Viewport, log: bool, height: int) -> dict[int, str]:
    """Row -> label."""
    most = max(2, height // 4) if height >= 4 else 1
    values = log_ticks(view.bottom, view.top, most) if log else ticks(view.bottom, view.top, most)
    texts = [number(value, 3) for value in values] if log else tick_labels(values)
    marks: dict[int, str] = {}
    for value, text in zip(values, texts):
        row = math.floor(view.row(math.log10(value) if log else value, height) + 0.5)
        if 0 <= row < height:
            marks.setdefault(row, text)
    return marks


def _x_axis(picture: Picture, drawing: Drawing, gutter: int) -> list[Row]:
    view, width = drawing.view, drawing.width
    if view is None:
        return []
    is_time = picture.x_name == "time"
    values = ticks(view.left, view.right, max(1, width // 12), time=is_time)
    line, below = ["─"] * width, [" "] * width
    name = f" {picture.x_name}"
    free = 0
    for value, text in zip(values, tick_labels(values, time=is_time)):
        at = min(width - 1, math.floor(view.column(value, width)))
        line[at] = "┬"
        start = min(max(0, at - len(text) // 2), width - len(text))
        if start >= free and start + len(text) <= width - len(name) - 1:
            below[start : start + len(text)] = text
            free = start + len(text) + 2
    if free + len(name) <= width:
        below[width - len(name) :] = name
    return [
        [(" " * gutter, ""), ("└" + "".join(line), "axis")],
        [(" " * (gutter + 1), ""), ("".join(below), "axis")],
    ]


def _legend(picture: Picture, width: int, most_rows: int) -> list[Row]:
    """Sign, name and value of every curve, in rows that fit; the last row ends with the number of omitted ones."""
    entries: list[tuple[str, str]] = []
    if picture.cursor is not None:
        entries.append((f"{picture.x_name} {tick_labels([picture.cursor], time=picture.x_name == 'time')[0]}", "title"))
    for index, line in enumerate(picture.lines):
        entries.append((f"{line.sign} {safe(line.label)} {_value(picture, line)}", str(index)))
    entries += [(flag, "flag") for flag in picture.flags]
    rows: list[Row] = [[]]
    used = 0
    for index, (text, style) in enumerate(entries):
        wide = cell_len(text)
        if used and used + 2 + wide > width:
            if len(rows) == most_rows:
                left = f"+{len(entries) - index}"
                if used + 2 + len(left) <= width:
                    rows[-1] += [("  ", ""), (left, "axis")]
                break
            rows.append([])
            used = 0
        if used:
            rows[-1].append(("  ", ""))
            used += 2
        if wide > width:
            text = set_cell_size(text, width - 1) + "…"
        rows[-1].append((text, style))
        used += min(wide, width)
    return rows


def _value(picture: Picture, line: Line) -> str:
    """The value at the crosshair, else the last one."""
    curve = line.curve
    if picture.cursor is not None:
        index = nearest(curve, picture.cursor)
    else:
        index = next(
            (i for i in range(len(curve) - 1, max(-1, len(curve) - 1000), -1) if curve.value(i) is not None), None
        )
    value = None if index is None else curve.value(index)
    if value is None:
        return "-"
    return number(10.0**value if picture.log and value < 300 else value)


# --- ticks -----------------------------------------------------------------------------------------------------------


def round_step(span: float, most: int) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten that divides `span` into at most `most` parts."""
    rough = span / max(most, 1)
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** max(-307, math.floor(math.log10(rough)))
    for factor in (1, 2, 5, 10):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10 * power


def ticks(low: float, high: float, most: int, *, time: bool = False) -> list[float]:
    """At most about `most` round values from `low` to `high`, in order.

    With `time` the values are seconds, and the steps are round in minutes, hours or days.
    """
    if most < 1 or not high > low:
        return []
    span = high - low
    step = round_step(span, most)
    if time and step > 1:
        days = 86400.0 * round_step(span / 86400, most)
        step = next((float(seconds) for seconds in _TIMES_S if span / seconds <= most), days)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    if not 0 <= last - first + 1 <= 2 * most + 3:
        return []
    values = [factor * step for factor in range(first, last + 1)]
    if len(values) < 2 <= most and not time:  # a single number gives no scale: allow one more than there is room for
        finer = round_step(span, most + 1) if round_step(span, most + 1) < step else step / 2
        factors = range(math.ceil(low / finer - 1e-9), math.floor(high / finer + 1e-9) + 1)
        return [factor * finer for factor in factors] if 2 <= len(factors) <= most + 1 else values
    return values


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round values from 10**low to 10**high: powers of ten, and multiples if there is room."""
    if most < 1 or not high > low:
        return []
    first, last = max(math.floor(low), -308), min(math.ceil(high), 308)
    for factors in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [
            factor * 10.0**power
            for power in range(first, last + 1)
            for factor in factors
            if low - 1e-9 <= power + math.log10(factor) <= high + 1e-9
        ]
        if 2 <= len(values) <= most:
            return values
    if last - first > most:
        stride = math.ceil((last - first) / most)
        return [10.0**power for power in range(first, last + 1, stride) if low <= power <= high]
    return [value for value in ticks(10.0**low, 10.0**high, most) if value > 0]


def tick_labels(values: list[float], *, time: bool = False) -> list[str]:
    """Ticks as text: with enough decimals to tell them apart, and one suffix for all."""
    if not values:
        return []
    if time:
        return [duration(value) if value >= 0 else f"-{duration(-value)}" for value in values]
    step = min((after - before for before, after in itertools.pairwise(values)), default=abs(values[0]) or 1.0)
    greatest = max(abs(value) for value in values)
    scale, suffix = next(((scale, suffix) for scale, suffix in _SUFFIXES if greatest >= 10 * scale), (1.0, ""))
    if greatest >= 1e16 or (0 < greatest < 1e-3) or step <= 0:
        return [number(value, 3) for value in values]
    decimals = max(0, math.ceil(-math.log10(step / scale) - 1e-9))
    if decimals > 6:
        return [number(value, 6) for value in values]
    return [f"{value / scale:,.{decimals}f}{suffix if value else ''}" for value in values]


def widen(low: float, high: float, share: float) -> tuple[float, float]:
    """Bounds with a margin of this share on both sides; equal bounds are moved apart."""
    pad = (high - low) * share
    if not high + pad > low - pad:
        pad = abs(low) * 0.05 or 1.0
    return low - pad, high + pad
