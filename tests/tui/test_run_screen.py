"""The screen of a run: how it follows a run, and what each of its actions does."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.events import (
    ErrorInfo,
    Metric,
    Progress,
    Result,
    RunEnded,
)
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Confirm, Details
from hetspec_tui.screens.run import RunScreen
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.run_pages import BENCH, append, make_run, points, show


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


def test_stopping_asks_with_what_would_be_lost_and_enter_alone_stops_nothing() -> None:
    run_id = make_run("precious", *points(8))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        text = screen_text(pilot.app)
        assert "Stop precious?" in text and "step 7" in text and "running for" in text
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert screen.run is not None and screen.run.state == "running"
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "works on elsewhere" in toasts(screen.app), "the word of the service")  # type: ignore[arg-type]

    show(run_id, act)


def start_fake(deed: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real run of the fake worker."""
    monkeypatch.setattr("hetspec_core.jobs.local.WORKER_MODULE", "tests.fakes.worker")
    from hetspec_core.jobs.local import LocalExecutor

    environment = {"HETSPEC_HOME": os.environ["HETSPEC_HOME"], "PYTHONPATH": os.pathsep.join(sys.path)}
    with Workbench(executor=LocalExecutor(module="tests.fakes.worker", environment=environment)) as workbench:
        run_id = workbench.submit(small_spec(deed)).run_id
        workbench.start(run_id)
        return run_id


@pytest.mark.parametrize("key", ["x", "ctrl+k"])
def test_a_real_run_is_stopped_from_its_screen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = start_fake("wait", monkeypatch)

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen.run is not None and screen.run.state == "running", "running")
        await pilot.press(key)
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: screen.run is not None and screen.run.state == "cancelled", "cancelled")
        assert screen.check_action("run_command", ("cancel",)) is False
        assert screen.check_action("run_command", ("resume",)) is True
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
        await answer("t", "-[x]")
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
            assert screen.check_action("run_command", (action,)) is None
        await pilot.press("x", "ctrl+k", "*")
        assert pilot.app.screen is screen
        with Workbench() as workbench:
            assert not workbench.summary(run_id).starred

    show(run_id, act, read_only=True)


def test_a_run_that_is_deleted_while_it_is_open_is_said_to_be_gone() -> None:
    run_id = make_run("gone", *points(2))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        shutil.rmtree(Path(os.environ["HETSPEC_HOME"]) / "runs" / run_id)
        await until(pilot, lambda: screen.deleted, "the end")
        assert "✖ deleted" in screen_text(pilot.app)
        await pilot.press(*"1234567f", "f", "e", "x")
        await pilot.pause()
        await pilot.press("escape")
        assert pilot.app.screen is not screen

    show(run_id, act)


def test_a_run_that_was_never_there_is_said_to_be_gone() -> None:
    async def inside(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await app.push_screen(RunScreen("nothing"))
        await until(pilot, lambda: "was deleted or moved" in toasts(app))

    drive(inside)


def test_a_failed_run_is_begun_anew_after_a_question_and_the_new_run_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = make_run("again", RunEnded(state="failed"))
    monkeypatch.setattr(Workbench, "start", lambda self, new_id: None)

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert "Begin again anew?" in screen_text(pilot.app)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunScreen) and pilot.app.screen is not screen)
        assert pilot.app.screen.run_id != run_id  # type: ignore[attr-defined]

    show(run_id, act)


def test_how_one_looked_is_found_again() -> None:
    run_id = make_run("state", *points(5))

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        await pilot.press("y", "s", "X", "6")
        kept = screen.state()
        assert kept["pane"] == "events" and kept["curves"]["axis"] == "tokens"
        await pilot.press("1", "X", "y")
        screen.restore({**kept, "odd": 1})
        assert screen.pane == "events" and screen.curves.chart.log_scale
        screen.restore({"pane": "nowhere", "curves": {"metrics": [1], "axis": 3, "chart": 7}})
        await pilot.pause()

    show(run_id, act)


def test_random_keys_break_nothing() -> None:
    run_id = make_run("monkey", *points(40), Result(kind="bench", data=BENCH))
    keys = random.Random(11)
    pressed = [
        *"1234567fyXsM+-0[]jknNwm/!*(itoec",
        *("left", "right", "shift+left", "up", "down", "pageup", "end", "home", "tab", "enter", "escape", "space"),
    ]

    async def act(screen: RunScreen, pilot: Pilot[None]) -> None:
        for _ in range(60):
            await pilot.press(keys.choice(pressed))
        while pilot.app.screen is not screen and len(pilot.app.screen_stack) > 1:
            await pilot.press("escape")
        await pilot.pause()

    assert show(run_id, act).return_code in (0, None)
