"""Pictures of whole screens (SVG), at fixed sizes, homes and a frozen clock, compared with those in `pictures/`.

    HETSPEC_UPDATE_PICTURES=1 make test ARGS=tests/tui/test_pictures.py

writes anew those that differ. Look at them, in a browser or as PNG by `rsvg-convert`, before they are committed. A
picture that differs says the lines in which it does; where no line does, colours do.
"""

from __future__ import annotations

import difflib
import html
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.events import Log
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.gpus import GpuReport
from hetspec_core.service.planning.facts import BaseFiles, Facts
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.pages import OpenComparison, OpenRun
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.run import RunScreen
from tests.tui.chats import chat
from tests.tui.driving import drive, screen_text, until
from tests.tui.homes import HERE, NOW, explained_run, lively_home, write_run

FOLDER = Path(__file__).parent / "pictures"
UPDATE = "HETSPEC_UPDATE_PICTURES"
TRAIN, FAILED = "20270115-071500-train-aaaa", "20270115-060000-train-ffff"
EXPLAINED = "20270115-074500-dataset-kkkk"
SMALL, USUAL, LARGE = (80, 24), (120, 40), (200, 60)
LOG = """\
WARNING transformers: the attention mask is not set
epoch 1:  10%|#         | 100/1000\repoch 1:  20%|##        | 200/1000
\x1b[32msaved\x1b[0m checkpoint of step 200, [red]which is no markup[/red]
語 and é and a very long line """


class Usage:
    """A disk."""

    free = 123_000_000_000


def write(home: Path) -> None:
    """Runs in every state, one with a log, one with the origins of its settings."""
    lively_home(home, NOW)
    explained_run(home, EXPLAINED)
    paths = write_run(home, "20270115-020000-train-jjjj", "with-a-warning", [Log(time=NOW - 9e4, message="slow disk")])
    for folder in (paths, type(paths)(home / "runs" / TRAIN)):
        folder.log("worker-0").write_text(LOG + "x" * 300 + "\n" + "\n".join(f"line {n}" for n in range(30)) + "\n")
    for spec in (home / "runs").glob("*/spec.toml"):  # a run without a journal is as old as its spec
        os.utime(spec, (NOW - 200, NOW - 200))


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One clock, one machine, one terminal, wherever the test runs."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    for name in ("NO_COLOR", "TEXTUAL_COLOR_SYSTEM", "TEXTUAL_ANIMATIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("socket.gethostname", lambda: HERE)
    monkeypatch.setattr(ProcessIdentity, "of", classmethod(lambda cls: cls(4242, "here", HERE)))
    monkeypatch.setattr(ProcessIdentity, "is_alive", lambda self: self.pid == 4242)
    monkeypatch.setattr(Workbench, "gpus", lambda self: GpuReport((), "no NVIDIA driver"))
    monkeypatch.setattr("hetspec_core.service.overview.shutil.disk_usage", lambda path: Usage())
    monkeypatch.setattr("hetspec_core.service.launch.gather_facts", lambda spec, roots: facts())
    monkeypatch.setattr("hetspec_core.service.presets.gather_facts", lambda spec, roots: facts())
    monkeypatch.setattr("hetspec_tui.desk.FASTEST_S", 0.05)
    yield
    monkeypatch.undo()
    time.tzset()


def facts() -> Facts:
    """A laptop."""
    base = BaseFiles("ready", "/home/someone/base")
    return Facts(8, 16 * 2**30, 12 * 2**30, "/home/someone/hetspec", 123_000_000_000, None, base)


def normal(svg: str) -> str:
    """The picture without what differs from one drawing to the next, and without fonts to be fetched."""
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s*<clipPath id="[^"]*line-\d+">.*?</clipPath>', "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="[^"]*line-\d+\)"', "", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE).rstrip() + "\n"


def words(svg: str) -> list[str]:
    """The lines of text in a picture."""
    rows: dict[float, dict[float, str]] = {}
    for x, y, text in re.findall(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        rows.setdefault(float(y), {})[float(x)] = html.unescape(text).replace("\xa0", " ")
    return ["".join(row[x] for x in sorted(row)) for _, row in sorted(rows.items())]


def compare(name: str, svg: str, seen: Path) -> None:
    path, drawn = FOLDER / f"{name}.svg", normal(svg)
    if os.environ.get(UPDATE):
        FOLDER.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text() != drawn:
            path.write_text(drawn)
    known = path.read_text() if path.is_file() else ""
    if drawn != known:
        seen.mkdir(exist_ok=True)
        (seen / path.name).write_text(drawn)
        lines = "\n".join(difflib.unified_diff(words(known), words(drawn), "known", "drawn", lineterm="", n=1))
        pytest.fail(f"{name} looks different, drawn in {seen / path.name}; {UPDATE}=1 renews it\n{lines}")


async def settle(app: HetSpecApp, pilot: Pilot[None], what: str) -> None:
    """Wait until the screen has these words, and does not change any more."""
    await until(pilot, lambda: what in screen_text(app) and "looking" not in screen_text(app).lower(), what)
    asks = [worker for worker in app.workers if worker.node is app.screen and worker.group != "feed"]
    await until(pilot, lambda: all(worker.is_finished for worker in asks), "all answers")
    await calm(app, pilot)


async def ready(app: HetSpecApp, pilot: Pilot[None]) -> None:
    """Wait until the page has what it asked for, and does not change any more; a busy desk lets it wait."""
    page = app.screen
    await until(pilot, lambda: not isinstance(page, RunScreen) or page.run is not None, "the run")
    await calm(app, pilot)
    asks = [worker for worker in app.workers if worker.group != "feed"]
    await until(pilot, lambda: all(worker.is_finished for worker in asks), "all answers")
    await calm(app, pilot)


async def calm(app: HetSpecApp, pilot: Pilot[None]) -> None:
    """Wait until the screen does not change any more."""
    before = ""
    same = 0
    while same < 4:
        await pilot.pause(0.1)
        text = screen_text(app)
        same, before = (same + 1 if text == before else 0), text


# name, size, a home with runs?, what to open, keys, words to wait for
PICTURES = [
    ("first-start-80x24", SMALL, False, None, "", "Run the quick demo"),
    ("first-start-120x40", USUAL, False, None, "", "Run the quick demo"),
    ("dashboard-80x24", SMALL, True, None, "", "machine-went-down"),
    ("dashboard-120x40", USUAL, True, None, "", "machine-went-down"),
    ("dashboard-200x60", LARGE, True, None, "", "machine-went-down"),
    ("runs-80x24", SMALL, True, None, "2", "too-large-a-batch"),
    ("runs-120x40", USUAL, True, None, "2", "too-large-a-batch"),
    ("runs-200x60", LARGE, True, None, "2", "too-large-a-batch"),
    ("comparison-120x40", USUAL, True, OpenComparison((TRAIN, EXPLAINED)), "", "Settings that differ"),
    ("run-curves-80x24", SMALL, True, OpenRun(TRAIN), "1", "loss 2.153"),
    ("run-curves-200x60", LARGE, True, OpenRun(TRAIN), "1", "loss 2.153"),
    ("run-log-80x24", SMALL, True, OpenRun(TRAIN), "2", "line 29"),
    ("run-config-120x40", USUAL, True, OpenRun(EXPLAINED), "3", "<- --set"),
    ("run-failed-120x40", USUAL, True, OpenRun(FAILED), "e", "no log"),
    ("presets-80x24", SMALL, True, None, "3", "weights"),
    ("presets-120x40", USUAL, True, None, "3", "weights"),
    ("launch-80x24", SMALL, True, None, "4", "✔ ready"),
    ("launch-120x40", USUAL, True, None, "4", "✔ ready"),
    ("help-80x24", SMALL, True, None, "?", "type to filter"),
]


@pytest.mark.parametrize(
    ("name", "size", "lively", "message", "key", "what"), PICTURES, ids=[picture[0] for picture in PICTURES]
)
def test_a_screen_looks_as_it_did(
    name: str,
    size: tuple[int, int],
    lively: bool,
    message: OpenRun | OpenComparison | None,
    key: str,
    what: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lively:
        write(home)
    monkeypatch.setattr(Input, "_toggle_cursor", lambda self: None)

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None, "the overview")
        if message is not None:
            app.screen.post_message(message)
            await until(pilot, lambda: len(app.screen_stack) > 1, "the screen")
            await ready(app, pilot)  # a key belongs to the page as it is then, not to one that is still put together
        if key:
            await pilot.press(key)
        await settle(app, pilot, what)
        compare(name, app.export_screenshot(title="hetspec"), tmp_path / "pictures")

    drive(act, size)


# name, size; step 4 of the shipped answer, for which no model is needed
CHATS = [("chat-80x24", SMALL), ("chat-120x40", USUAL), ("chat-200x60", LARGE)]


@pytest.mark.parametrize(("name", "size"), CHATS, ids=[picture[0] for picture in CHATS])
def test_the_chat_looks_as_it_did(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.receive({"trace": "shipped:smollm2"})
        await until(pilot, lambda: screen.playback.count == 25, "the recorded answer")
        await pilot.press("home", "right", "right", "right")
        await until(pilot, lambda: screen.talk.here == 3)
        await settle(screen.app, pilot, "step 4/25")  # type: ignore[arg-type]
        compare(name, screen.app.export_screenshot(title="hetspec"), tmp_path / "pictures")

    chat(act, size)


def test_there_are_at_most_thirty_pictures_and_none_that_nobody_compares() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(picture[0] for picture in [*PICTURES, *CHATS])
    assert len(PICTURES) + len(CHATS) <= 30
