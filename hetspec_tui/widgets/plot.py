"""A whole chart as rows of styled text: legend, axes, curves, crosshair. Pure: the same picture gives the same rows.

It knows curves and where they go, not where they come from, nor which key was pressed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from hetspec_tui.formatting import number, safe
from hetspec_tui.widgets import axes, raster
from hetspec_tui.widgets.curves import Curve
from hetspec_tui.widgets.raster import Viewport

Row = list[tuple[str, str]]
"""Pieces of a row: text and the name of its style: "", "axis", "cross", "title", "flag", "N" or "N dim" of curve N."""

_NOBODY = -1
_LEAST_WIDTH, _LEAST_HEIGHT = 16, 5  # below, only the curves are drawn
_SIGN_EVERY = 24  # cells between signs on a curve where colours are not told apart


@dataclass(frozen=True)
class Line:
    """One curve of the picture.

    Attributes:
        label: its name.
        sign: its sign, one cell.
        curve: what is drawn; log10 of the values when the picture is logarithmic.
        raw: drawn dim below it (the points that were smoothed); None = nothing.
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
        x_name: what x is: step, tokens, or anything; "time" is seconds.
        log: the curves are log10 of what they show.
        x_range: what of x is seen; None = all of it.
        cursor: x of the crosshair; None = none.
        flags: words about the view, at the end of the legend.
        signs: put signs on the curves, because colours are not told apart.
        empty: what is said when there is nothing.
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
    """The rows of a chart, and where its curves are in them.

    Attributes:
        rows: one per line of the widget.
        left, top, width, height: place of the curves, in cells.
        view: what is seen there; None when there is nothing.
    """

    rows: list[Row]
    left: int = 0
    top: int = 0
    width: int = 0
    height: int = 0
    view: Viewport | None = None
    values: list[float | None] = field(default_factory=list)


def x_bounds(lines: tuple[Line, ...]) -> tuple[float, float] | None:
    """Least and greatest x of all curves; None when they have no points."""
    found = [(curve.xs[0], curve.xs[-1]) for curve in _curves(lines) if len(curve)]
    if not found:
        return None
    return axes.widen(min(low for low, _ in found), max(high for _, high in found), 0.0)


def y_bounds(lines: tuple[Line, ...], left: float, right: float) -> tuple[float, float] | None:
    """Least and greatest value that is seen from `left` to `right`; None when there is none."""
    low, high = math.inf, -math.inf
    for curve in _curves(lines):
        start, stop = raster.visible(curve, left, right)
        if start >= stop and 0 < start < len(curve):  # between two points: the line that joins them
            start, stop = start - 1, start + 1
        least, greatest = curve.extremes(start, stop)
        low, high = min(low, least), max(high, greatest)
    return None if low > high else axes.widen(low, high, 0.03)


def nearest(curve: Curve, x: float) -> int | None:
    """Index of the point nearest to x that is no gap, within a few points; None when there is none."""
    place = bisect_left(curve.xs, x)
    near = [i for i in range(place - 3, place + 3) if 0 <= i < len(curve) and curve.value(i) is not None]
    return min(near, key=lambda i: abs(curve.xs[i] - x), default=None)


def draw(picture: Picture, width: int, height: int) -> Drawing:
    """The chart at a size in cells."""
    if width <= 0 or height <= 0:
        return Drawing([])
    bounds = x_bounds(picture.lines)
    if picture.x_range is not None and bounds is not None:
        bounds = axes.widen(*picture.x_range, 0.0)
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
        label = marks.get(index, "")
        row.insert(
            0, (set_cell_size(label, gutter).rjust(gutter) if cell_len(label) > gutter else label.rjust(gutter), "axis")
        )
        row.insert(1, ("┤" if index in marks else "│", "axis"))
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
    grid: list[list[tuple[str, int]]] = [[(" ", _NOBODY)] * width for _ in range(height)]
    if view is None:
        return [[(" " * width, "")] for _ in grid]
    columns, dots = width * raster.DOTS_X, height * raster.DOTS_Y
    for number_, line in enumerate(picture.lines):
        if line.raw is not None:
            raster.cells(raster.trace(line.raw, view, columns, dots), grid, 2 * number_ + 1)
    for number_, line in enumerate(picture.lines):
        raster.cells(raster.trace(line.curve, view, columns, dots), grid, 2 * number_)
        _put_signs(picture, line, number_, grid, view)
    cross = None if picture.cursor is None else math.floor(min(view.column(picture.cursor, width), width - 1e-6))
    return [_row(cells, cross) for cells in grid]


def _put_signs(picture: Picture, line: Line, number_: int, grid: list[list[tuple[str, int]]], view: Viewport) -> None:
    """The curve's sign at its last point that is seen; with `signs`, also now and then along it."""
    width, height = len(grid[0]), len(grid)
    columns = [width - 1] if len(picture.lines) > 1 else []
    if picture.signs:
        columns += range((number_ * 5) % _SIGN_EVERY, width, _SIGN_EVERY)
    for column in columns:
        index = nearest(line.curve, view.x(column, width))
        if index is None:
            continue
        value = line.curve.value(index)
        x = view.column(line.curve.xs[index], width)
        at, row = math.floor(min(x, width - 1e-6)), math.floor(view.row(value or 0.0, height) + 0.5)
        if value is not None and 0 <= at < width and 0 <= row < height:
            grid[row][at] = (line.sign, 2 * number_)


def _row(cells: list[tuple[str, int]], cross: int | None) -> Row:
    row: Row = []
    text, last = "", _NOBODY
    for column, (letter, owner) in enumerate(cells):
        if column == cross and owner == _NOBODY:
            letter, owner = "│", -2
        if owner != last and text:
            row.append((text, _style(last)))
            text = ""
        last = owner
        text += letter
    if text:
        row.append((text, _style(last)))
    return row


def _style(owner: int) -> str:
    if owner < 0:
        return "cross" if owner == -2 else ""
    return f"{owner // 2} dim" if owner % 2 else str(owner // 2)


# --- axes and legend -------------------------------------------------------------------------------------------------


def _y_marks(view: Viewport, log: bool, height: int) -> dict[int, str]:
    """Row -> label."""
    most = max(2, height // 4) if height >= 4 else 1
    values = axes.log_ticks(view.bottom, view.top, most) if log else axes.ticks(view.bottom, view.top, most)
    texts = [number(value, 3) for value in values] if log else axes.labels(values)
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
    values = axes.ticks(view.left, view.right, max(1, width // 12), time=is_time)
    line, below = ["─"] * width, [" "] * width
    name = f" {picture.x_name}"
    free = 0
    for value, text in zip(values, axes.labels(values, time=is_time)):
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
    """Sign, name and value of every curve, in rows that fit; the last one says how many are left out."""
    entries: list[tuple[str, str]] = []
    if picture.cursor is not None:
        entries.append((f"{picture.x_name} {axes.labels([picture.cursor], time=picture.x_name == 'time')[0]}", "title"))
    for index, line in enumerate(picture.lines):
        entries.append((f"{line.sign} {safe(line.label)} {_value(picture, line)}", str(index)))
    entries += [(flag, "flag") for flag in picture.flags]
    rows: list[Row] = [[]]
    used = 0
    for place, (text, style) in enumerate(entries):
        wide = cell_len(text)
        if used and used + 2 + wide > width:
            if len(rows) == most_rows:
                left = f"+{len(entries) - place}"
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
