"""The dashboard in a home with a run that cannot be read: it is a row, a card and a page, and ends nothing."""

from __future__ import annotations

import os
from pathlib import Path

from textual.pilot import Pilot

from hetspec_core.errors import HetSpecError
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.pages import OpenRun
from hetspec_tui.screens.runs import RunsScreen
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, until
from tests.tui.registries import keys_of


def test_a_run_that_cannot_be_read_is_shown_and_ends_nothing(home: Path) -> None:
    with Workbench(home) as workbench:
        good = workbench.submit(small_spec("good")).run_id
        paths = workbench.submit(small_spec("bad")).paths
    os.mkfifo(paths.events)
    seen: list[str] = []

    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None and bool(app.overview.concerns), "the overview")
        assert app.overview is not None
        seen.extend(f"{one.kind}: {one.text}" for one in app.overview.concerns)
        await pilot.press("2")
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: screen.table.loaded and not screen.table.missing(), "the list")
        assert set(keys_of(screen)) == {good, paths.run_id}
        app.post_message(OpenRun(paths.run_id))
        await until(pilot, lambda: getattr(app.screen, "run", None) is not None, "the page of the run")
        assert app.screen.run.state == "unreadable"  # type: ignore[attr-defined]
        await pilot.press("escape")
        assert app.is_running

    drive(scene, (120, 30))
    assert "unreadable: events.jsonl is a named pipe" in seen


def test_an_unforeseen_error_of_a_question_is_told_and_ends_nothing(home: Path) -> None:
    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        def question(workbench: Workbench) -> None:
            raise OverflowError("int too large")

        try:
            await app.desk.ask(question)
        except HetSpecError as error:
            assert "OverflowError: int too large" in error.message
        else:
            raise AssertionError("the error was not told")
        assert app.is_running

    drive(scene, (120, 30))
