"""The screen of a run: what its panes show of journals and logs, and what each of its actions does."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Input, Static

from hetspec_core.config import resolve
from hetspec_core.events import (
    CheckpointSaved,
    ErrorInfo,
    EventBase,
    Journal,
    Launched,
    Log,
    Metric,
    Progress,
    Result,
    RunEnded,
    RunStarted,
    WorkerEnded,
)
from hetspec_core.service import Library, ResolvedValue, Workbench
from hetspec_core.spec import Stage
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Confirm, Details
from hetspec_tui.formatting import safe
from hetspec_tui.screens.run import RunScreen
from hetspec_tui.screens.run.texts import bar, results_text, setting_lines, table
from hetspec_tui.widgets.log_view import LogView
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, screen_text, toasts, until

Act = Callable[[RunScreen, Pilot[None]], Awaitable[None]]

BENCH = {
    "setup": {"base": "tiny", "draft": "d"},
    "plain": {"decode_tokens_per_s": 50.0},
    "trees": [
        {
            "tree": "6/10/60",
            "accept_length": 2.5,
            "accept_length_interval": [2.4, 2.6],
            "decode_tokens_per_s": 100.0,
            "speedup": 2.0,
            "lossless": {"identical": 3, "prompts": 4},
            "histogram": {"1": 30, "2": 10},
            "by_depth": [{"depth": 1, "acceptance_rate": 0.5, "joint_rate": 0.25}],
        }
    ],
}


def make_run(name: str, *events: EventBase, stage: Stage = "train", ended: int | None = None) -> str:
    """A run that is at work on another host as far as its journals say, with these events."""
    with Workbench() as workbench:
        run_id = workbench.submit(small_spec(name, stage)).run_id
        paths = workbench.paths(run_id)
        with Journal(paths.desk, "supervisor") as desk:
            desk.write(Launched(attempt=1, pid=41, host="elsewhere", birth=""))
            if ended is not None:
                desk.write(WorkerEnded(attempt=1, name="worker-0", exit_status=ended))
        with Journal(paths.events, "worker-0") as journal:
            journal.write(RunStarted(stage=stage, pid=42, host="elsewhere"))
            for event in events:
                journal.write(event)
        paths.log("worker-0").write_text("first line\n[red]not markup[/red]\nlast line\n")
        return run_id


def points(count: int = 50) -> list[EventBase]:
    return [
        Metric(step=step, values={"loss": 5 / (step + 1), "lr": 0.1}, tokens=step * 8, wall_s=step)
        for step in range(count)
    ]


def show(run_id: str, act: Act, size: tuple[int, int] = (100, 30), *, read_only: bool = False) -> HetSpecApp:
    async def inside(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = RunScreen(run_id)
        await app.push_screen(screen)
        await until(pilot, lambda: screen.run is not None, "the first look")
        await pilot.pause()
        await act(screen, pilot)

    return drive(inside, size, read_only=read_only)


def demo_run() -> str:
    """A dataset run of the demo's recipe that was given a name, so that its settings come from many places."""
    with Workbench() as workbench:
        return workbench.submit(resolve("quick-demo", stage="dataset", overrides=["name=mine"])).run_id


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


def append(run_id: str, *events: EventBase) -> None:
    with Workbench() as workbench, Journal(workbench.paths(run_id).events, "worker-0") as journal:
        for event in events:
            journal.write(event)


def test_a_run_at_work_shows_its_state_progress_and_curves_and_what_is_new() -> None:
    run_id = make_run("fast", *points(), Progress(task="train", done=50, total=200, unit="steps"))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(
            pilot, lambda: "● loss" in screen_text(pilot.app) or "loss 0.1" in screen_text(pilot.app), "the curve"
        )
        text = screen_text(pilot.app)
        for part in ("▶ running", "fast", "25%", "train 50/200 steps"):
            assert part in text
        append(
            run_id, Metric(step=50, values={"loss": 0.0625}), Progress(task="train", done=100, total=200, unit="steps")
        )
        await until(pilot, lambda: "loss 0.0625" in screen_text(pilot.app), "the new point")
        assert "50%" in screen_text(pilot.app)
        assert "left" in screen_text(pilot.app)

    show(run_id, act)


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


def test_stopping_asks_with_what_would_be_lost_and_enter_alone_stops_nothing() -> None:
    run_id = make_run("precious", *points(8))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("K")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        text = screen_text(pilot.app)
        assert "Stop run precious?" in text and "step 7" in text and "has worked for" in text
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.run is not None and screen.run.state == "running"
        await pilot.press("K")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "works on elsewhere" in toasts(screen.app), "the word of the service")  # type: ignore[arg-type]

    show(run_id, act)


def start_fake(deed: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real run of the fake worker."""
    monkeypatch.setattr("hetspec_core.jobs.local.WORKER_MODULE", "tests.fakes.worker")
    from hetspec_core.jobs import LocalExecutor

    environment = {"HETSPEC_HOME": os.environ["HETSPEC_HOME"], "PYTHONPATH": os.pathsep.join(sys.path)}
    with Workbench(executor=LocalExecutor(module="tests.fakes.worker", environment=environment)) as workbench:
        run_id = workbench.submit(small_spec(deed)).run_id
        workbench.start(run_id)
        return run_id


@pytest.mark.parametrize("key", ["K", "ctrl+k"])
def test_a_real_run_is_stopped_from_its_screen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = start_fake("wait", monkeypatch)

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen.run is not None and screen.run.state == "running", "running")
        await pilot.press(key)
        if key == "K":
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press("y")
        await until(pilot, lambda: screen.run is not None and screen.run.state == "cancelled", "cancelled")
        assert screen.check_action("cancel", ()) is False
        assert screen.check_action("resume", ()) is True
        await until(pilot, lambda: "■ cancelled" in screen_text(pilot.app))

    show(run_id, act)


def test_a_failed_run_is_red_and_one_key_says_what_went_wrong() -> None:
    error = ErrorInfo(kind="StageFailed", message="the worker was killed\nby SIGKILL", hint="make room")
    run_id = make_run("bad", RunEnded(state="failed", error=error), ended=-9)
    with Workbench() as workbench:
        workbench.paths(run_id).log("worker-0").write_text(
            'Traceback (most recent call last):\n  File "x"\nRuntimeError: CUDA error: [bold]oops\n'
        )

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        assert screen.query_one("RunHead").has_class("-failed")
        assert "✖ failed" in screen_text(pilot.app) and "the worker was killed" in screen_text(pilot.app)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Details))
        text = screen_text(pilot.app)
        for part in ("SIGKILL (9)", "make room", "a CUDA call failed", "RuntimeError: CUDA error: [bold]oops"):
            assert part in text
        await pilot.press("escape")
        await pilot.press("2")
        await until(pilot, lambda: "[bold]oops" in screen_text(pilot.app))

    show(run_id, act)


def test_tags_note_and_star_are_written_and_shown() -> None:
    run_id = make_run("labels", *points(2))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        async def answer(key: str, text: str) -> None:
            await pilot.press(key)
            await until(pilot, lambda: bool(pilot.app.screen.query(Input)) and pilot.app.screen is not screen)
            pilot.app.screen.query_one(Input).value = text
            await pilot.press("enter")

        await answer("t", "good [x]")
        await until(pilot, lambda: "#[x] " in screen_text(pilot.app) + " ", "the tags")
        await answer("i", "look again")
        await pilot.press("*")
        await until(pilot, lambda: screen.run is not None and screen.run.starred and screen.run.note == "look again")
        await answer("t", "good")
        await until(pilot, lambda: screen.run is not None and screen.run.tags == ("good",))
        assert "★" in screen_text(pilot.app)

    show(run_id, act)


def test_id_and_path_are_copied_and_the_folder_opens_in_the_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = make_run("copy", *points(2))
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        assert pilot.app.clipboard == run_id
        await pilot.press("C")
        assert pilot.app.clipboard == str(Path(os.environ["HETSPEC_HOME"]) / "runs" / run_id)
        pilot.app.copy_to_clipboard("")
        await pilot.press("O")  # a headless terminal cannot be given away, so the path is copied
        assert pilot.app.clipboard.endswith(run_id)

    show(run_id, act)


def test_a_dashboard_that_only_looks_changes_nothing() -> None:
    run_id = make_run("fixed", *points(2))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for action in ("cancel", "kill", "tag", "note", "star"):
            assert screen.check_action(action, ()) is None
        await pilot.press("K", "ctrl+k", "*")
        assert pilot.app.screen is screen
        with Workbench() as workbench:
            assert not Library(workbench).summary(run_id).starred

    show(run_id, act, read_only=True)


def test_a_run_that_is_deleted_while_it_is_open_is_said_to_be_gone() -> None:
    run_id = make_run("gone", *points(2))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        shutil.rmtree(Path(os.environ["HETSPEC_HOME"]) / "runs" / run_id)
        await until(pilot, lambda: screen.gone, "the end")
        assert "✖ deleted" in screen_text(pilot.app)
        await pilot.press(*"1234567f", "f", "e", "K")
        await pilot.pause()
        await pilot.press("escape")
        assert pilot.app.screen is not screen

    show(run_id, act)


def test_a_run_that_was_never_there_is_said_to_be_gone() -> None:
    async def inside(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await app.push_screen(RunScreen("nothing"))
        await until(pilot, lambda: "is not there any more" in toasts(app))

    drive(inside)


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
        await pilot.press("x")
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


def test_a_failed_run_is_tried_again_as_a_new_run_that_is_shown() -> None:
    run_id = make_run("again", RunEnded(state="failed"))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        screen.desk.change = fake_change  # type: ignore[method-assign]
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen) and pilot.app.screen is not screen)
        assert pilot.app.screen.run_id == other  # type: ignore[attr-defined]

    other = make_run("other")

    async def fake_change(order: object) -> str:
        return other  # no worker is started

    show(run_id, act)


def test_how_one_looked_is_found_again() -> None:
    run_id = make_run("state", *points(5))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("y", "s", "x", "6")
        kept = screen.state()
        assert kept["pane"] == "events" and kept["curves"]["axis"] == "tokens"
        await pilot.press("1", "x", "y")
        screen.restore({**kept, "odd": 1})
        assert screen.pane == "events" and screen.curves.chart.log_scale
        screen.restore({"pane": "nowhere", "curves": {"metrics": [1], "axis": 3, "chart": 7}})
        await pilot.pause()

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


def test_random_keys_break_nothing() -> None:
    run_id = make_run("monkey", *points(40), Result(kind="bench", data=BENCH))
    keys = random.Random(11)
    pressed = [
        *"1234567fyxsM+-0[]jknNwm/!*(itoec",
        *("left", "right", "shift+left", "up", "down", "pageup", "end", "home", "tab", "enter", "escape", "space"),
    ]

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for _ in range(60):
            await pilot.press(keys.choice(pressed))
        while pilot.app.screen is not screen and len(pilot.app.screen_stack) > 1:
            await pilot.press("escape")
        await pilot.pause()

    assert show(run_id, act).return_code in (0, None)


def test_results_of_any_shape_are_drawn() -> None:
    assert "2.50" in str(results_text({"bench": BENCH}))
    assert "a.b" in str(results_text({"x": {"a": {"b": [1, "[bold]"]}}}))
    assert "No result" in str(results_text({}))
    odd = {"bench": {"plain": {}, "trees": [{"tree": None}, 3, {"histogram": {"1": None}, "by_depth": [{}]}]}}
    assert "identical" in str(results_text(odd))
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
