"""The points behind a chart: whatever is asked of them is what a slow look at every point would say."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_tui.widgets.curves import DARK, Curve, Series, colour_indices
from hetspec_tui.widgets.plot import log_ticks, tick_labels, ticks

VALUES = st.one_of(st.floats(-1e12, 1e12), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.none())


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def values(curve: Curve) -> list[float | None]:
    return [curve.value(index) for index in range(len(curve))]


@given(st.lists(VALUES, max_size=900), st.integers(0, 900), st.integers(0, 900))
def test_extremes_of_any_stretch_are_those_of_its_points(ys: list[float | None], start: int, stop: int) -> None:
    curve = Series("loss", "loss", [float(i) for i in range(len(ys))], ys).curve()
    start, stop = min(start, len(ys)), min(stop, len(ys))
    inside = [y for y in ys[start:stop] if y is not None and math.isfinite(y)]
    assert curve.extremes(start, stop) == (min(inside, default=math.inf), max(inside, default=-math.inf))


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), VALUES), max_size=60))
def test_points_may_come_in_any_order(points: list[tuple[float, float | None]]) -> None:
    points = sorted(dict(points).items())
    given_back = Series("loss", "loss", [x for x, _ in reversed(points)], [y for _, y in reversed(points)])
    prepared = Series("loss", "loss", [x for x, _ in points], [y for _, y in points])
    assert list(prepared.xs) == list(given_back.xs) == [x for x, _ in points]
    assert values(prepared.curve()) == values(given_back.curve())


def test_smoothing_begins_at_the_first_value_and_leaves_gaps() -> None:
    curve = Series("loss", "loss", [1, 2, 3, 4], [4.0, 2.0, None, 2.0]).curve(False, 0.5)
    assert [curve.value(i) for i in range(4)] == pytest.approx([4.0, (4 * 0.25 + 2 * 0.5) / 0.75, None, 16 / 7])


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_smoothing_is_the_weighted_mean_of_what_came_before(ys: list[float | None]) -> None:
    curve = Series("loss", "loss", list(range(len(ys))), ys).curve(False, 0.6)
    seen: list[float] = []
    for index, y in enumerate(ys):
        if y is None or not math.isfinite(y):
            assert curve.value(index) is None
            continue
        seen.append(y)
        weights = [0.6**age for age in range(len(seen))]
        mean = sum(w * v for w, v in zip(weights, reversed(seen))) / sum(weights)
        scale = max(map(abs, seen)) or 1.0
        assert curve.value(index) == pytest.approx(mean, abs=1e-6 * scale)


def test_the_logarithm_of_what_is_not_positive_is_a_gap() -> None:
    prepared = Series("loss", "loss", [1, 2, 3, 4], [100.0, 0.0, -5.0, 1e-9])
    assert [prepared.curve(True).value(i) for i in range(4)] == [2.0, None, None, pytest.approx(-9)]


def test_points_that_lie_nowhere_are_left_out() -> None:
    prepared = Series("loss", "loss", array("d", [3.0, math.nan, 1.0]), array("d", [30.0, 20.0, 10.0]))
    assert tuple(map(list, prepared.points)) == ([1.0, 3.0], [10.0, 30.0])


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(1, 20), st.booleans())
def test_ticks_are_few_and_inside_and_each_is_written_in_its_own_way(
    low: float, span: float, most: int, time: bool
) -> None:
    found = ticks(low, low + span, most, time=time)
    slack = 1e-6 * max(abs(low), span)
    assert len(found) <= 2 * most + 3
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert all(len(label) < 24 for label in tick_labels(found, time=time))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0, 2000.0, ["0", "500", "1,000", "1,500", "2,000"]),
        (0.0, 80_000.0, ["0", "20k", "40k", "60k", "80k"]),
        (0.1, 0.32, ["0.10", "0.15", "0.20", "0.25", "0.30"]),
        (1e-6, 5e-6, ["1e-06", "2e-06", "3e-06", "4e-06", "5e-06"]),
    ],
)
def test_ticks_are_round(low: float, high: float, texts: list[str]) -> None:
    assert tick_labels(ticks(low, high, 5)) == texts


def test_times_have_steps_that_are_round_in_minutes() -> None:
    assert tick_labels(ticks(0, 3600, 4, time=True), time=True) == [
        "0s",
        "15m 00s",
        "30m 00s",
        "45m 00s",
        "1h 00m",
    ]


@pytest.mark.parametrize(("low", "high"), [(-9.0, 12.0), (-0.2, 0.3), (0.0, 1.0), (2.0, 2.001), (-307.0, 300.0)])
def test_logarithmic_ticks_are_inside_and_rise(low: float, high: float) -> None:
    found = log_ticks(low, high, 6)
    assert found == sorted(set(found)) and found
    assert all(low - 1e-6 <= math.log10(tick) <= high + 1e-6 for tick in found)


@given(st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=14))
def test_a_new_key_changes_the_colour_of_none_before_it(keys: list[str]) -> None:
    found = colour_indices(keys)
    assert list(found) == keys
    assert colour_indices(keys[:-1]) == {key: found[key] for key in keys[:-1]}
    assert len(set(found.values())) == min(len(keys), len(DARK))
