"""The first page: what it shows of runs in every state, what its keys do to them, and how a first start looks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_core.events import Progress, RunEnded
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Confirm
from hetspec_tui.pages import OpenPage, OpenRun
from hetspec_tui.screens.dashboard import DashboardScreen
from hetspec_tui.widgets.cards import CardList
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.homes import lively_home


@pytest.fixture
def lively(home: Path) -> Path:
    return lively_home(home, time.time())


async def shown(app: HetSpecApp, pilot: Pilot[None]) -> DashboardScreen:
    """The dashboard, when it has looked at the runs."""
    screen = app.screen
    assert isinstance(screen, DashboardScreen)
    await until(pilot, lambda: app.overview is not None, "the overview")
    await pilot.pause()
    return screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_every_state_is_told_by_sign_and_word_at_every_size(lively: Path, size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        text = screen_text(app)
        for words in ("▶ 2 running", "◌ 1 queued", "✔ 2 succeeded", "✖ 1 failed", "■ 1 cancelled", "? 1 lost"):
            assert words in text
        for words in ("smollm2-llama-eagle", "30%", "accept_length 2.5", "bench-after-it", "accept 2.41  1.62x"):
            assert words in text
        assert "machine-went-down  lost" in text
        assert "a [b]try[/b]" in text

    drive(act, size)


def test_a_first_start_says_what_to_begin_with_and_enter_begins() -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        text = screen_text(app)
        assert "Run the quick demo" in text and "At work" not in text
        opened: list[OpenPage] = []
        app.go_to = lambda name, about=None: _note(opened, OpenPage(name, about))  # type: ignore[method-assign]
        await pilot.press("D")
        await until(pilot, lambda: bool(opened))
        assert (opened[0].page, opened[0].about) == ("launch", {"recipe": "quick-demo", "what": "pipeline"})

    drive(act)


async def _note(opened: list[OpenPage], message: OpenPage) -> None:
    opened.append(message)


def test_enter_opens_the_run_under_the_cursor_in_every_list(lively: Path) -> None:
    opened: list[str] = []

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        screen.open_run = lambda message: None  # type: ignore[attr-defined]

        async def note(message: OpenRun) -> None:
            opened.append(message.run_id)

        app._push = lambda target, word: note(OpenRun(word))  # type: ignore[method-assign]
        for name in ("active", "concerns", "recent"):
            screen.query_one(f"#{name}").focus()
            seen = len(opened)
            await pilot.press("enter")
            await until(pilot, lambda seen=seen: len(opened) > seen, name)

    drive(act)
    assert [run_id[-4:] for run_id in opened] == ["aaaa", "gggg", "dddd"]


def test_arrows_go_from_the_last_card_of_a_list_into_the_next_list(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        assert screen.focused is not None and screen.focused.id == "active"
        await pilot.press("down", "down", "down")
        await until(pilot, lambda: screen.focused is not None and screen.focused.id == "concerns", "the next list")

    drive(act)


def test_only_keys_that_fit_the_chosen_run_are_offered(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        assert "x Stop" in screen_text(app) and "r Resume" not in screen_text(app)
        screen.query_one("#concerns").focus()
        await until(pilot, lambda: "r Resume" in screen_text(app) and "x Stop" not in screen_text(app), "its keys")

    drive(act)


def test_cancel_asks_and_enter_alone_changes_nothing(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        screen.query_one("#active", CardList).key = "20270115-074000-bench-cccc"
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Stop bench-after-it?" in screen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert _state("20270115-074000-bench-cccc") == "queued"
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: _state("20270115-074000-bench-cccc") == "cancelled")
        await until(pilot, lambda: "queued" not in screen_text(app), "the list without it")

    drive(act)


def _state(run_id: str) -> str:
    with Workbench() as workbench:
        return workbench.state(run_id)


def test_archiving_takes_a_concern_off_the_page_and_leaves_it_on_disk(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        screen.query_one("#concerns").focus()
        await pilot.pause()
        await pilot.press("a")
        await until(pilot, lambda: "machine-went-down  lost" not in screen_text(app))
        assert (lively / "runs" / "20270115-061000-train-gggg").is_dir()

    drive(act)


def test_a_dashboard_that_only_looks_strikes_out_what_would_change_something(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = await shown(app, pilot)
        assert "read-only" in screen_text(app).splitlines()[0]
        assert screen.check_action("run_command", ("cancel",)) is None
        await pilot.press("x")
        await pilot.pause()
        assert app.screen is screen
        assert _state("20270115-074000-bench-cccc") == "queued"

    drive(act, read_only=True)


def test_progress_and_the_end_of_a_run_appear_by_themselves(lively: Path) -> None:
    paths = RunPaths(lively / "runs" / "20270115-071500-train-aaaa")

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        _append(paths, Progress(task="train", done=3200, total=4000, unit="steps"))
        await until(pilot, lambda: "80%" in screen_text(app), "80 %")
        _append(paths, RunEnded(state="succeeded"))
        await until(pilot, lambda: "smollm2-llama-eagle succeeded after" in toasts(app), "the notice")
        await until(pilot, lambda: "▶ 1 running" in screen_text(app), "one run less")

    drive(act)


def _append(paths: RunPaths, event: Progress | RunEnded) -> None:
    with paths.events.open("a") as file:
        file.write(event.to_line().decode() + "\n")


def test_a_run_folder_that_vanishes_while_it_is_shown_leaves_the_list(lively: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        (lively / "runs" / "20270115-071500-train-aaaa").rename(lively / "elsewhere")
        await until(pilot, lambda: "smollm2-llama-eagle" not in screen_text(app))

    drive(act)


def test_without_a_gpu_there_is_one_plain_line_and_with_some_a_line_each(
    lively: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        await until(pilot, lambda: "No GPU, the processor is used" in screen_text(app))

    async def two(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await shown(app, pilot)
        await until(pilot, lambda: screen_text(app).count("Simulated GPU") == 2)

    monkeypatch.setattr("hetspec_core.service.workbench.read_gpus", _no_gpus)
    drive(none)
    monkeypatch.undo()
    monkeypatch.setenv("HETSPEC_HOME", str(lively))
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    drive(two, (200, 50))


def _no_gpus(data: Path) -> object:
    from hetspec_core.service.gpus import GpuReport

    return GpuReport((), "no NVIDIA driver answers")
