"""Driving the page of the chat with a worker that needs no model: open it, ask, choose from lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from hetspec_core.paths import roots
from hetspec_core.service.chat.session import ChatSession
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choose, ChooseMany, Prompt
from hetspec_tui.pages import OpenPage
from hetspec_tui.screens.chat import ChatScreen
from tests.conftest import REPOSITORY
from tests.fakes import chat_worker
from tests.tui.driving import drive, until

Scene = Callable[[ChatScreen, Pilot[None]], Awaitable[None]]


def chat(act: Scene, size: tuple[int, int] = (120, 40), *, draft: bool = True, read_only: bool = False) -> None:
    """Open the page with the draft `quick`, or without one, and let `act` use it; its worker needs no model."""
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setattr("hetspec_core.service.chat.session.worker_command", lambda: chat_worker.COMMAND)
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
