"""Finding things from any page: help, palette, jump letters, themes, pictures."""

from __future__ import annotations

import time
from pathlib import Path

from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_tui.app import HetSpecApp
from hetspec_tui.screens.overlays import HelpScreen, JumpScreen, ThemeScreen
from hetspec_tui.widgets.cards import CardList
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.homes import lively_home


def test_help_lists_the_keys_of_this_place_narrows_and_runs_the_chosen_one(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.pause()
        assert "dashboard.cancel" in screen_text(app)
        await pilot.press(*"jump")
        await pilot.pause()
        assert "app.jump" in screen_text(app) and "dashboard.cancel" not in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, JumpScreen))

    drive(act, (120, 50))


def test_help_says_when_no_key_does_that() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press(*"zzz")
        await pilot.pause()
        assert "No key does that" in screen_text(app)
        await pilot.press("escape")
        await pilot.pause()
        assert len(app.screen_stack) == 1

    drive(act)


def test_a_letter_of_jump_mode_moves_the_focus(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        await pilot.pause()
        await pilot.press("ctrl+o")
        await until(pilot, lambda: isinstance(app.screen, JumpScreen))
        targets = app.screen._targets  # type: ignore[attr-defined]
        letter = next(key for key, target in targets.items() if target.id == "recent")
        await pilot.press(letter)
        await until(pilot, lambda: isinstance(app.focused, CardList) and app.focused.id == "recent")

    drive(act)


def test_the_palette_finds_a_run_by_its_name_and_says_its_state(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        app.screen.query_one(Input).value = "too-large"
        await until(pilot, lambda: "✖ failed train run" in screen_text(app), "the run")

    drive(act)


def test_the_palette_offers_other_pages_and_what_fits_here(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Go to Runs" in screen_text(app))
        assert "Go to Dashboard" not in screen_text(app)
        assert "Stop" in screen_text(app) and "Resume" not in screen_text(app)

    drive(act, (100, 50))


def test_the_palette_leaves_out_moves_inside_a_list(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        app.screen.query(CardList).first().focus()
        await pilot.pause()
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Go to Runs" in screen_text(app))
        lines = {line.strip() for line in screen_text(app).splitlines()}
        assert lines.isdisjoint({"Up", "Down", "First", "Last", "Page up", "Page down"})

    drive(act, (100, 50))


def test_themes_are_shown_while_choosing_kept_by_enter_and_left_by_escape() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        before = app.theme
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, ThemeScreen))
        await pilot.pause()
        await pilot.press("down")
        await until(pilot, lambda: app.theme != before)
        await pilot.press("escape")
        await until(pilot, lambda: app.theme == before)
        await pilot.press("ctrl+t")
        await until(pilot, lambda: isinstance(app.screen, ThemeScreen))
        await pilot.pause()
        await pilot.press("down")
        await until(pilot, lambda: app.theme != before)
        await pilot.press("enter")
        await pilot.pause()
        assert app.theme != before
        assert app.theme in app.files.state.read_text()

    drive(act)


def test_a_picture_of_the_screen_is_written_and_its_path_said() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "Screenshot" in toasts(app))
        (svg,) = app.files.screenshots.glob("*.svg")
        assert svg.read_text().startswith("<svg")
        assert str(svg) in toasts(app)

    drive(act)
