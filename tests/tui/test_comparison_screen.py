"""Runs side by side: what is best, what differs, what changed, and the curves over each other."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.events import Marked
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choose, Prompt
from hetspec_tui.pages import OpenComparison
from hetspec_tui.screens.comparison import ComparisonScreen, best, change, direction
from hetspec_tui.widgets.chart import Chart
from tests.fakes.run_folders import add_run
from tests.tui.driving import drive, screen_text, toasts, until

Scene = Callable[[HetSpecApp, ComparisonScreen, Pilot[None]], Awaitable[None]]


@pytest.fixture
def runs(home: Path) -> Path:
    now = time.time()
    add_run(home, "run-a", "succeeded", name="alpha", created=now - 60, curve=(3.0, 2.0, 1.5), lr=0.1)
    add_run(home, "run-b", "failed", name="beta", created=now - 99, curve=(3.0, 1.0), lr=0.2,
            marked=Marked(note="[bold]odd[/]"))  # fmt: skip
    add_run(home, "run-c", "queued", name="gamma", created=now - 120, lr=0.2)
    return home


def compare(act: Scene, *run_ids: str, size: tuple[int, int] = (120, 40)) -> None:
    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.screen.post_message(OpenComparison(run_ids))
        await until(pilot, lambda: isinstance(app.screen, ComparisonScreen) and app.screen.found is not None)
        assert isinstance(app.screen, ComparisonScreen)
        await pilot.pause()
        await act(app, app.screen, pilot)

    drive(scene, size)


def line_of(app: HetSpecApp, start: str) -> str:
    return next(line for line in screen_text(app).splitlines() if line.lstrip(" ▌").startswith(start))


def test_results_settings_and_changes_of_two_runs(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        assert "Compare 2 runs" in screen_text(app)
        assert line_of(app, "loss").split() == ["loss", "↓", "1.5", "★", "1", "-0.5", "(-33.3%)"]
        assert line_of(app, "training.optimizer.lr").split()[1:] == ["0.1", "0.2", "+0.1", "(+100.0%)"]
        assert "[bold]odd[/]" in screen_text(app)
        assert "✖ failed" in line_of(app, "state")
        await pilot.press("w")
        await until(pilot, lambda: "The runs" not in screen_text(app))
        assert "training.optimizer.lr" in screen_text(app)

    compare(act, "run-a", "run-b")


def test_curves_over_steps_tokens_and_time(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        chart = screen.query_one(Chart)
        assert [one.key for one in chart.series] == ["run-a", "run-b"]
        for xs in ([0, 100, 200], [0, 2, 4], [0, 1, 2]):
            await pilot.press("X")
            await until(pilot, lambda xs=xs: list(chart.series[0].xs) == xs)
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "in 2 of 3" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen)

    compare(act, "run-a", "run-b", "run-c")


def test_of_three_runs_two_are_chosen_to_see_what_changed(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("down", "enter")
        await until(pilot, lambda: getattr(app.screen, "run_ids", ()) == ("run-a", "run-c"))
        await until(pilot, lambda: "+0.1" in screen_text(app))

    compare(act, "run-a", "run-b", "run-c")


@pytest.mark.parametrize("suffix", ["csv", "json", "md"])
def test_a_comparison_is_written_to_a_file(runs: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"c.{suffix}"

    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = str(target)
        await pilot.press("enter")
        await until(pilot, lambda: "written to" in toasts(app))

    compare(act, "run-a", "run-b")
    text = target.read_text()
    if suffix == "json":
        assert json.loads(text)["results"]["loss"] == [1.5, 1.0]
    else:
        assert "training.optimizer.lr" in text
        assert "run-a" in text.splitlines()[0]


def test_a_run_that_is_gone_is_left_out(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        assert screen.found is not None
        assert [run.run_id for run in screen.found.runs] == ["run-a"]
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is not screen)

    compare(act, "run-a", "run-gone")


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (200, 60)])
def test_it_is_usable_at_every_size(runs: Path, size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, screen: ComparisonScreen, pilot: Pilot[None]) -> None:
        chart, table = screen.query_one(Chart), screen.table
        assert not chart.region.overlaps(table.region)
        assert min(chart.region.area, table.region.area) > 0
        await pilot.press("f")
        assert not chart.display
        assert table.region.height > size[1] - 5

    compare(act, "run-a", "run-b", "run-c", size=size)


@pytest.mark.parametrize(
    ("name", "way"),
    [("loss", -1), ("eval/loss", -1), ("accept_length", 1), ("bench.speedup", 1), ("decode_tokens_per_s", 1),
     ("took_s", -1), ("latency_ms", -1), ("perplexity", -1), ("lr", 0), ("steps", 0), ("top1", 1)],
)  # fmt: skip
def test_which_way_is_better_follows_from_the_name(name: str, way: int) -> None:
    assert direction(name) == way


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=6))
def test_the_best_is_never_worse_than_another(values: list[float | None]) -> None:
    tops = best("loss", values)
    known = [value for value in values if value is not None and math.isfinite(value)]
    assert all(values[place] == min(known) for place in tops)
    assert len(tops) < max(1, len(known))


@given(
    *[st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5), st.lists(st.integers()))] * 2
)
def test_any_change_can_be_said(before: object, after: object) -> None:
    assert change(before, after).text


def test_a_change_is_said_as_a_difference_and_a_share() -> None:
    assert change(2.0, 3.0).text == "+1 (+50.0%)"
    assert change(0, 3).text == "+3"
    assert change("a", "b").text == "changed"
    assert change(None, 1).text == "new"
    assert change(1, None).text == "removed"
    assert change([1], [1]).text == "="
