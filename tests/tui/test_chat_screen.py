"""The page of the chat: a whole conversation with a worker that needs no model, and recorded answers without any."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.events.trace import read_trace
from hetspec_core.paths import roots
from hetspec_core.service.chat import ChatSession
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Prompt
from hetspec_tui.messages import OpenPage
from hetspec_tui.pickers import Choose, ChooseMany
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.chat.duel import DuelScreen
from hetspec_tui.screens.chat.meters import Meters
from hetspec_tui.screens.chat.simulator import SimulatorScreen
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.transcript import Transcript
from tests.conftest import REPOSITORY
from tests.fakes import chat_worker
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.test_pictures import compare

Scene = Callable[[ChatScreen, Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def worker_without_model(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("hetspec_core.service.chat.session.worker_command", lambda: chat_worker.COMMAND)


def chat(act: Scene, size: tuple[int, int] = (120, 40), *, draft: bool = True, read_only: bool = False) -> None:
    folder = roots().data / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")  # passes for a draft: the worker looks into none

    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.screen.post_message(OpenPage("chat", {"draft": str(folder)} if draft else None))
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.session is not None and screen.settings is not None)
        if draft:
            await until(pilot, lambda: screen.settings is not None and screen.settings.draft_name == "quick")
        await act(screen, pilot)

    drive(scene, size, read_only=read_only)


def session(screen: ChatScreen) -> ChatSession:
    assert screen.session is not None
    return screen.session


def say(screen: ChatScreen, text: str) -> None:
    screen.composer.put(text)
    screen.composer.action_send()


async def ask(screen: ChatScreen, pilot: Pilot[None], text: str) -> None:
    """Write a question and wait for the end of its answer."""
    say(screen, text)
    await until(pilot, lambda: ended(screen, text), f"the answer to {text!r}")


def ended(screen: ChatScreen, text: str) -> bool:
    answer = session(screen).answer
    return answer is not None and answer.messages[-1].content == text and answer.ended and not session(screen).busy


async def choose(pilot: Pilot[None], key: str) -> None:
    """Take a line of the list that is open, once it is."""
    app = pilot.app
    await until(pilot, lambda: isinstance(app.screen, Choose | ChooseMany) and key in keys_of(app), f"choice {key!r}")
    screen = app.screen
    assert isinstance(screen, Choose | ChooseMany)
    screen.fill(key)
    screen.action_take()
    await until(pilot, lambda: app.screen is not screen)


def keys_of(app: object) -> list[str]:
    screen = app.screen  # type: ignore[attr-defined]
    return [choice.key for choice in screen.choices]


async def type_in(pilot: Pilot[None], text: str) -> None:
    """Answer the line of text that is asked for."""
    app = pilot.app
    await until(pilot, lambda: isinstance(app.screen, Prompt))
    app.screen.query_one(Input).value = text
    await pilot.press("enter")


def test_a_conversation_is_asked_streamed_changed_and_answered_anew() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        assert session(screen).state == "new", "nothing is loaded before the first question"
        await pilot.press(*"count", "space", "4", "enter")
        await until(pilot, lambda: ended(screen, "count 4"))
        answer = session(screen).answer
        assert answer is not None
        assert answer.whole
        await until(pilot, lambda: "step 4/4" in screen_text(app))
        for word in ("T a0 b0 c0 a1 b1 c1", "●  a3", "★  c3", "○  y3", "accept   3.00", "accepted by depth"):
            await until(pilot, lambda word=word: word in screen_text(app), word)
        assert screen.composer.text == ""
        await pilot.press("up")
        assert screen.composer.text == "count 4"
        screen.composer.put("")

        await ask(screen, pilot, "second 2")
        pid = session(screen).pid
        await pilot.press("escape", "t")
        await choose(pilot, "3/2/6")
        await pilot.press("r")
        await until(pilot, lambda: ended(screen, "second 2") and session(screen).settings.tree == "3/2/6")
        await until(pilot, lambda: session(screen).conversation.turns[-1].label == "quick 3/2/6")
        assert session(screen).pid == pid, "the base is not loaded again"
        await pilot.press("s")
        await choose(pilot, "temperature")
        await type_in(pilot, "0.7")
        await until(pilot, lambda: session(screen).settings.temperature == 0.7)
        await pilot.press("s")
        await choose(pilot, "temperature")
        await type_in(pilot, "hot")
        await until(pilot, lambda: "it needs a number" in toasts(app))

        await pilot.press("e")
        assert screen.composer.text == "second 2"
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: ended(screen, "second 3"))
        turns = session(screen).conversation.turns
        assert [turn.text for turn in turns if turn.role == "user"] == ["count 4", "second 3"]
        await pilot.press("escape", "d")
        await choose(pilot, "none")
        await ask(screen, pilot, "plainly 3")
        assert session(screen).conversation.turns[-1].label == "plain"
        assert "plain decoding" in screen_text(app)

    chat(act)


def test_escape_stops_at_once_and_what_there_is_stays() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        say(screen, "slow 2000")
        await until(pilot, lambda: screen.playback.count > 2)
        await pilot.press("escape")
        await until(pilot, lambda: ended(screen, "slow 2000"))
        answer = session(screen).answer
        assert answer is not None
        assert answer.state == "stopped"
        assert 0 < len(answer.steps) < 2000
        await until(pilot, lambda: "stopped" in "\n".join(screen.talk.lines))

    chat(act)


def test_steps_are_walked_and_played_and_the_text_points_at_them() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "count 6")
        await pilot.press("escape", "left", "left")
        assert screen.playback.place == 3
        await until(pilot, lambda: screen.talk.here == 3 and "step 4/6  ‖ paused" in screen_text(app))
        figures = screen.query_one(Meters).figures
        assert figures is not None
        assert (figures.verify_steps, figures.pooled_steps) == (4, 6)
        await pilot.press("right", "home", "left")
        assert screen.playback.place == 0
        await pilot.press("plus", "plus", "plus", "p")
        await until(pilot, lambda: screen.playback.place == 5 and not screen.playback.playing)
        await pilot.press("space")
        assert screen.playback.live
        for view in ("table", "compact", "tree"):
            await pilot.press("v")
            assert screen.tree_pane.drawing.view == view
        await until(pilot, lambda: screen.talk.here is None)

    chat(act)


def test_a_worker_that_dies_is_told_kept_and_restarted() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "first 2")
        say(screen, "kill 9")
        await until(pilot, lambda: session(screen).state == "dead")
        await until(pilot, lambda: "ctrl+r" in toasts(app))
        assert "signal 9" in toasts(app) or "SIGKILL" in toasts(app) or "killed" in toasts(app)
        await until(pilot, lambda: "ctrl+r starts a new worker" in " ".join(" ".join(screen.talk.lines).split()))
        say(screen, "more 2")
        await until(pilot, lambda: "dead" in toasts(app))
        assert screen.composer.text == "more 2", "what was written is not lost"
        await pilot.press("ctrl+r")
        await until(pilot, lambda: session(screen).state == "ready")
        await ask(screen, pilot, "more 2")
        questions = [turn.text for turn in session(screen).conversation.turns if turn.role == "user"]
        assert questions[0] == "first 2"
        assert questions[-1] == "more 2"

    chat(act)


def test_a_prompt_beyond_the_context_is_refused_with_the_numbers_and_stalls_block_nothing() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "refuse this")
        await until(pilot, lambda: "1200 tokens; 1000" in "\n".join(screen.talk.lines))
        say(screen, "stall 5")
        await until(pilot, lambda: session(screen).answer is not None and len(session(screen).answer.steps) == 2)  # type: ignore[union-attr]
        began = time.monotonic()
        await pilot.press("escape", "escape", "v", "v", "v")
        assert time.monotonic() - began < 5
        pid = session(screen).pid
        assert pid is not None
        screen.action_free()
        began = time.monotonic()
        await until(pilot, lambda: not psutil.pid_exists(pid))
        assert time.monotonic() - began < 5
        await until(pilot, lambda: session(screen).state == "closed")
        await ask(screen, pilot, "again 2")

    chat(act)


def test_two_ways_are_asked_side_by_side_with_a_verdict() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "first 2")
        await pilot.press("escape", "a")
        await choose(pilot, "present")
        await choose(pilot, "3/2/6")
        await type_in(pilot, "both 4")
        await until(pilot, lambda: isinstance(app.screen, DuelScreen))
        await until(pilot, lambda: "identical, token by token" in screen_text(app))
        assert "A 3.00   B 3.00" in screen_text(app)
        sides = [app.screen.query_one(f"#duel-{side}", Transcript) for side in ("left", "right")]
        assert "\n".join(sides[0].lines[1:]) == "\n".join(sides[1].lines[1:])
        await pilot.press("r")
        await until(pilot, lambda: not session(screen).busy and "identical" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert len(session(screen).conversation.turns) == 2, "the conversation stays as it is"

    chat(act)


def test_answers_are_recorded_replayed_exported_and_conversations_saved_and_loaded() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("escape", "R")
        await ask(screen, pilot, "record 3")
        last = session(screen).recorder.last
        assert last is not None
        assert len(read_trace(last).steps) == 3
        screen.action_open_trace()
        await choose(pilot, last.stem)
        await until(pilot, lambda: "recorded answer" in screen_text(app) and screen.playback.count == 3)
        for form in ("svg", "html", "json"):
            await pilot.press("x")
            await choose(pilot, form)
            await until(pilot, lambda form=form: any((roots().data / "exports").glob(f"*.{form}")))
        data = json.loads(next((roots().data / "exports").glob("*.json")).read_text())
        assert data["text"].startswith("T a0 b0 c0")
        await pilot.press("escape")
        assert screen.replayed is None
        await pilot.press("w")
        file = roots().data / "kept.json"
        await type_in(pilot, str(file))
        await until(pilot, file.exists)
        await pilot.press("n")
        await pilot.press("y")
        await until(pilot, lambda: not session(screen).conversation.turns)
        await pilot.press("l")
        await choose(pilot, "…")
        await type_in(pilot, str(file))
        await until(pilot, lambda: len(session(screen).conversation.turns) == 2)
        assert "T a0 b0 c0" in "\n".join(screen.talk.lines)

    chat(act)


def test_the_shipped_answer_is_explored_without_a_model_also_when_only_looking() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        assert "recorded answer" in "\n".join(screen.talk.lines)
        await pilot.press("o")
        await choose(pilot, "shipped:smollm2")
        await pilot.press("home")
        await until(pilot, lambda: "step 1/25" in screen_text(app))
        assert "lighthouse" in "\n".join(screen.talk.lines)
        screen.action_again()
        await until(pilot, lambda: "read-only" in toasts(app))
        assert session(screen).state == "new"
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, SimulatorScreen) and "best 4/10/60" in screen_text(app))
        assert [one.label for one in app.screen.query_one(Chart).series] == ["trees", "chains"]
        await pilot.press("plus")
        await type_in(pilot, "8/10/90")
        await until(pilot, lambda: "larger than recorded" in screen_text(app) or "8/10/90: accept" in toasts(app))
        await pilot.press("f")
        await until(pilot, lambda: "frontier" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)

    chat(act, draft=False, read_only=True)


def test_costs_are_measured_and_give_the_simulator_speeds() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("escape", "b")
        await until(pilot, lambda: "100.0 tokens/s" in toasts(app))
        await ask(screen, pilot, "count 4")
        await until(pilot, lambda: "2.00x" in screen_text(app) or "x" in screen_text(app).split("plain ")[1][:20])
        screen.action_simulate()
        await until(pilot, lambda: isinstance(app.screen, SimulatorScreen) and "x plain" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: session(screen).settings.tree != "6/10/60")

    chat(act)


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 40), (200, 60)])
def test_text_tree_and_figures_are_on_the_screen_at_every_size(size: tuple[int, int]) -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "count 4")
        await until(pilot, lambda: "step 4/4" in screen_text(app))
        for word in ("T a0 b0 c0", "★" if size[1] > 16 else "○", "● ", "accept"):
            await until(pilot, lambda word=word: word in screen_text(app), word)
        assert all(len(line) <= size[0] for line in screen_text(app).split("\n"))

    chat(act, size)


@pytest.mark.parametrize(("name", "size"), [("chat-80x24", (80, 24)), ("chat-120x40", (120, 40))])
def test_the_page_looks_as_it_did(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("escape", "o")
        await choose(pilot, "shipped:smollm2")
        await until(pilot, lambda: screen.replayed is not None and screen.playback.count == 25)
        screen.tree_pane.action_go(0)
        await pilot.pause()
        screen.talk.scroll_home(animate=False)
        screen.tree_pane.action_go(3)
        await until(pilot, lambda: screen.talk.here == 3 and "Step" in screen_text(pilot.app).split("\n")[-1])
        await pilot.pause()
        compare(name, screen_text(pilot.app))

    chat(act, size)


def test_another_page_leaves_the_models_loaded_and_the_end_of_the_dashboard_frees_them() -> None:
    pids: list[int] = []

    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        say(screen, "slow 60")
        await until(pilot, lambda: screen.playback.count > 1)
        pid = session(screen).pid
        assert pid is not None
        pids.append(pid)
        await pilot.press("f1", "escape")
        screen.post_message(OpenPage("runs"))
        await until(pilot, lambda: not screen.is_current)
        await until(pilot, lambda: ended(screen, "slow 60"), "the answer while another page is open")
        assert psutil.pid_exists(pid)
        screen.post_message(OpenPage("chat"))
        await until(pilot, lambda: screen.is_current and "step 60/60" in screen_text(pilot.app))

    chat(act)
    assert not psutil.pid_exists(pids[0])
