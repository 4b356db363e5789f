"""Running the dashboard headless: start it at a size, press keys, look at the screen as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk

PATIENCE_S = 60.0  # nobody waits so long on a machine that does nothing else
Act = Callable[[HetSpecApp, Pilot[None]], Awaitable[None]]


def drive(act: Act, size: tuple[int, int] = (80, 24), *, read_only: bool = False) -> HetSpecApp:
    """Run the app headless at `size`, let `act` press its keys, and hand the ended app back."""

    async def session() -> HetSpecApp:
        app = HetSpecApp(Desk(read_only=read_only))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(app, pilot)
        return app

    return asyncio.run(session())


async def until(
    pilot: Pilot[None], condition: Callable[[], bool], what: str = "", patience_s: float = PATIENCE_S
) -> None:
    """Wait until the condition holds, and the screen on top is put together and laid out: it is on top before that."""
    end = time.monotonic() + patience_s
    while not (condition() and is_drawn(pilot.app)):
        assert time.monotonic() < end, f"waited in vain for {what or condition}:\n{screen_text(pilot.app)}"
        await pilot.pause(0.02)


def is_drawn(app: App[Any]) -> bool:
    """Whether the screen on top has all its parts, in their places."""
    screen = app.screen
    return screen.is_mounted and screen._compositor.size.area > 0


def screen_text(app: object) -> str:
    """What the screen shows, line by line."""
    assert isinstance(app, HetSpecApp)
    rows = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in row).rstrip() for row in rows)


def toasts(app: HetSpecApp) -> str:
    """What the notices say that are shown now, one a line."""
    return "\n".join(f"{notice.title} {notice.message}" for notice in app._notifications)
