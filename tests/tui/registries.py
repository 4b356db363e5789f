"""The history of runs open in a dashboard, and what its tests ask of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.service.report import RunSummary
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choose, ChooseMany
from hetspec_tui.screens.runs import RunsScreen
from tests.tui.driving import drive, until

Scene = Callable[[HetSpecApp, RunsScreen, Pilot[None]], Awaitable[None]]


def open_runs(act: Scene, size: tuple[int, int] = (120, 30), *, read_only: bool = False) -> None:
    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        assert isinstance(app.screen, RunsScreen)
        screen = app.screen
        await until(pilot, lambda: screen.table.loaded and not screen.table.missing(), "the list")
        await act(app, screen, pilot)

    drive(scene, size, read_only=read_only)


def keys_of(screen: RunsScreen) -> list[str]:
    return list(screen.table.keys)


def stored(home: Path, run_id: str) -> RunSummary:
    with Workbench(home) as workbench:
        return workbench.summary(run_id)


async def type_filter(screen: RunsScreen, pilot: Pilot[None], text: str) -> None:
    await pilot.press("slash")
    screen.line.value = text
    await pilot.pause()


async def narrow(app: HetSpecApp, pilot: Pilot[None], text: str) -> None:
    """Type into the filter of a list to choose from, and wait until it is narrowed."""
    picker = app.screen
    assert isinstance(picker, Choose | ChooseMany)
    picker.query_one(Input).value = text
    await until(pilot, lambda: text in (picker.highlighted or ""))
