"""A tour of the dashboard: drives the real app through every page and writes a picture of each.

    [HETSPEC_HOME=DIR] python scripts/tour.py [--home DIR] [--draft RUN_OR_DIR] [--out docs/screenshots] [--only chat]
        [--size 120x40]

What is missing is made first: `hetspec-core demo`, shortened, and a second, shorter training to compare with. Nothing
is painted by hand; a stop of the tour is a function below. SVG always, PNG where `rsvg-convert` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from hetspec_tui.app import HetSpecApp
    from hetspec_tui.screens.chat import ChatScreen

CLI = [sys.executable, "-P", "-m", "hetspec_core.cli.main"]
SHORT = ("dataset.limit=48", "training.max_minutes=1.5", "training.eval_every=20", "training.log_every=2")
SHORT += ("training.eval_samples=8", "bench.limit=3")
QUESTION = "What is a lighthouse for?"
SECOND = "Write a short Python function that adds two numbers, and say what it does."
TREE = "4/4/12"
PATIENCE_S = 300.0
MOST_BYTES = 300_000
ZOOMS = (0.85, 0.75, 0.65, 0.55)  # of the pictures: the largest that is small enough in bytes
Stop = Callable[["Tour"], Awaitable[None]]
STOPS: dict[str, Stop] = {}


def stop(name: str) -> Callable[[Stop], Stop]:
    """Register a stop of the tour; its function makes the pictures."""

    def register(function: Stop) -> Stop:
        STOPS[name] = function
        return function

    return register


class Tour:
    """The app that is toured."""

    def __init__(self, app: HetSpecApp, pilot: Pilot[None], out: Path, draft: str) -> None:
        self.app, self.pilot, self.out, self.draft = app, pilot, out, draft

    async def press(self, *keys: str) -> None:
        """Press keys, and let what they do be drawn."""
        await self.pilot.press(*keys)
        await self.pilot.pause(0.2)

    async def go(self, page: str) -> None:
        """Open a page, close what is above it."""
        await self.app.go_to(page)
        await self.pilot.pause(0.8)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"the tour waited in vain for {what}")
            await self.pilot.pause(0.05)

    async def picture(self, name: str) -> None:
        """Write the screen as it is now."""
        from hetspec_tui.pictures import save_picture

        self.app.clear_notifications()
        await self.pilot.pause(0.6)
        svg = self.app.export_screenshot()
        for zoom in ZOOMS:
            files = save_picture(self.out, name, svg, zoom=zoom)
            sizes = {path.name: path.stat().st_size for path in files}
            if max(sizes.values()) <= MOST_BYTES or zoom == ZOOMS[-1]:
                print("  ".join(f"{file} {size // 1000} kB" for file, size in sizes.items()), flush=True)
                return

    def runs(self) -> dict[str, str]:
        """The newest succeeded run of each stage."""
        from hetspec_core.service.workbench import Workbench

        with Workbench() as workbench:
            return {
                stage: found[0].run_id
                for stage in ("dataset", "train", "bench")
                if (found := list(workbench.runs(stage=stage, state="succeeded")))
            }

    async def choose(self, key: str) -> None:
        """Take a line of the list that is open."""
        from hetspec_tui.dialogs import Choose, ChooseMany

        def there() -> bool:
            screen = self.app.screen
            return isinstance(screen, Choose | ChooseMany) and any(one.key == key for one in screen.choices)

        await self.until(there, f"the choice {key}")
        screen = self.app.screen
        assert isinstance(screen, Choose | ChooseMany)
        screen.fill(key)
        screen.action_take()
        await self.pilot.pause(0.3)

    async def chat(self) -> ChatScreen:
        """The page of the chat, with the draft of the tour."""
        from hetspec_tui.screens.chat import ChatScreen

        await self.app.go_to("chat")
        draft = self.draft or _longest_training()
        screen = self.app.screen
        assert isinstance(screen, ChatScreen)
        await self.until(lambda: screen.session is not None, "the chat")
        if screen.conversation.setup.draft != draft:
            screen.receive({"draft": draft})
            await self.until(lambda: screen.conversation.setup.draft == draft, "the draft")
        return screen

    async def ask(self, screen: ChatScreen, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        screen.composer.put(text)
        screen.composer.action_send()
        await self.until(lambda: _ended(screen, text), f"the answer to {text!r}")
        await self.pilot.pause(0.5)


def _ended(screen: ChatScreen, text: str) -> bool:
    session = screen.session
    answer = session.answer if session is not None else None
    return answer is not None and answer.messages[-1].content == text and answer.ended


@stop("dashboard")
async def dashboard(tour: Tour) -> None:
    words = ["--dataset", tour.runs()["dataset"], "--max-steps", "200", "--set", "training.log_every=1"]
    train = [*CLI, "train", "quick-demo", *words, "--name", "at-work", "--detach", "--json"]
    said = await asyncio.to_thread(subprocess.run, train, check=True, stdout=subprocess.PIPE)
    run_id = json.loads(said.stdout)["run_id"]
    await tour.go("dashboard")
    try:
        await tour.until(lambda: _steps_of_live(tour.app, run_id) >= 6, "a run at work")
        await tour.picture("dashboard")
    finally:
        for order in (["kill", run_id], ["delete", run_id, "--yes"]):
            words = [*CLI, "runs", *order]
            await asyncio.to_thread(subprocess.run, words, check=False, stdout=subprocess.DEVNULL)


def _steps_of_live(app: HetSpecApp, run_id: str) -> int:
    """How many points of its curve the run at work has."""
    active = app.overview.active if app.overview is not None else ()
    return max((len(one.curve) for one in active if one.summary.run_id == run_id), default=0)


@stop("presets")
async def presets(tour: Tour) -> None:
    await tour.go("presets")
    await tour.press("down", "down")
    await tour.pilot.pause(1.5)
    await tour.picture("presets")


@stop("launch")
async def launch(tour: Tour) -> None:
    await tour.go("launch")
    await tour.pilot.pause(2.0)
    await tour.picture("launch")


@stop("run")
async def run(tour: Tour) -> None:
    from hetspec_tui.pages import OpenRun

    await tour.go("dashboard")
    tour.app.post_message(OpenRun(_longest_training()))
    await tour.pilot.pause(2.0)
    await tour.picture("run-curves")
    await tour.press("3")
    await tour.pilot.pause(1.0)
    await tour.picture("run-config")
    await tour.press("escape")
    tour.app.post_message(OpenRun(_longest_log(tour)))
    await tour.pilot.pause(1.5)
    await tour.press("2")
    await tour.pilot.pause(1.0)
    await tour.picture("run-log")
    await tour.press("escape")


def _longest_training() -> str:
    """The run that trained for the longest time."""
    from hetspec_core.service.workbench import Workbench

    with Workbench() as workbench:
        trained = workbench.runs(stage="train", state="succeeded")
    return max(trained, key=lambda one: (one.ended or 0) - (one.started or 0)).run_id


def _longest_log(tour: Tour) -> str:
    """The run whose worker wrote most; many write nothing."""
    from hetspec_core.service.workbench import Workbench

    with Workbench() as workbench:
        files = list(workbench.roots.runs.glob("*/logs/worker-0.log"))
    return max(files, key=lambda path: path.stat().st_size).parent.parent.name if files else tour.runs()["train"]


@stop("registry")
async def registry(tour: Tour) -> None:
    await tour.go("runs")
    await tour.pilot.pause(1.0)
    await tour.picture("runs")


@stop("comparison")
async def comparison(tour: Tour) -> None:
    from hetspec_core.service.workbench import Workbench
    from hetspec_tui.pages import OpenComparison

    with Workbench() as workbench:
        trained = [one.run_id for one in workbench.runs(stage="train", state="succeeded")]
    await tour.go("runs")
    tour.app.post_message(OpenComparison(tuple(trained[:2])))
    await tour.pilot.pause(2.0)
    await tour.picture("comparison")
    await tour.press("escape")


@stop("chat")
async def chat(tour: Tour) -> None:
    screen = await tour.chat()
    session = screen.session
    assert session is not None
    session.change(max_new_tokens=72, tree=TREE)
    await tour.picture("chat-empty")
    screen.composer.put(QUESTION)
    screen.composer.action_send()
    await tour.until(lambda: screen.playback.count >= 12 or _ended(screen, QUESTION), "some verify steps")
    await tour.picture("chat-live")
    await tour.until(lambda: _ended(screen, QUESTION), "the answer")
    await tour.press("escape", "b")
    await tour.until(lambda: session.meters.calibration is not None and not session.busy, "the calibration")
    longest = max(range(screen.playback.count), key=lambda at: (session.answer.steps[at].accepted, -at))  # type: ignore[union-attr]
    screen.tree_pane.action_go(longest)
    await tour.picture("chat-step")
    await tour.press("v")
    await tour.picture("chat-table")
    await tour.press("v", "v")
    screen.tree_pane.action_pause()
    await tour.ask(screen, SECOND)
    await tour.picture("chat-markdown")


@stop("duel")
async def duel(tour: Tour) -> None:
    from textual.widgets import Input

    from hetspec_tui.dialogs import Prompt
    from hetspec_tui.screens.chat.ab_test import ABTestScreen

    screen = await tour.chat()
    assert screen.session is not None
    session = screen.session
    session.change(max_new_tokens=72, tree=TREE)
    screen.query_one("#tree").focus()
    screen.action_choose("compare")
    await tour.choose("plain")
    await tour.choose("present")
    await tour.until(lambda: isinstance(tour.app.screen, Prompt), "the question")
    tour.app.screen.query_one(Input).value = QUESTION
    await tour.press("enter")
    await tour.until(lambda: isinstance(tour.app.screen, ABTestScreen), "A/B")
    await tour.until(lambda: session.comparison is not None and session.comparison.done, "the verdict")
    await tour.picture("chat-ab")
    await tour.press("escape")


@stop("simulator")
async def simulator(tour: Tour) -> None:
    from hetspec_tui.screens.chat.simulator import SimulatorScreen

    screen = await tour.chat()
    screen.query_one("#tree").focus()
    screen.action_choose("simulate")
    await tour.pilot.pause(1.0)
    if not isinstance(tour.app.screen, SimulatorScreen):
        await tour.choose("shipped:smollm2")
    await tour.until(lambda: isinstance(tour.app.screen, SimulatorScreen), "the simulator")
    await tour.pilot.pause(3.0)
    await tour.picture("chat-simulator")
    await tour.press("escape")


async def drive(out: Path, size: tuple[int, int], only: list[str], draft: str) -> None:
    """Make the pictures."""
    from hetspec_tui.app import HetSpecApp

    app = HetSpecApp()
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        app.theme = "textual-dark"
        await pilot.pause(1.0)
        tour = Tour(app, pilot, out, draft)
        for name in only or STOPS:
            await STOPS[name](tour)


def furnish(home: Path) -> None:
    """Make the runs that are missing."""
    if not any((home / "runs").glob("*-bench-*")):
        settings = [word for key in SHORT for word in ("--set", key)]
        subprocess.run([*CLI, "demo", *settings], check=True)
    if len(list((home / "runs").glob("*-train-*/draft"))) > 1:
        return
    newest = max((home / "runs").glob("*-dataset-*")).name
    fewer = ["--dataset", newest, "--max-steps", "12", "--set", "training.log_every=1", "--name", "fewer-steps"]
    subprocess.run([*CLI, "train", "quick-demo", *fewer], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tour", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--home", type=Path, help="home with runs; HETSPEC_HOME, or a new one")
    parser.add_argument("--out", type=Path, default=Path("docs/screenshots"), help="folder of the pictures")
    parser.add_argument("--draft", default="", help="draft of the chat; of the longest training when absent")
    parser.add_argument("--only", action="append", default=[], choices=sorted(STOPS), help="one stop; may be repeated")
    parser.add_argument("--size", default="120x40", help="columns and lines")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    given = os.environ.get("HETSPEC_HOME")
    home = options.home or Path(given or tempfile.mkdtemp(prefix="hetspec-tour-"))
    os.environ["HETSPEC_HOME"] = str(home.absolute())
    options.out.mkdir(parents=True, exist_ok=True)
    furnish(home)
    asyncio.run(drive(options.out, (width, height), options.only, options.draft))
    return 0


if __name__ == "__main__":
    sys.exit(main())
