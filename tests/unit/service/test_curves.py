"""Curves as the dashboard draws them: few points, every peak, three axes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.events import Event, Journal, Metric
from hetspec_core.service.pages import Axis, Pages
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec


def run_with(workbench: Workbench, *events: Event) -> str:
    handle = workbench.submit(small_spec("some"))
    with Journal(handle.paths.events, "worker-0") as journal:
        for event in events:
            journal.write(event)
    return handle.run_id


def curve(workbench: Workbench, run_id: str, most: int, axis: Axis = "step") -> list[tuple[float, float | None]]:
    return [
        point for one in Pages(workbench).curves([run_id], "loss", axis, most=most) for point in zip(one.xs, one.ys)
    ]


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
        drawn = curve(workbench, run_with(workbench, *said), points, axis)  # type: ignore[arg-type]
    place = {"step": float, "tokens": lambda step: step * 7, "wall_s": math.sqrt}[axis]
    there = [(place(step), value) for step, value in zip(steps, values, strict=True)]
    assert set(drawn) <= set(there)
    assert len(drawn) <= points or len(drawn) == len(there) <= 4
    assert [x for x, _ in drawn] == sorted({x for x, _ in drawn})
    assert (drawn[0], drawn[-1]) == (there[0], there[-1])
    found = [value for _, value in drawn if value is not None]
    assert (min(found), max(found)) == (min(values), max(values))


def test_stretches_are_even_along_the_axis_that_is_drawn(tmp_path: Path) -> None:
    """A run that became a hundred times slower half way: along seconds nearly all points are from its second half."""
    said = [measured(step, step % 10, wall_s=step if step < 500 else 500 + (step - 500) * 100) for step in range(1000)]
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, *said)
        by_step = curve(workbench, run_id, 100)
        by_time = curve(workbench, run_id, 100, "wall_s")
    assert 40 <= sum(x < 500 for x, _ in by_step) <= 60
    assert sum(x < 500 for x, _ in by_time) <= 4
    assert all(later - earlier < 4000 for (earlier, _), (later, _) in pairwise(by_time))


def test_points_without_a_value_are_gaps_and_those_without_the_axis_are_left_out(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0), measured(2, math.nan, tokens=20), measured(3, 1.0, tokens=30))
        assert curve(workbench, run_id, 50) == [(1, 2.0), (2, None), (3, 1.0)]
        assert curve(workbench, run_id, 50, "tokens") == [(20, None), (30, 1.0)]
        assert curve(workbench, run_id, 50, "wall_s") == []


def test_what_a_run_says_meanwhile_is_in_its_curve(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0))
        assert len(curve(workbench, run_id, 50)) == 1
        with Journal(workbench.paths(run_id).events, "worker-0") as journal:
            journal.write(measured(2, 1.0))
        assert len(curve(workbench, run_id, 50)) == 2


def test_a_run_without_the_metric_has_no_curve(tmp_path: Path) -> None:
    with Workbench(tmp_path) as workbench:
        run_id = run_with(workbench, measured(1, 2.0))
        assert Pages(workbench).curves([run_id, "nothing"], "los") == []
