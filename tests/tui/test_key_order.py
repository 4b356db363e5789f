"""Keys act in the order in which they were typed: many at once, while the app is busy, into every kind of input."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual import events
from textual.app import App, ComposeResult
from textual.keys import _character_to_key
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choice, Choose, ChooseMany
from hetspec_tui.key_order import KeyOrder
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.overlays import HelpScreen
from hetspec_tui.screens.presets import PresetsScreen
from hetspec_tui.screens.runs import RunsScreen
from hetspec_tui.widgets.composer import Composer
from tests.tui.chats import chat, ended, session
from tests.tui.driving import drive, screen_text, toasts, until

BUSY_S = 0.03


def burst(app: App[None], keys: Sequence[str]) -> None:
    """Put all keys into the app's queue at once, behind something that keeps its loop busy, as a terminal does when one
    read brings several. A word of more than one letter is the name of a key.
    """
    app.call_later(lambda: time.sleep(BUSY_S))
    for key in keys:
        name = _character_to_key(key) if len(key) == 1 else key
        app.post_message(events.Key(name, key if len(key) == 1 else None))


# --- the line of the chat ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", ["", "next"])
def test_enter_sends_all_letters_typed_right_before_it_and_none_typed_behind_it(home: Path, behind: str) -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen.composer.has_focus)
        for question in ("how are you?", "and now?"):
            burst(pilot.app, [*question, "enter", *behind])
            await until(pilot, lambda asked=question: ended(screen, asked), f"the answer to {question!r}")
            await until(pilot, lambda: screen.composer.text == behind)
            screen.composer.put("")
        asked = [turn.text for turn in session(screen).conversation.turns if turn.role == "user"]
        assert asked == ["how are you?", "and now?"]

    chat(act)


class _Lines(KeyOrder, App[None]):
    """A composer that empties itself, as the chat does."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def compose(self) -> ComposeResult:
        yield Composer()

    def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self.set_interval(0.01, self.refresh)  # something else is always going on

    def on_composer_sent(self, message: Composer.Sent) -> None:
        self.sent.append(message.text)
        self.query_one(Composer).sent(message.text)


def typed(keys: Sequence[str]) -> tuple[list[str], str]:
    """What one line of text sends and keeps when keys act one after another."""
    sent, text, at = [], "", 0
    for key in keys:
        if key == "enter":
            if text.strip():
                sent.append(text.strip())
                text, at = "", 0
        elif key == "backspace":
            text, at = text[: max(0, at - 1)] + text[at:], max(0, at - 1)
        elif key == "left":
            at = max(0, at - 1)
        elif key == "home":
            at = 0
        elif key == "end":
            at = len(text)
        else:
            text, at = text[:at] + key + text[at:], at + 1
    return sent, text


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([*"abcq?1", "enter", "backspace", "left", "home", "end"]), min_size=1, max_size=30))
def test_any_burst_of_keys_has_the_effect_of_the_same_keys_typed_slowly(keys: list[str]) -> None:
    async def act() -> None:
        app = _Lines()
        async with app.run_test() as pilot:
            burst(app, keys)
            end = time.monotonic() + 20
            while (app.sent, app.query_one(Composer).text) != typed(keys) and time.monotonic() < end:
                await pilot.pause(0.01)
            assert (app.sent, app.query_one(Composer).text) == typed(keys)

    asyncio.run(act())


def test_a_paste_keeps_its_place_among_the_keys() -> None:
    async def act() -> None:
        app = _Lines()
        async with app.run_test() as pilot:
            app.post_message(events.Key("a", "a"))
            app.post_message(events.Paste("bcd"))
            app.post_message(events.Key("enter", None))
            app.post_message(events.Paste("e"))
            end = time.monotonic() + 20
            while app.query_one(Composer).text != "e" and time.monotonic() < end:
                await pilot.pause(0.01)
            assert (app.sent, app.query_one(Composer).text) == (["abcd"], "e")

    asyncio.run(act())


# --- lists, filters, palette ------------------------------------------------------------------------------------------

NAMES = ("alpha", "beta", "gamma", "delta")


def test_enter_takes_the_choice_that_the_letters_before_it_leave(home: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        found: list[object] = []
        choices = [Choice(name, name) for name in NAMES]
        app.push_screen(Choose("which?", choices), found.append)
        burst(app, [*"delt", "enter"])
        await until(pilot, lambda: len(found) == 1)
        app.push_screen(ChooseMany("which?", choices, []), found.append)
        burst(app, [*"gam", "space", "enter"])
        await until(pilot, lambda: len(found) == 2)
        assert found == ["delta", ["gamma"]]

    drive(act)


def test_a_filter_that_is_opened_and_typed_in_one_burst_has_all_its_letters(runs: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        burst(app, ["2", "/", *"gamma", "enter"])
        await until(pilot, lambda: isinstance(app.screen, RunsScreen))
        runs_line = app.screen.query(Input).first()
        await until(pilot, lambda: runs_line.value == "gamma" and not runs_line.has_focus)
        burst(app, ["3", "/", *"moe", "enter"])
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))
        line = app.screen.query_one("#search", Input)
        await until(pilot, lambda: line.value == "moe" and not line.has_focus)

    drive(act)


def test_keys_typed_behind_the_key_of_a_list_reach_the_list(home: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None)
        burst(app, ["question_mark", *"theme", "enter"])
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen) and "Theme" in type(app.screen).__name__)
        burst(app, ["escape", "ctrl+p", *"go to presets", "enter"])
        await until(pilot, lambda: isinstance(app.screen, PresetsScreen))

    drive(act)


def test_a_key_is_not_held_for_ever_by_a_widget_that_is_removed_meanwhile(home: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for _ in range(3):
            app.push_screen(Choose("which?", [Choice("one", "one")]))
            app.post_message(events.Key("x", "x"))
            await pilot.pause(0)
            app.pop_screen()
            burst(app, ["4"])
            await until(pilot, lambda: app.current_mode == "launch")
            burst(app, ["escape"])
            await until(pilot, lambda: app.current_mode == "dashboard")

    drive(act)


def test_ctrl_q_quits_though_a_widget_does_not_answer(home: Path) -> None:
    free = asyncio.Event()

    class _Stuck(Input):
        async def _on_key(self, event: events.Key) -> None:
            await free.wait()

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        line = _Stuck()
        await app.screen.mount(line)
        line.focus()
        await until(pilot, lambda: line.has_focus)
        app.post_message(events.Key("a", "a"))
        app.post_message(events.Key("enter", None))
        app.post_message(events.Key("ctrl+q", None))
        end = time.monotonic() + 20
        while not app._exit and time.monotonic() < end:
            await asyncio.sleep(0.02)
        assert app._exit
        free.set()

    drive(act)


# --- ctrl-c -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_says_how_to_quit_in_words(home: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "quits" in toasts(app))
        assert "ctrl+q" in toasts(app)
        assert "[" not in toasts(app)

    drive(act)


def test_ctrl_c_stops_the_answer_and_leaves_the_line_alone() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.composer.put("burst 100000")
        screen.composer.action_send()
        await until(pilot, lambda: session(screen).state == "answering" and bool(session(screen).answer.pieces))
        screen.composer.put("half a question")
        await pilot.press("ctrl+c")
        await until(pilot, lambda: not session(screen).busy)
        assert session(screen).answer is not None and session(screen).answer.state == "stopped"
        assert screen.composer.text == "half a question" and screen.composer.has_focus
        assert toasts(pilot.app) == ""
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "quits" in toasts(pilot.app))

    chat(act)


def test_a_stop_is_shown_at_once_and_further_escapes_go_a_step_back() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.composer.put("burst 100000")
        screen.composer.action_send()
        await until(pilot, lambda: session(screen).state == "answering" and bool(session(screen).answer.pieces))
        talk = session(screen)
        talk._link.send = lambda request: None  # a worker that takes its time
        await pilot.press("escape")
        await until(pilot, lambda: "stopping" in screen_text(pilot.app))
        assert screen.composer.has_focus
        await pilot.press("escape")
        await until(pilot, lambda: not screen.composer.has_focus)

    chat(act)
