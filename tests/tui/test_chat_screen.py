"""The page of the chat: a whole conversation with a worker that needs no model."""

from __future__ import annotations

import time

import psutil
import pytest
from textual.pilot import Pilot

from hetspec_tui.pages import OpenPage
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.chat.texts import Meters
from tests.tui.chats import ask, chat, choose, ended, say, session, type_in
from tests.tui.driving import screen_text, toasts, until


def test_a_conversation_is_asked_streamed_changed_and_answered_anew() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        assert session(screen).state == "new", "nothing is loaded before the first question"
        await pilot.press(*"count", "space", "4", "enter")
        await until(pilot, lambda: ended(screen, "count 4"))
        answer = session(screen).answer
        assert answer is not None and answer.end is not None
        assert answer.whole
        assert answer.tokens == answer.end.tokens, "what is shown is what the worker says"
        await until(pilot, lambda: screen.talk.entries[-1].text == answer.text)
        assert answer.text == answer.end.text
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
        await until(pilot, lambda: session(screen).settings.sampling.temperature == 0.7)
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
        screen.action_talk("free")
        began = time.monotonic()
        await until(pilot, lambda: not psutil.pid_exists(pid))
        assert time.monotonic() - began < 5
        await until(pilot, lambda: session(screen).state == "closed")
        await ask(screen, pilot, "again 2")

    chat(act)


def test_finished_answers_are_markdown_or_every_token_in_its_colour() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "tell 2")
        await until(pilot, lambda: screen.talk.entries[-1].markdown)
        await pilot.press("escape", "M")
        await until(pilot, lambda: not screen.talk.entries[-1].markdown)
        assert {token.source for token in screen.talk.entries[-1].tokens} == {"plain", "draft", "bonus"}
        await pilot.press("M")
        await until(pilot, lambda: screen.talk.entries[-1].markdown)

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
        assert "✔ ready" in screen_text(app)
        for part in (screen.talk, screen.composer, screen.tree_pane, screen.query_one(Meters)):
            assert part.region.area > 0 and screen.region.contains_region(part.region), part

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
