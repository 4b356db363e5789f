"""The chart: what its strips show of every odd series, and what its keys and the mouse do."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from hetspec_tui.widgets import plot
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series, colour, csv_of, sign
from hetspec_tui.widgets.plot import Line, Picture

ODD: dict[str, list[float | None]] = {
    "empty": [],
    "one": [3.0],
    "constant": [7.0] * 50,
    "zeros": [0.0] * 5,
    "gaps": [1.0, None, 3.0, math.nan, 5.0],
    "nothing but gaps": [math.nan] * 9,
    "infinite": [1.0, math.inf, -math.inf, 2.0],
    "wide": [1e-9, 1e12, 3.0],
    "greatest": [1e308, -1e308, 1.0],
    "tiny": [5e-324, 1e-300, 0.0],
    "long": [math.sin(i / 50) for i in range(5000)],
}
BLANK = {" ", "⠀"}


def line(ys: list[float | None], xs: list[float] | None = None, *, log: bool = False, label: str = "loss") -> Line:
    series = Series(label, label, [float(i) for i in range(len(ys))] if xs is None else xs, ys)
    return Line(label, "●", series.curve(log))


def texts(picture: Picture, width: int = 60, height: int = 12) -> list[str]:
    return ["".join(text for text, _ in row) for row in plot.draw(picture, width, height).rows]


def dots(picture: Picture, width: int = 20, height: int = 4) -> list[str]:
    """Only the curves, without axes and legend."""
    drawing = plot.draw(picture, width, height)
    assert (drawing.left, drawing.top) == (0, 0)
    return ["".join(text for text, _ in row) for row in drawing.rows]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (4, 2), (20, 5), (80, 24), (200, 60)])
def test_every_odd_series_fills_its_rows_exactly(name: str, log: bool, size: tuple[int, int]) -> None:
    picture = Picture(lines=(line(ODD[name], log=log), line([1.0, 2.0], log=log)), log=log, cursor=1.0)
    rows = texts(picture, *size)
    assert len(rows) == size[1]
    assert all(cell_len(row) <= size[0] for row in rows)


@given(
    st.lists(st.lists(st.one_of(st.floats(), st.none()), max_size=60), max_size=3),
    st.booleans(),
    st.integers(0, 90),
    st.integers(0, 30),
    st.one_of(st.none(), st.floats(-100, 100)),
    st.one_of(st.none(), st.tuples(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6))),
)
def test_no_series_no_size_and_no_zoom_breaks_the_picture(
    series: list[list[float | None]],
    log: bool,
    width: int,
    height: int,
    cursor: float | None,
    zoom: tuple[float, float] | None,
) -> None:
    lines = tuple(line(ys, log=log) for ys in series)
    seen = None if zoom is None else (zoom[0], zoom[0] + zoom[1])
    rows = texts(Picture(lines=lines, log=log, cursor=cursor, x_range=seen), width, height)
    assert len(rows) == (height if width else 0)
    assert all(cell_len(row) <= width for row in rows)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=30), st.lists(st.floats(), min_size=30, max_size=30))
def test_any_places_of_points_will_do(xs: list[float], ys: list[float]) -> None:
    assert len(texts(Picture(lines=(line(list(ys[: len(xs)]), xs),)))) == 12


def test_a_spike_of_one_point_among_many_is_seen() -> None:
    ys: list[float | None] = [0.0] * 100_000
    ys[77_777] = 50.0
    rows = dots(Picture(lines=(line(ys),)))
    column = 77_777 * 20 // 100_000
    assert all(row[column] not in BLANK for row in rows)
    assert set(rows[0][:column] + rows[0][column + 1 :]) <= BLANK


@pytest.mark.parametrize("points", [9, 9000])
def test_nothing_joins_the_two_sides_of_a_gap(points: int) -> None:
    third = points // 3
    ys: list[float | None] = [1.0] * third + [None] * third + [1.0] * third
    rows = ["".join(column) for column in zip(*dots(Picture(lines=(line(ys),)), 30, 4))]
    filled = [not set(column) <= BLANK for column in rows]
    assert filled[3] and filled[27] and not any(filled[12:18])


def test_neighbouring_points_are_joined() -> None:
    rows = dots(Picture(lines=(line([0.0, 10.0]),)), 20, 4)
    assert all(not set(column) <= BLANK for column in zip(*rows))


def test_the_last_curve_owns_a_cell() -> None:
    drawing = plot.draw(Picture(lines=(line([1.0, 1.0]), line([1.0, 1.0]))), 10, 3)
    assert {style for row in drawing.rows for text, style in row if set(text) - BLANK} == {"1"}


def test_the_sign_at_the_end_of_a_curve_has_its_style() -> None:
    drawing = plot.draw(Picture(lines=(line([1.0] * 9), line([2.0] * 9))), 10, 4)
    assert [style for row in drawing.rows for text, style in row if "●" in text] == ["1", "0"]


def test_the_legend_shows_last_values_or_those_at_the_crosshair() -> None:
    lines = (line([5.0, 4.0, 3.0], label="loss"), line([None, 8.0, None], label="eval/loss"))
    assert texts(Picture(lines=lines))[0].startswith("● loss 3  ● eval/loss 8")
    assert texts(Picture(lines=lines, cursor=0.2))[0].startswith("step 0.2  ● loss 5  ● eval/loss 8")


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    assert "[red]x[/red]\\n" in texts(Picture(lines=(line([1.0], label="[red]x[/red]\n"),)))[0]


def test_a_legend_that_does_not_fit_says_how_many_are_left_out() -> None:
    lines = tuple(line([1.0], label=f"metric-{i}") for i in range(9))
    assert texts(Picture(lines=lines), 60, 10)[0].rstrip().endswith("+5")


def test_without_points_it_says_so() -> None:
    assert "no points yet" in "".join(texts(Picture()))


# --- the widget ------------------------------------------------------------------------------------------------------


class ChartApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Chart()


def drive(act: Callable[[Chart, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> None:
    async def session() -> None:
        app = ChartApp()
        async with app.run_test(size=size) as pilot:
            chart = app.query_one(Chart)
            chart.set_series([straight("a", 101), straight("b", 101, -1.0)])
            chart.focus()
            await pilot.pause()
            await act(chart, pilot)

    asyncio.run(session())


def straight(key: str, points: int, slope: float = 1.0) -> Series:
    return Series(key, f"line {key}", [float(i) for i in range(points)], [slope * i for i in range(points)])


def strips(chart: Chart) -> list[str]:
    return [chart.render_line(y).text for y in range(chart.size.height)]


def test_curve_and_legend_have_the_same_colour() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        index = chart.colours["a"]
        legend = next(segment for segment in chart.render_line(0) if "line a" in segment.text)
        drawn = [s for y in range(2, 20) for s in chart.render_line(y) if any("⠀" < c <= "⣿" for c in s.text)]
        assert legend.text.startswith(sign(index))
        expected = colour(index, dark=chart.app.current_theme.dark)
        assert legend.style is not None and legend.style.color is not None
        assert legend.style.color.name == expected
        assert expected in {s.style.color.name for s in drawn if s.style and s.style.color}

    drive(act)


def test_keys_zoom_around_the_crosshair_pan_and_see_everything_again() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        await pilot.press("right", "ctrl+right", "ctrl+right")
        cursor = chart.cursor
        assert cursor is not None and 0 < cursor < 100
        await pilot.press("plus", "plus")
        assert chart.x_range is not None
        left, right = chart.x_range
        assert left <= cursor <= right and right - left < 50
        assert "zoomed" in strips(chart)[0]
        await pilot.press("shift+right")
        assert chart.x_range[0] > left
        await pilot.press("minus", "minus", "minus")
        assert chart.x_range is None
        await pilot.press("plus", "0")
        assert chart.x_range is None
        await pilot.press("escape")
        assert chart.cursor is None

    drive(act)


def test_zooming_for_ever_never_breaks() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        await pilot.press("right")
        for _ in range(120):
            chart.action_zoom(1)
            strips(chart)
        for _ in range(160):
            chart.action_zoom(-1)
            strips(chart)
        assert chart.x_range is None

    drive(act)


def test_a_logarithm_of_nothing_positive_is_not_taken_and_said() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        await pilot.press("y")
        assert "log y" in strips(chart)[0]
        chart.set_series([straight("b", 101, -1.0)])
        await pilot.pause()
        assert "no value above 0 for log y" in strips(chart)[0]

    drive(act)


def test_smoothing_keeps_the_points_dim_below_the_curve() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        ys: list[float | None] = [float(i % 2) for i in range(400)]
        chart.set_series([Series("a", "zigzag", [float(i) for i in range(400)], ys)])
        for _ in range(3):
            await pilot.press("s")
        assert "smoothed 0.97" in strips(chart)[0]
        styles = [s.style for y in range(2, 20) for s in chart.render_line(y) if any("⠀" < c <= "⣿" for c in s.text)]
        assert {bool(style and style.dim) for style in styles} == {True, False}
        await pilot.press("s", "s")
        assert chart.smoothing == 0.0

    drive(act)


def test_the_mouse_moves_the_crosshair_and_zooms_where_it_is() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        await pilot.hover(Chart, offset=(60, 10))
        assert chart.cursor is not None and 60 < chart.cursor < 90
        chart._zoom(1, chart.cursor)
        assert chart.x_range is not None
        assert chart.x_range[0] > 10

    drive(act)


def test_what_is_seen_is_written_as_csv() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        chart.set_series([Series("a", "loss", [1.0, 2.0, 3.0], [0.5, None, 0.25])], x_name="tokens")
        assert (
            csv_of(chart.series, chart.x_name, chart.x_range)
            == "series,tokens,value\nloss,1,0.5\nloss,2,\nloss,3,0.25\n"
        )
        chart.x_range = (2.5, 9.0)
        assert csv_of(chart.series, chart.x_name, chart.x_range) == "series,tokens,value\nloss,3,0.25\n"

    drive(act)


def test_without_colours_signs_stand_along_the_curves() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        plain = "".join(strips(chart)[1:])
        chart.app.no_color = True
        chart._changed()
        marked = "".join(strips(chart)[1:])
        assert all(marked.count(sign(index)) > plain.count(sign(index)) for index in chart.colours.values())

    drive(act)


def test_a_storm_of_sizes_leaves_a_whole_chart() -> None:
    async def act(chart: Chart, pilot: Pilot[None]) -> None:
        for size in [(1, 1), (3, 40), (200, 2), (17, 5), (16, 4), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert all(cell_len(text) == chart.size.width for text in strips(chart))

    drive(act)
