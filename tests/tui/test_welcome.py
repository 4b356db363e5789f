"""The welcome screen: what it shows at every size, and what its keys do."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from hetspec_tui.app import HetSpecApp
from hetspec_tui.guide import COMMANDS, Command
from hetspec_tui.screens.welcome import SMALLEST, WelcomeScreen


def drive(act: Callable[[HetSpecApp, Pilot[None]], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> HetSpecApp:
    """Run the app headless at `size`, let `act` press its keys, and hand the ended app back."""

    async def session() -> HetSpecApp:
        app = HetSpecApp()
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(app, pilot)
        return app

    return asyncio.run(session())


def shown(app: HetSpecApp, selector: str) -> str:
    return str(app.screen.query_one(selector, Static).render())


@pytest.mark.parametrize("size", [(80, 24), tuple(SMALLEST), (200, 60)])
def test_everything_lies_inside_the_screen_and_nothing_overlaps(size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        assert isinstance(app.screen, WelcomeScreen)
        assert not app.screen.has_class("-too-small")
        regions = [
            widget.region
            for selector in ("#about", "#names", "#detail", "#to-come", "Footer")
            if (widget := app.screen.query_one(selector)).display
        ]
        assert len(regions) >= 4
        for index, region in enumerate(regions):
            assert region.area > 0
            assert app.screen.region.contains_region(region)
            assert not any(region.overlaps(other) for other in regions[index + 1 :])

    drive(act, size)


def test_arrow_keys_show_each_command_with_its_example() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for command in COMMANDS:
            assert app.screen.query_one(OptionList).highlighted == COMMANDS.index(command)
            assert shown(app, "#summary") == command.summary
            assert shown(app, "#example") == f"$ {command.example}"
            await pilot.press("down")

    drive(act)


@pytest.mark.parametrize("key", ["c", "enter"])
def test_the_shown_command_can_be_copied(key: str) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "down", key)
        assert app.clipboard == COMMANDS[2].example

    drive(act)


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
def test_quit_keys_end_the_app_with_status_zero(key: str) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press(key)

    assert drive(act).return_code == 0


def test_a_small_terminal_is_told_the_size_that_is_needed_until_it_grows() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        assert shown(app, "#too-small") == "terminal too small: need 60x16, is 59x16"
        assert not app.screen.query_one("#page").display
        await pilot.resize_terminal(60, 16)
        await pilot.pause()
        assert app.screen.query_one("#page").display
        assert not app.screen.query_one("#too-small").display

    drive(act, (59, 16))


def test_a_storm_of_sizes_leaves_a_working_screen() -> None:
    sizes = random.Random(7)

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for _ in range(50):
            await pilot.resize_terminal(sizes.randint(1, 250), sizes.randint(1, 80))
        await pilot.resize_terminal(80, 24)
        await pilot.press("down")
        await pilot.pause()
        assert shown(app, "#summary") == COMMANDS[1].summary

    drive(act)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_that_is_named_answers_for_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.example.startswith(f"hetspec-core {command.name}")
    assert importlib.import_module("hetspec_core.cli.main").main([*command.name.split(), "--help"]) == 0
    assert f"hetspec-core {command.name}" in capsys.readouterr().out
