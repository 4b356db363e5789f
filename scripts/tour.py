"""Walk through the dashboard over the runs that are there, and write a picture of every page into docs/screenshots.

    HETSPEC_HOME=... python scripts/tour.py [FOLDER]

It needs a trained draft (`hetspec-core demo` makes one) and, for PNG beside SVG, rsvg-convert and the DejaVu fonts.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk
from hetspec_tui.messages import OpenPage, OpenRun
from hetspec_tui.screens.chat import ChatScreen

SIZE = (130, 40)
QUESTION = "Name three colours of the rainbow and say what each makes you think of."
PATIENCE_S = 240.0


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("the dashboard did not come so far")
        await pilot.pause(0.05)


async def tour(folder: Path) -> None:
    app = HetSpecApp(Desk())
    async with app.run_test(size=SIZE) as pilot:

        async def picture(name: str, settle_s: float = 1.5) -> None:
            await pilot.pause(settle_s)
            save(folder, name, app.export_screenshot(title="hetspec"))

        await picture("dashboard", 4.0)
        await pilot.press("2")
        await picture("runs", 3.0)
        await pilot.press("3")
        await picture("presets", 3.0)
        await pilot.press("4")
        await picture("launch", 4.0)
        desk = Desk()
        trained = await desk.ask(lambda workbench: workbench.runs(stage="train", state="succeeded", limit=1))
        app.screen.post_message(OpenRun(trained[0].run_id))
        await picture("run", 4.0)
        await pilot.press("2")
        await picture("run-log", 2.0)
        await pilot.press("escape", "escape")
        app.screen.post_message(OpenPage("chat", {"draft": trained[0].run_id}))
        await until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.session is not None)
        chat = app.screen
        assert isinstance(chat, ChatScreen) and chat.session is not None
        await until(pilot, lambda: chat.session is not None and chat.session.state == "ready")
        chat.session.change(max_new_tokens=48)
        chat.query_one("#question", Input).value = QUESTION
        await pilot.press("enter")
        await until(pilot, lambda: len(chat.player.steps) >= 6)
        await picture("chat-live", 0.2)
        await until(pilot, lambda: chat.session is not None and not chat.session.busy)
        await pilot.press("escape", "left", "left", "left")
        await picture("chat")
        await pilot.press("v")
        await picture("chat-table")
        await pilot.press("v", "v")
        chat.comparing = True
        plain = chat.session.settings.model_copy(update={"draft": "", "draft_name": ""})
        chat.session.compare(QUESTION, plain, chat.session.settings)
        await until(pilot, lambda: chat.session is not None and chat.session.comparison is not None)
        await until(pilot, lambda: chat.session.comparison.done)  # type: ignore[union-attr]
        await picture("chat-ab")
        await pilot.press("escape", "p")
        await picture("simulator", 3.0)
        desk.close()


def save(folder: Path, name: str, svg: str) -> None:
    """Write NAME.svg, and NAME.png where it can be made."""
    svg = svg.replace("<text ", '<text xml:space="preserve" ')  # or blanks at the beginning are lost
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    if shutil.which("rsvg-convert"):
        drawn = svg.replace("Fira Code", "DejaVu Sans Mono")
        command = ["rsvg-convert", "--width", "1400", "--output", str(folder / f"{name}.png")]
        subprocess.run(command, input=drawn.encode(), check=True)
    print(name, flush=True)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots")
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(tour(target))
