"""The frame around every page: navigation, back, sizes, quitting."""

from __future__ import annotations

import errno
import random
import sqlite3
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_tui import pages
from hetspec_tui.app import HetSpecApp
from hetspec_tui.page import SMALLEST, Page
from hetspec_tui.pages import OpenPage
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.homes import lively_home

PAGES = pages.available()


@pytest.mark.parametrize("entry", PAGES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("size", [(80, 24), tuple(SMALLEST), (200, 60)])
def test_every_page_lies_inside_the_screen(entry: pages.PageEntry, size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press(entry.key)
        await pilot.pause()
        assert app.current_mode == entry.name
        bars = [app.screen.query_one(name) for name in ("TitleBar", "#page", "KeyBar")]
        assert [bar.region.y for bar in bars] == [0, 1, size[1] - 1]
        assert all(app.screen.region.contains_region(bar.region) and bar.region.area for bar in bars)
        assert entry.title in screen_text(app).splitlines()[0]

    drive(act, size)


@pytest.mark.parametrize("columns", [60, 80])
def test_the_line_of_keys_names_whole_keys_that_act_here_and_always_the_way_out(columns: int, home: Path) -> None:
    lively_home(home, time.time())
    end = "? Help  ^p Palette"  # and q, except where one writes: there it is a letter

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        for entry in PAGES:
            await pilot.press(entry.key)
            await until(pilot, lambda entry=entry: app.current_mode == entry.name)
            await pilot.pause()
            line = screen_text(app).splitlines()[-1]
            written, _, after = line.partition(end)
            assert len(line) <= columns and after == ("" if entry.name == "chat" else "  q Quit"), line
            acting = {one.binding.description for one in app.screen.active_bindings.values() if one.enabled}
            named = [part.strip() for part in written.split("  ") if part.strip()]
            assert len(named) >= 2 and all(any(part.endswith(f" {word}") for word in acting) for part in named), line

    drive(act, (columns, 24))


def test_a_full_disk_or_a_locked_registry_is_a_message_and_the_dashboard_goes_on() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        page = app.screen
        assert isinstance(page, Page)
        for error in (OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database is locked")):

            def fails(workbench: object, error: Exception = error) -> None:
                raise error

            assert await page.ask(fails) is None
            said = "No space left on device" if isinstance(error, OSError) else "database is locked"
            await until(pilot, lambda said=said: said in toasts(app) + screen_text(app), said)
        assert await page.ask(lambda workbench: 1) == 1

    drive(act)


def test_escape_leads_back_to_the_first_page_from_anywhere() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for entry in PAGES:
            await pilot.press(entry.key)
        for _ in range(len(PAGES) + 3):
            await pilot.press("escape")
            await pilot.pause()
        assert app.current_mode == pages.HOME
        assert len(app.screen_stack) == 1

    drive(act)


def test_a_page_that_is_not_installed_is_said_and_not_opened() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.screen.post_message(OpenPage("nowhere"))
        await pilot.pause()
        assert app.current_mode == pages.HOME
        assert "no page 'nowhere'" in toasts(app)

    drive(act)


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
def test_quit_keys_end_the_app_with_status_zero(key: str) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press(key)

    assert drive(act).return_code == 0


def test_a_small_terminal_is_told_the_size_that_is_needed_until_it_grows() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        assert "terminal too small: need 60x16, is 59x16" in screen_text(app)
        assert not app.screen.query_one("#page").display
        await pilot.resize_terminal(60, 16)
        await pilot.pause()
        assert app.screen.query_one("#page").display
        assert "too small" not in screen_text(app)

    drive(act, (59, 16))


def test_a_storm_of_sizes_leaves_a_working_screen() -> None:
    sizes = random.Random(7)

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for _ in range(50):
            await pilot.resize_terminal(sizes.randint(1, 250), sizes.randint(1, 80))
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "HetSpec" in screen_text(app)

    drive(act)


def test_an_answer_that_comes_while_the_dashboard_ends_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await until(pilot, lambda: app.current_mode == "presets")
        page = app.screen
        assert isinstance(page, Page)
        assert await page.ask(lambda _: 7) == 7

        def while_it_ends(_: object) -> int:
            app._running = False
            return 7

        assert await page.ask(while_it_ends) is None
        app._running = True

    drive(act)
