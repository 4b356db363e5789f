"""Bars and sparklines of any series: never an error, never wider than asked for."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hetspec_tui.formatting import BLOCKS, area, bar, meter, sparkline

VALUES = st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), max_size=200)


@given(VALUES, st.integers(-1, 120), st.integers(1, 6))
def test_any_series_is_drawn_inside_its_cells(values: list[float | None], width: int, height: int) -> None:
    lines = area(values, width, height)
    assert len(lines) == height
    assert all(set(line) <= {*BLOCKS, " "} for line in lines)
    assert all(len(line) <= max(0, width) for line in lines)
    assert len(sparkline(values, width)) == max(0, min(width, len(values)))


def test_a_rising_curve_rises_and_what_is_not_finite_is_a_gap() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == BLOCKS
    assert sparkline([1e-9, math.nan, math.inf, None, 1e12], 5) == "▁   █"
    assert sparkline([5.0, 5.0, 5.0], 9) == "▄▄▄"
    assert area([0.0, 1.0], 4, 2) == ["  ██", "▁▁██"]


@given(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), st.integers(-2, 50))
def test_a_bar_is_as_wide_as_asked_for(share: float | None, width: int) -> None:
    for drawn in (bar(share, width), meter(share, width)):
        assert len("".join(drawn)) == max(0, width)
