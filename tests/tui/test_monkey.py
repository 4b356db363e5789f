"""Somebody who presses anything anywhere: no page may end in an exception, whatever is pressed at whatever size."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_tui import pages
from hetspec_tui.app import HetSpecApp
from tests.tui.driving import drive
from tests.tui.homes import lively_home

KEYS = (
    *("up", "down", "left", "right", "enter", "escape", "tab", "shift+tab", "space", "home", "end", "pageup"),
    *("pagedown", "backspace", "delete", "question_mark", "slash", "equals_sign", "plus", "minus", "ctrl+o", "ctrl+p"),
    *("ctrl+t", "ctrl+a", "f1", "0", "1", "2", "3", "4", "5"),
    *"abcdefghijklmnoprstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
)
"""Not q and ctrl+q, which end it, nor ctrl+z, which stops the tests."""
NEVER = {"e"}  # opens the user's editor
FEW = 25
MANY = int(os.environ.get("HETSPEC_MONKEY_KEYS", "80"))
"""Keys in the slow test; 1000 before a release."""


@pytest.mark.parametrize("entry", pages.available(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("presses", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_random_keys_and_sizes_end_in_no_exception(entry: pages.PageEntry, presses: int, home: Path) -> None:
    lively_home(home, time.time())
    chance = random.Random(f"{entry.name} {presses}")
    pressed: list[str] = []

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press(entry.key)
        for _ in range(presses):
            if chance.random() < 0.05:
                size = chance.randint(1, 220), chance.randint(1, 60)
                pressed.append(f"{size}")
                await pilot.resize_terminal(*size)
            key = chance.choice([key for key in KEYS if key not in NEVER])
            pressed.append(key)
            await pilot.press(key)
            if not app.is_running:  # q was typed where it is a letter of a menu
                break

    try:
        drive(act, (100, 30), read_only=True)
    except Exception as error:
        error.add_note(f"after {' '.join(pressed[-60:])}")
        raise
