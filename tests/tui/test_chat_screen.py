"""The chat page: a whole conversation with a worker that needs no model, and recorded answers without any worker."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Markdown, Static

from hetspec_core.events.chat import ChatSettings
from hetspec_core.paths import roots
from hetspec_tui.app import HetSpecApp
from hetspec_tui.chatting import words
from hetspec_tui.chatting.player import Player
from hetspec_tui.dialogs import Prompt
from hetspec_tui.messages import OpenPage
from hetspec_tui.pickers import Choose
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.widgets.turn_view import TurnView
from tests.conftest import REPOSITORY, shared_path
from tests.fakes import chat_worker
from tests.tui.driving import drive, screen_text, toasts, until

Scene = Callable[[HetSpecApp, ChatScreen, Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def a_draft() -> Path:
    """A directory that passes for a draft: the worker without a model looks into none."""
    folder = roots().data / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def chat(act: Scene, size: tuple[int, int] = (120, 40), *, command: list[str] | None = None) -> None:
    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.screen.post_message(OpenPage("chat"))
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        assert isinstance(app.screen, ChatScreen)
        app.screen.command = command or chat_worker.COMMAND
        if command is None:
            app.screen.wanted_draft = str(a_draft())
        await pilot.pause()
        await act(app, app.screen, pilot)

    drive(scene, size)


async def ask(screen: ChatScreen, pilot: Pilot[None], text: str) -> None:
    """Write a question, and wait for the end of its answer."""
    line = screen.query_one("#question", Input)
    screen.set_focus(line)
    line.value = text
    await pilot.press("enter")
    await until(pilot, lambda: screen.session is not None and _settled(screen, text))


def _settled(screen: ChatScreen, text: str) -> bool:
    session = screen.session
    assert session is not None
    answer = session.answer
    return answer is not None and answer.messages[-1].content == text and answer.ended and not session.busy


async def fill(app: HetSpecApp, pilot: Pilot[None], text: str) -> None:
    """Answer the question that is on the screen."""
    await until(pilot, lambda: isinstance(app.screen, Prompt))
    app.screen.query_one(Input).value = text
    await pilot.press("enter")
    await pilot.pause()


def turns(screen: ChatScreen) -> list[str]:
    return [str(view.query_one(".turn-text", Static).render()) for view in screen.query(TurnView)]


def test_an_answer_streams_with_its_tree_and_meters() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.markdown = False
        await ask(screen, pilot, "tell 4")
        await until(pilot, lambda: len(turns(screen)) == 2)
        session = screen.session
        assert session is not None and session.answer is not None and session.answer.whole
        assert turns(screen) == ["tell 4", session.answer.text]
        assert session.answer.tokens == session.answer.end.tokens, "what is shown is what the worker says"  # type: ignore[union-attr]
        text = screen_text(app)
        assert "step 4 of 4" in text and "● " in text and "★ " in text
        assert "accept length" in text and "propose 25%" in text
        await pilot.press("escape", "left", "left")
        await until(pilot, lambda: "step 2 of 4" in screen_text(app))
        await pilot.press("right", "right")
        await until(pilot, lambda: "step 4 of 4" in screen_text(app) and "back to the newest" not in screen_text(app))

    chat(act)


def test_escape_stops_at_once_and_keeps_what_there_is() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        line = screen.query_one("#question", Input)
        line.value = "slow 400"
        await pilot.press("enter")
        await until(pilot, lambda: screen.session is not None and len(screen.player.steps) > 2)
        await pilot.press("escape")
        await until(pilot, lambda: screen.session is not None and not screen.session.busy)
        assert screen.session is not None and screen.session.answer is not None
        assert screen.session.answer.state == "stopped" and len(screen.session.answer.steps) < 300
        assert isinstance(app.screen, ChatScreen)

    chat(act)


def test_a_question_is_edited_answered_again_and_brought_back() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 2")
        await pilot.press("up")
        assert screen.query_one("#question", Input).value == "tell 2"
        await pilot.press("escape", "e")
        await fill(app, pilot, "tell 3")
        await until(pilot, lambda: _settled(screen, "tell 3"))
        assert screen.session is not None
        assert [turn.text for turn in screen.session.conversation.turns if turn.role == "user"] == ["tell 3"]
        first = screen.session.answer
        await pilot.press("g")
        await until(pilot, lambda: screen.session.answer is not first and _settled(screen, "tell 3"))  # type: ignore[union-attr]
        assert len(screen.session.conversation.turns) == 2
        await pilot.press("N")
        await until(pilot, lambda: screen.session is not None and not screen.session.conversation.turns)

    chat(act)


def test_settings_change_between_answers_without_another_worker() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 2")
        assert screen.session is not None
        pid = screen.session.pid
        await pilot.press("escape", "t")
        await fill(app, pilot, "3/2/6")
        await pilot.press("T")
        await fill(app, pilot, "0.7")
        await until(pilot, lambda: "temperature 0.7" in screen_text(app))
        await pilot.press("t")
        await fill(app, pilot, "odd")
        await until(pilot, lambda: "needs depth/top_k" in toasts(app))
        await ask(screen, pilot, "tell 3")
        assert screen.session.pid == pid and screen.session.settings.tree == "3/2/6"

    chat(act)


def test_two_ways_are_compared_side_by_side_with_a_verdict() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 2")
        await pilot.press("escape", "b")
        await fill(app, pilot, "3/2/6")
        await fill(app, pilot, "tell 3")
        await until(pilot, lambda: screen.session is not None and bool(screen.session.comparison))
        await until(pilot, lambda: screen.session.comparison.done)  # type: ignore[union-attr]
        await until(pilot, lambda: "✔ texts identical" in screen_text(app))
        assert "750 | 750" in screen_text(app)
        assert screen.session is not None and len(screen.session.conversation.turns) == 2, "the talk stays as it was"
        await pilot.press("escape")
        await until(pilot, lambda: "texts identical" not in screen_text(app))

    chat(act)


def test_a_dead_worker_is_said_and_can_be_restarted_with_the_conversation() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 1")
        line = screen.query_one("#question", Input)
        line.value = "kill 9"
        await pilot.press("enter")
        await until(pilot, lambda: screen.session is not None and screen.session.state == "dead")
        await until(pilot, lambda: "r restarts the worker" in screen_text(app))
        await pilot.press("escape", "r")
        await until(pilot, lambda: screen.session is not None and screen.session.state == "ready")
        await ask(screen, pilot, "tell 2")
        assert screen.session is not None
        assert screen.session.conversation.turns[0].text == "tell 1"

    chat(act)


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "refuse")
        await until(pilot, lambda: "1200 tokens; 1000" in screen_text(app) and "refused" in screen_text(app))

    chat(act)


def test_freeing_and_quitting_end_the_worker() -> None:
    pids: list[int] = []

    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 1")
        assert screen.session is not None and screen.session.pid is not None
        first = screen.session.pid
        await pilot.press("escape", "F")
        await until(pilot, lambda: not psutil.pid_exists(first))
        assert screen.session is None
        await ask(screen, pilot, "tell 1")
        assert screen.session is not None and screen.session.pid is not None
        pids.append(screen.session.pid)

    chat(act)
    assert not psutil.pid_exists(pids[0])


def test_the_shipped_answer_is_replayed_stepped_through_predicted_and_exported(home: Path) -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("escape", "o")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: len(screen.player.steps) >= 2)
        assert screen.session is None, "no worker is needed"
        await pilot.press("space")
        assert not screen.player.playing
        seen = len(screen.player.steps)
        await pilot.press("right")
        assert len(screen.player.steps) == seen + 1
        await pilot.press("left", "left")
        await until(pilot, lambda: f"step {seen - 1} of {seen + 1}" in screen_text(app))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        app.screen.query_one(Input).value = "json"
        await pilot.press("enter")
        await until(pilot, lambda: bool(list((home / "exports").glob("*.json"))))
        [written] = (home / "exports").glob("*.json")
        assert json.loads(written.read_text())
        await pilot.press("p")
        await until(
            pilot,
            lambda: "accept length" in screen_text(app) and "★" in screen_text(app) and "sure" in screen_text(app),
        )
        await pilot.press("escape", "escape")
        await until(pilot, lambda: screen.player.trace is None)

    chat(act)


def test_conversations_are_saved_and_loaded_and_answers_recorded(home: Path) -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("escape", "R")
        await ask(screen, pilot, "tell 2")
        assert screen.session is not None and screen.session.recorder.last is not None
        assert screen.session.recorder.last.is_file()
        await pilot.press("escape", "S")
        await fill(app, pilot, str(home / "conversations" / "kept.json"))
        await until(pilot, lambda: (home / "conversations" / "kept.json").is_file())
        await pilot.press("N")
        await until(pilot, lambda: not screen.session.conversation.turns)  # type: ignore[union-attr]
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("enter")
        await until(pilot, lambda: len(screen.session.conversation.turns) == 2)  # type: ignore[union-attr]

    chat(act)


def test_a_finished_answer_is_rendered_and_raw_on_demand() -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 2")
        await until(pilot, lambda: len(screen.query(Markdown)) == 1)
        await pilot.press("escape", "m")
        await until(pilot, lambda: len(screen.query(Markdown)) == 0)

    chat(act)


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (200, 60)])
def test_every_part_lies_inside_the_screen(size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 3")
        for name in ("#left", "#question", "#tree", "#status"):
            region = screen.query_one(name).region
            assert region.area > 0 and screen.region.contains_region(region), name

    chat(act, size)


def test_text_of_models_is_never_markup_and_moves_no_cursor() -> None:
    from hetspec_core.service.chat import Piece

    pieces = [Piece("[bold red]x[/]", "draft", 1, 0), Piece("\x1b[2J\u202e", "bonus", 0, 0), Piece("\n漢", "base")]
    content = words.pieces_content(pieces, 0)
    assert content.plain == "[bold red]x[/]\\x1b[2J\\u202e\n漢"
    assert words.settings_words(ChatSettings(draft="d", draft_name="[b]")).startswith("[b]")


def test_a_replay_ends_with_the_answer_whole() -> None:
    from hetspec_core.service.traces import load_trace

    player = Player()
    player.load(load_trace("shipped:smollm2"))
    player.speed = 1000.0
    for _ in range(200):
        player.advance(0.1)
    assert not player.playing and player.answer is not None and player.answer.whole
    player.go(-3)
    assert player.shown is player.steps[-4]
    player.go(99)
    assert player.place is None


@pytest.mark.slow
def test_the_real_pair_shows_what_its_worker_says(shared_models: Path, home: Path) -> None:
    draft = shared_path("models/smollm2-135m-eagle-quick")

    async def act(app: HetSpecApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.receive({"draft": str(draft)})
        await until(pilot, lambda: screen.session is not None and screen.session.state == "ready", patience_s=180)
        assert screen.session is not None
        screen.session.change(max_new_tokens=24, tree="3/2/6")
        line = screen.query_one("#question", Input)
        line.value = "Name three colours."
        await pilot.press("enter")
        await until(pilot, lambda: _settled(screen, "Name three colours."), patience_s=180)
        answer = screen.session.answer
        assert answer is not None and answer.whole and answer.trees
        await until(pilot, lambda: len(turns(screen)) == 2)
        assert turns(screen)[1] == words.readable(answer.text)

    from hetspec_core.service.chat.worker_link import worker_command

    chat(act, command=worker_command())
