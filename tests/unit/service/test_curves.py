"""Curves as the dashboard draws them: few points, every peak, three axes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.events import Event, Journal, Metric
from hetspec_core.service.pages import curve
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec


def run_with(workbench: Workbench, *events: Event) -> str:
    handle = workbench.submit(small_spec("some"))
    with Journal(handle.paths.events, "worker-0") as journal:
        for event in events:
            journal.write(event)
    return handle.run_id


def measured(step: int, value: float | None, *, tokens: int | None = None, wall_s: float | None = None) -> Metric:
    return Metric(step=step, values={"loss": value}, tokens=tokens, wall_s=wall_s)


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    gaps=st.lists(st.integers(1, 90), min_size=300, max_size=300),
    points=st.integers(4, 60),
    axis=st.sampled_from(["step", "tokens", "wall_s"]),
)
def test_a_thinned_curve_has_its_ends_its_peaks_and_no_point_that_was_not_measured(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], gaps: list[int], points: int, axis: str
) -> None:
    steps = [sum(gaps[: number + 1]) for number in range(len(values))]
    said = [
        measured(step, value, tokens=step * 7, wall_s=math.sqrt(step))
        for step, value in zip(steps, values, strict=True)
    ]
    with Workbench(tmp_path_factory.mktemp("home")) as workbench:
        drawn = curve(workbench, run_with(workbench, *said), "loss", points, axis)  # type: ignore[arg-type]
    place = {"step": float, "tokens": lambda step: step * 7, "wall_s": math.sqrt}[axis]
    there = {(place(step), value, step) for step, value in zip(steps, values, strict=True)}
    assert set(drawn.points) <= there and drawn.total == len(values)
    assert len(drawn.points) <= points or len(drawn.points) == drawn.total <= 4
    assert [point.step for point in drawn.points] == sorted({point.step for point in drawn.points})
    assert (drawn.points[0].step, drawn.points[-1].step) == (steps[0], steps[-1])
    found = [point.value for point in drawn.points]
    assert (min(found), max(found)) == (min(values), max(values))


def test_stretches_are_even_along_the_axis_that_is_drawn(tmp_path: Path) -> None:
    """A run that became a hundred times slower half way: along seconds nearly all points are from its second half."""
    said = [measured(step, step % 10, wall_s=step if step < 500 else 500 + (step - 500) * 100) for step in range(1000)]
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, *said)
        by_step = curve(workbench, run_id, "loss", 100, "step").points
        by_time = curve(workbench, run_id, "loss", 100, "wall_s").points
    assert 40 <= sum(point.step < 500 for point in by_step) <= 60
    assert sum(point.step < 500 for point in by_time) <= 4
    assert all(later.x - earlier.x < 4000 for earlier, later in pairwise(by_time))


def test_points_without_a_value_or_without_the_axis_are_not_drawn(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0), measured(2, math.nan, tokens=20), measured(3, 1.0, tokens=30))
        assert [point.step for point in curve(workbench, run_id, "loss", 50).points] == [1, 3]
        assert curve(workbench, run_id, "loss", 50, "tokens").points == ((30, 1.0, 3),)
        assert curve(workbench, run_id, "loss", 50, "wall_s").to_json()["points"] == []
        long = run_with(workbench, *(measured(step, None if step % 3 else float(step)) for step in range(400)))
        drawn = curve(workbench, long, "loss", 20)
        assert all(point.step % 3 == 0 for point in drawn.points) and drawn.points[-1].value == 399.0


def test_what_a_run_says_meanwhile_is_in_its_curve(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0))
        assert curve(workbench, run_id, "loss", 50).total == 1
        with Journal(workbench.paths(run_id).events, "worker-0") as journal:
            journal.write(measured(2, 1.0))
        assert curve(workbench, run_id, "loss", 50).total == 2


def test_a_curve_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0))
        with pytest.raises(NotFoundError, match="did you mean 'loss'"):
            curve(workbench, run_id, "los", 50)
        with pytest.raises(NotFoundError, match="there is no run"):
            curve(workbench, "nothing", "loss", 50)
        with pytest.raises(UsageError, match="no axis 'seconds'"):
            curve(workbench, run_id, "loss", 50, "seconds")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="in 3 points"):
            curve(workbench, run_id, "loss", 3)
