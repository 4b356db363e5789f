"""The points behind a chart: whatever is asked of them is what a slow look at every point would say."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_tui.widgets import axes, colours
from hetspec_tui.widgets.curves import Curve, GrowingSeries

VALUES = st.one_of(st.floats(-1e12, 1e12), st.just(math.nan), st.just(math.inf), st.just(-math.inf), st.none())


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def made(track: GrowingSeries, log: bool = False, smoothing: float = 0.0, most: int = 7) -> Curve:
    while not track.make(log, smoothing, most):
        pass
    return track.curve(log, smoothing)


@given(st.lists(VALUES, max_size=900), st.integers(0, 900), st.integers(0, 900), st.integers(1, 200))
def test_extremes_of_any_stretch_are_those_of_its_points(
    ys: list[float | None], start: int, stop: int, piece: int
) -> None:
    track = GrowingSeries()
    track.take([float(i) for i in range(len(ys))], ys)
    curve = made(track, most=piece)
    start, stop = min(start, len(ys)), min(stop, len(ys))
    inside = [y for y in ys[start:stop] if y is not None and math.isfinite(y)]
    assert curve.extremes(start, stop) == (min(inside, default=math.inf), max(inside, default=-math.inf))


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), VALUES), max_size=60), st.integers(0, 60), st.floats(0.1, 0.95))
def test_a_series_that_grew_is_the_same_as_one_that_came_whole(
    points: list[tuple[float, float | None]], first: int, smoothing: float
) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    grown, whole = GrowingSeries(), GrowingSeries()
    grown.take(xs[:first], ys[:first])
    made(grown), made(grown, False, smoothing)
    grown.take(xs, ys)
    whole.take(xs, ys)
    for kind in (0.0, smoothing):
        left, right = made(grown, False, kind), made(whole, False, kind, most=1000)
        assert list(left.xs) == list(right.xs) == sorted(xs)
        assert left.levels == right.levels


def test_a_series_that_changed_in_its_middle_is_taken_anew() -> None:
    track = GrowingSeries()
    assert track.take([1, 2, 3], [1.0, 2.0, 3.0])
    made(track)
    assert not track.take([1, 2, 3], [1.0, 2.0, 3.0])
    assert track.take([1, 2, 3, 4], [1.0, 9.0, 3.0, 4.0])
    assert made(track).extremes(0, 4) == (1.0, 9.0)


def test_smoothing_begins_at_the_first_value_and_leaves_gaps() -> None:
    track = GrowingSeries()
    track.take([1, 2, 3, 4], [4.0, 2.0, None, 2.0])
    curve = made(track, False, 0.5)
    assert [curve.value(i) for i in range(4)] == pytest.approx([4.0, (4 * 0.25 + 2 * 0.5) / 0.75, None, 16 / 7])


@given(st.lists(VALUES, min_size=1, max_size=200))
def test_smoothing_is_the_weighted_mean_of_what_came_before(ys: list[float | None]) -> None:
    track = GrowingSeries()
    track.take(list(range(len(ys))), ys)
    curve = made(track, False, 0.6)
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
    track = GrowingSeries()
    track.take([1, 2, 3, 4], [100.0, 0.0, -5.0, 1e-9])
    assert [made(track, True).value(i) for i in range(4)] == [2.0, None, None, pytest.approx(-9)]


def test_points_that_lie_nowhere_are_left_out() -> None:
    track = GrowingSeries()
    track.take(array("d", [3.0, math.nan, 1.0]), array("d", [30.0, 20.0, 10.0]))
    assert [list(values) for values in track.points] == [[1.0, 3.0], [10.0, 30.0]]


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(1, 20), st.booleans())
def test_ticks_are_few_and_inside_and_each_is_written_in_its_own_way(
    low: float, span: float, most: int, time: bool
) -> None:
    found = axes.ticks(low, low + span, most, time=time)
    slack = 1e-6 * max(abs(low), span)
    assert len(found) <= 2 * most + 3
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert all(len(label) < 24 for label in axes.labels(found, time=time))


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
    assert axes.labels(axes.ticks(low, high, 5)) == texts


def test_times_have_steps_that_are_round_in_minutes() -> None:
    assert axes.labels(axes.ticks(0, 3600, 4, time=True), time=True) == [
        "0s",
        "15m 00s",
        "30m 00s",
        "45m 00s",
        "1h 00m",
    ]


@pytest.mark.parametrize(("low", "high"), [(-9.0, 12.0), (-0.2, 0.3), (0.0, 1.0), (2.0, 2.001), (-307.0, 300.0)])
def test_logarithmic_ticks_are_inside_and_rise(low: float, high: float) -> None:
    found = axes.log_ticks(low, high, 6)
    assert found == sorted(set(found)) and found
    assert all(low - 1e-6 <= math.log10(tick) <= high + 1e-6 for tick in found)


@given(st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=14))
def test_a_new_key_changes_the_place_of_none_before_it(keys: list[str]) -> None:
    found = colours.places(keys)
    assert list(found) == keys
    assert colours.places(keys[:-1]) == {key: found[key] for key in keys[:-1]}
    assert len(set(found.values())) == min(len(keys), len(colours.DARK))
