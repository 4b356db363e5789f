"""The conversation of the chat: its session, and the commands that begin, ask, edit and free the models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from hetspec_core.errors import HetSpecError, UsageError
from hetspec_core.events.trace import Trace
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import ChatConfig
from hetspec_core.service.traces.simulation import CALIBRATION_TREES
from hetspec_tui.dialogs import Choice, Choose, Confirm
from hetspec_tui.formatting import safe
from hetspec_tui.page import Page
from hetspec_tui.screens.chat.setup import NEWEST, Setup
from hetspec_tui.screens.chat.tree_pane import Playback
from hetspec_tui.widgets.composer import Composer

_READ_ONLY = "this dashboard is read-only (--read-only): it loads no models"


class ChatView(Protocol):
    """The page of the chat, as its conversation and commands know it."""

    @property
    def trace(self) -> Trace | None:
        """The recorded answer that is shown in place of the conversation."""

    @property
    def replayed(self) -> Answer | None:
        """The same as an answer."""

    @property
    def playback(self) -> Playback: ...

    @property
    def composer(self) -> Composer: ...

    def redraw(self) -> None:
        """Draw everything again."""

    def forget_turns(self) -> None:
        """Draw every turn anew: one of them has changed."""

    def show_trace(self, trace: Trace) -> None:
        """Show a recorded answer, which begins to play."""

    def close_trace(self) -> None:
        """Show the conversation again."""


class ChatConversation:
    """A session and what a conversation needs of it.

    Args:
        page: asks the desk and the user.
        view: draws the chat.

    Attributes:
        setup: what is loaded, and how answers begin.
        session: None until base and draft are found.
        recording: whether a trace of every answer is written.
        editing: number of the turn that is edited.
    """

    def __init__(self, page: Page, view: ChatView) -> None:
        self._page, self._view = page, view
        self.setup = Setup()
        self.session: ChatSession | None = None
        self.recording = False
        self.editing: int | None = None

    # --- session ------------------------------------------------------------------------------------------------------

    def begin(self, **parts: str) -> None:
        """Find base and draft and make a session of them, which loads nothing yet; a conversation goes on with it."""
        self._page.run_worker(self._begin(**parts), exclusive=True, group="session")

    async def _begin(self, **parts: str) -> None:
        await asyncio.sleep(0)  # what was kept from the last start is given back first
        setup = Setup.of(self.setup.to_json() | parts)
        try:
            config = await self._page.desk.ask(setup.config)
        except HetSpecError as error:
            self._page.show_error(error)
            if self.session is not None or setup.draft == NEWEST:
                return
            setup = Setup.of(setup.to_json() | {"draft": NEWEST})  # what was kept is not there any more
            config = await self._page.ask(setup.config)
            if config is None:
                return
        old, conversation = self.session, None
        for text in config.notes if old is None else ():
            self._page.notify(text, markup=False)
        if old is not None:
            conversation = old.conversation
            await asyncio.to_thread(old.close)
        if not self._page.is_whole:
            return
        session = ChatSession(config, conversation=conversation, record=roots().traces if self.recording else None)
        if old is not None and _same_machine(old.config, config):
            session.meters = old.meters
        self.setup, self.session = setup, session  # together: no await between the two
        self._view.redraw()

    def ready(self) -> ChatSession | None:
        """The session, started; None after the user was told why there is none."""
        session = self.session
        if self._page.desk.read_only:
            self._page.show_error(UsageError(_READ_ONLY, hint="o looks at recorded answers"))
            return None
        if session is None:
            self._page.notify("Still looking for a base and its draft.", severity="warning")
            return None
        if session.state == "closed":
            fresh = ChatSession(session.config, conversation=session.conversation, record=session.recorder.folder)
            fresh.settings, fresh.meters = session.settings, session.meters
            self.session = session = fresh
        if session.state == "new":
            session.start()
        return session

    def order(self, what: Callable[[ChatSession], Any]) -> bool:
        """Have the session do something; whether it does. What is wrong is shown."""
        try:
            session = self.ready()
            if session is None:
                return False
            what(session)
        except HetSpecError as error:
            self._page.show_error(error)
            return False
        self._view.close_trace()
        self._view.redraw()
        return True

    def tell(self, before: str, now: str) -> None:
        """Say what the eye may miss."""
        session = self.session
        if session is None:
            return
        if now == "dead" and session.death is not None:
            death = session.death
            words = [death.message, death.hint, "The conversation is kept; ctrl+r starts a new worker."]
            self._page.notify(
                "\n".join(filter(None, words)), title="The chat worker died", severity="error", timeout=15
            )
        elif before == "calibrating" and now == "ready" and session.meters.calibration is not None:
            speed = 1 / session.meters.calibration.plain_token_s if session.meters.calibration.plain_token_s else 0.0
            self._page.notify(f"Plain decoding makes {speed:.1f} tokens/s here.", title="Measured")
        if session.problem is not None:
            error = session.problem.error
            session.problem = None if now != "dead" else session.problem
            if now != "dead":
                self._page.notify(f"{error.message}\n{error.hint}".strip(), severity="error")

    # --- asking -------------------------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Ask what was written, or put it in the place of the turn that is edited."""
        place = self.editing
        if place is not None:
            done = self.order(lambda session: session.edit(place, text))
        else:
            done = self.order(lambda session: session.send(text))
        if done:
            self._view.forget_turns()
            self.edit_no_more()
            self._view.composer.sent(text)

    def again(self) -> None:
        if self.order(lambda session: session.regenerate()):
            self._view.forget_turns()

    def edit(self) -> None:
        turns = self.session.conversation.turns if self.session is not None else []
        places = [place for place, turn in enumerate(turns) if turn.role == "user"]
        if places:
            self._edit(places[-1])
        else:
            self._page.notify("There is no question to edit yet.", timeout=3)

    async def edit_any(self) -> None:
        turns = self.session.conversation.turns if self.session is not None else []
        choices = [
            Choice(f"{at}", f"{turn.role:<9} {' '.join(turn.text.split())[:50]}") for at, turn in enumerate(turns)
        ]
        key = await self._page.ask_user(Choose("Edit which turn?", choices, empty="nothing was said yet"))
        if key is not None:
            self._edit(int(key))

    def _edit(self, place: int) -> None:
        assert self.session is not None
        turn = self.session.conversation.turns[place]
        self.editing = place
        self._view.composer.put(turn.text)
        after = "enter answers it anew; what followed it goes" if turn.role == "user" else "enter changes the answer"
        self._view.composer.border_title = f"editing turn {place + 1}: {after}, esc leaves it"
        self._view.composer.focus()

    def edit_no_more(self) -> None:
        """Leave the turn that is edited as it is."""
        if self.editing is not None:
            self.editing = None
            self._view.composer.border_title = ""
            self._view.composer.put("")

    def interrupt(self) -> bool:
        session = self.session
        if session is None or not session.busy or session.stopping:
            return False
        session.stop()
        self._view.redraw()
        return True

    # --- the worker ---------------------------------------------------------------------------------------------------

    def calibrate(self) -> None:
        """Measure plain decoding, and what a step of several trees costs here."""

        def measure(session: ChatSession) -> None:
            session.calibrate(list(dict.fromkeys([session.settings.tree, *CALIBRATION_TREES])))

        if self.order(measure):
            self._page.notify("Measuring plain decoding and the steps of some trees; esc stops it.", timeout=4)

    async def restart(self) -> None:
        session = self.session
        if session is None or session.state in ("new", "closed"):
            return
        try:
            await asyncio.to_thread(session.restart)
        except HetSpecError as error:
            self._page.show_error(error)
        if self._page.is_whole:
            self._view.redraw()

    async def free(self) -> None:
        """End the worker, whose memory is free then; the conversation stays."""
        session = self.session
        if session is None or session.state in ("new", "closed"):
            return
        began = time.monotonic()
        if session.busy:
            session.stop()
        await asyncio.to_thread(session.close)
        if not self._page.is_whole:
            return
        self._page.notify(f"The models are unloaded ({time.monotonic() - began:.1f} s).", timeout=3)
        self._page.refresh_bindings()
        self._view.redraw()

    def record(self) -> None:
        """Write a trace of every answer from now on, or no more."""
        self.recording = not self.recording
        folder = roots().traces if self.recording else None
        if self.session is not None:
            self.session.recorder.folder = folder
        where = f"Every answer is written to {folder}" if folder else "Nothing is recorded any more"
        self._page.notify(where, timeout=4)
        self._view.redraw()

    async def new(self) -> None:
        session = self.session
        if session is None or not session.conversation.turns:
            return
        question = Confirm("Begin a new conversation?", "This one is lost unless w has saved it.", yes="Begin")
        if await self._page.ask_user(question) and self.order_quietly(lambda: session.replace_conversation()):
            self._view.forget_turns()
            self._view.redraw()

    def order_quietly(self, what: Callable[[], Any]) -> bool:
        """Do something that needs no worker; whether it was done."""
        try:
            what()
        except HetSpecError as error:
            self._page.show_error(error)
            return False
        return True

    # --- the clipboard ------------------------------------------------------------------------------------------------

    def copy(self) -> None:
        shown = self._view.replayed or (self.session.answer if self.session is not None else None)
        turns = self.session.conversation.turns if self.session is not None else []
        text = shown.text if shown is not None else turns[-1].text if turns else ""
        self._to_clipboard(text)

    def copy_all(self) -> None:
        turns = self.session.conversation.turns if self.session is not None else []
        self._to_clipboard("\n\n".join(f"{turn.role}: {turn.text}" for turn in turns))

    def _to_clipboard(self, text: str) -> None:
        if text:
            self._page.app.copy_to_clipboard(text)
            self._page.notify(safe(text.replace("\n", " "))[:60], title="Copied", timeout=2)


def _same_machine(old: ChatConfig, new: ChatConfig) -> bool:
    """Whether figures of the one are comparable with those of the other."""
    return (old.base, old.backend, old.backend_options) == (new.base, new.backend, new.backend_options)
