"""The panes of a run: what they show of journals, logs and results."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input, Static

from hetspec_core.events import (
    CheckpointSaved,
    Log,
    Result,
)
from hetspec_core.service.presets import ResolvedValue
from hetspec_core.service.workbench import Workbench
from hetspec_tui.formatting import safe
from hetspec_tui.screens.run import RunScreen
from hetspec_tui.screens.run.texts import bar, results_text, setting_lines, table
from hetspec_tui.widgets.log_view import LogView
from tests.fakes.results import recorded
from tests.fakes.specs import small_spec
from tests.tui.driving import screen_text, toasts, until
from tests.tui.run_pages import BENCH, demo_run, make_run, points, show


def test_the_settings_of_a_run_say_where_they_came_from() -> None:
    run_id = demo_run()

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until(pilot, lambda: "<- --set name" in screen_text(pilot.app), "the source of a value")
        assert "<- preset recipe/" in screen_text(pilot.app)

    show(run_id, act, (130, 40))


def test_on_a_small_screen_the_source_of_a_setting_is_read_without_a_key() -> None:
    run_id = demo_run()

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until(pilot, lambda: "<- --set name" in screen_text(pilot.app), "the source of a value")
        assert "<- preset recipe/smollm2-llama-eagle:2" in screen_text(pilot.app)
        await pilot.press("slash", *"base.intermediate_size", "enter")
        await until(pilot, lambda: "1/" in screen_text(pilot.app), "the one setting")
        text = "".join(screen_text(pilot.app).split())
        assert "draft.architecture.intermediate_size1536" in text
        assert "<-presetdraft/llama-1l:7:formula'base.intermediate_size'=1536" in text
        await pilot.resize_terminal(140, 30)  # where there is room, it stands beside the value again
        await until(pilot, lambda: any("1536" in row and "<-" in row for row in screen_text(pilot.app).splitlines()))

    show(run_id, act, (80, 24))


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=50), st.text(max_size=90), st.text(max_size=60)), max_size=6),
    st.integers(20, 130),
)
def test_a_source_stands_whole_beside_its_value_or_at_the_beginning_of_a_row(
    settings: list[tuple[str, str, str]], width: int
) -> None:
    values = [ResolvedValue(name, value, source, "") for name, value, source in settings]
    lines = setting_lines(values, width)
    assert len(lines) == len(values)
    for line, (_, _, source) in zip(lines, settings, strict=True):
        if source:
            head, arrow, _ = line.rpartition(f"  <- {safe(source)}")
            assert arrow and (cell_len(line) <= width or cell_len(head) % width in (0, 2))


def test_every_pane_is_reached_by_its_digit_and_shows_its_own() -> None:
    saved = CheckpointSaved(path="checkpoints/step-1", step=1, best=True)
    run_id = make_run("all", *points(3), Log(message="said by it"), saved, Result(kind="bench", data=BENCH))
    with Workbench() as workbench:
        (workbench.paths(run_id).checkpoints / "step-1").mkdir(parents=True)

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for key, parts in {
            "2": ("last line", "[red]not markup[/red]"),
            "3": ("base.name", "'tiny'"),
            "4": ("worker-0", "42", "elsewhere"),
            "5": ("checkpoints/step-1", "best", "spec.toml"),
            "6": ("said by it", "attempt 1 started"),
            "7": ("6/10/60", "2.50", "2.00", "3/4", "75%", "acceptance by depth"),
            "1": ("loss",),
        }.items():
            await pilot.press(key)
            await until(pilot, lambda parts=parts: all(p in screen_text(pilot.app) for p in parts), f"{key}: {parts}")

    show(run_id, act)


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (200, 60)])
def test_every_pane_fits_at_every_size(size: tuple[int, int]) -> None:
    run_id = make_run("sizes", *points(30), Result(kind="training", data={"accept_length": 2.0}))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for key in "1234567":
            await pilot.press(key)
            await pilot.pause()
            for selector in ("RunHead", "#panes", "KeyBar"):
                region = screen.query_one(selector).region
                assert region.area > 0 and screen.region.contains_region(region)
        await pilot.press("1")
        await pilot.pause()
        assert screen.curves.region.contains_region(screen.curves.chart.region)
        assert screen.query_one("#side").display == (size[0] >= 160)

    show(run_id, act, size)


def test_other_runs_are_drawn_over_it_and_the_axis_changes() -> None:
    first, second = make_run("one", *points(20)), make_run("two", *points(20))
    assert first != second

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(screen.curves.chart.series) == 1)
        await pilot.press("o")
        await until(pilot, lambda: pilot.app.screen is not screen)
        pilot.app.screen.query_one(Input).value = "two"
        await pilot.press("enter")
        await until(pilot, lambda: [s.label for s in screen.curves.chart.series] == ["one", "two"])
        assert [s.key for s in screen.curves.chart.series] == [first, second]
        await pilot.press("X")
        await until(pilot, lambda: screen.curves.chart.x_name == "tokens")
        assert max(screen.curves.chart.series[0].xs) == 19 * 8
        await pilot.press("o")
        await until(pilot, lambda: pilot.app.screen is not screen)
        pilot.app.screen.query_one(Input).value = "no-such-run"
        await pilot.press("enter")
        await until(pilot, lambda: "no-such-run" in toasts(screen.app))  # type: ignore[arg-type]

    show(first, act)


def test_metrics_are_chosen_from_the_list_and_saved_as_csv() -> None:
    run_id = make_run("choose", *points(5))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: [s.key for s in screen.curves.chart.series] == ["loss"])
        await pilot.press("M")
        await pilot.press("down", "down", "space")
        await until(pilot, lambda: {s.key for s in screen.curves.chart.series} == {"loss", "lr"}, "two curves")
        await pilot.press("M")
        assert screen.curves.chart.has_focus
        await pilot.press("E")
        await until(pilot, lambda: pilot.app.clipboard.endswith(".csv"))
        lines = Path(pilot.app.clipboard).read_text().splitlines()
        assert lines[0] == "series,step,value" and "loss,0,5.0" in lines and "lr,4,0.1" in lines

    show(run_id, act, (80, 24))


def test_logs_of_several_workers_are_visited() -> None:
    run_id = make_run("crew")
    with Workbench() as workbench:
        workbench.paths(run_id).log("worker-1").write_text("of the second\n")

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "last line" in screen_text(pilot.app), "the first log")
        await until(pilot, lambda: len(screen._logs) == 2)
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: "of the second" in screen_text(pilot.app), "the second log")
        await pilot.press("left_square_bracket")
        await until(pilot, lambda: "last line" in screen_text(pilot.app), "the first again")

    show(run_id, act)


def test_a_pane_takes_the_whole_screen_and_gives_it_back() -> None:
    run_id = make_run("full", *points(5))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for key in "127":
            await pilot.press(key)
            await pilot.press("f")
            assert screen.maximized is not None, key
            assert screen.maximized.region.height >= 28
            await pilot.press("f")
            assert screen.maximized is None

    show(run_id, act)


def test_zooming_brings_the_points_that_were_thinned_out() -> None:
    run_id = make_run("long", *points(6000))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        chart = screen.curves.chart
        await until(pilot, lambda: bool(chart.series) and len(chart.series[0].xs) > 1000)
        assert len(chart.series[0].xs) < 4000
        await pilot.press("right", "ctrl+right", "ctrl+right", *["plus"] * 5)
        await until(pilot, lambda: len(chart.series[0].xs) == 6000, "every point")

    show(run_id, act)


def test_results_of_any_shape_are_drawn() -> None:
    assert "2.50" in str(results_text({"bench": BENCH}))
    assert "a.b" in str(results_text({"x": {"a": {"b": [1, "[bold]"]}}}))
    tuned = str(results_text({"tune": recorded("tune")}))
    assert "frontier" in tuned and "trials" not in tuned and "batch 1: " in tuned
    assert "No result" in str(results_text({}))
    odd = {"bench": {"plain": {}, "trees": [{"tree": None}, 3, {"histogram": {"1": None}, "by_depth": [{}]}]}}
    assert "identical" in str(results_text(odd)) and "record is damaged: trees.0.tree is None" in str(results_text(odd))
    alone = {**BENCH, "plain": None, "trees": [{**BENCH["trees"][0], "speedup": None, "lossless": None}]}  # type: ignore[dict-item]
    shown = str(results_text({"bench": alone}))  # of a server that always drafts: nothing to hold it against
    assert "2.50" in shown and "100.0" in shown and "plain" not in shown and "None" not in shown and "?" not in shown
    assert table(("a",), [("漢字",), ("b",)]).cell_length >= 4
    assert (bar(0), bar(1, 4), bar(0.5, 3), bar(9, 2)) == ("", "████", "█▌", "██")


def test_the_empty_panes_say_what_will_be_there() -> None:
    with Workbench() as workbench:
        run_id = workbench.submit(small_spec("empty")).run_id

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for key, words in {"1": "no metrics yet", "2": "no log yet", "4": "not started yet", "7": "No result"}.items():
            await pilot.press(key)
            await until(pilot, lambda words=words: words in screen_text(pilot.app), words)
        assert isinstance(screen.query_one("#log"), LogView) and screen.query(Static)

    show(run_id, act)
