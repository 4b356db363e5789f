"""What can be done in a chat: begin, ask, stop, edit, answer anew, free the models. Settings and files are beside it.

It holds the session and what is looked at instead of it; the page that draws both is another file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

from textual import on, work
from textual.widget import Widget

from hetspec_core.errors import HetSpecError, UsageError
from hetspec_core.events.chat import ChatSettings
from hetspec_core.service.chat import Answer, ChatConfig, ChatSession, SessionTotals, Turn
from hetspec_core.service.traces import CALIBRATION_TREES, Trace, trace_folder
from hetspec_tui.dialogs import Confirm
from hetspec_tui.formatting import safe
from hetspec_tui.page import Page
from hetspec_tui.picker import Choice, Choose
from hetspec_tui.screens.chat.setup import NEWEST, Setup
from hetspec_tui.widgets.composer import Composer
from hetspec_tui.widgets.transcript import TranscriptEntry

_READ_ONLY = "this dashboard only looks (--read-only): it loads no models"


class ChatTalk(Page):
    """A page with a session: what the conversation itself needs."""

    CHANGES: ClassVar[frozenset[str]] = frozenset(
        {"again", "edit", "edit_any", "calibrate", "record", "restart", "compare", "new", "export", "save", "load"}
        | {"draft", "tree", "settings", "free"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.setup = Setup()
        self.session: ChatSession | None = None
        self.trace: Trace | None = None
        self.replayed: Answer | None = None
        self.replay_meters = SessionTotals()
        self.raw = False
        self.recording = False
        self.editing: int | None = None
        self._turns: dict[int, tuple[Turn, bool, TranscriptEntry]] = {}
        self._wanted: dict[str, Any] = {}

    @property
    def composer(self) -> Composer:
        """Where one writes."""
        raise NotImplementedError

    @property
    def talk(self) -> Widget:
        """What was said."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw everything again."""
        raise NotImplementedError

    # --- session ------------------------------------------------------------------------------------------------------

    def receive(self, about: dict[str, Any]) -> None:
        parts = {key: about[key] for key in ("draft", "recipe", "backend", "url") if isinstance(about.get(key), str)}
        if "recipe" in parts:
            parts = {"base": "", "draft": NEWEST} | parts
        if parts:
            self.begin(**parts)
        if isinstance(about.get("trace"), str):
            self.open_trace(about["trace"])

    @work(exclusive=True, group="session")
    async def begin(self, **parts: str) -> None:
        """Find base and draft and make a session of them, which loads nothing yet; a conversation goes on with it."""
        await asyncio.sleep(0)  # what was kept from the last start is given back first
        setup = Setup.of(self.setup.to_json() | parts)
        try:
            config = await self.desk.ask(setup.config)
        except HetSpecError as error:
            self.show_error(error)
            if self.session is not None or setup.draft == NEWEST:
                return
            setup = Setup.of(setup.to_json() | {"draft": NEWEST})  # what was kept is not there any more
            config = await self.ask(setup.config)
            if config is None:
                return
        old, conversation = self.session, None
        for text in config.notes if old is None else ():
            self.notify(text, markup=False)
        if old is not None:
            conversation = old.conversation
            await asyncio.to_thread(old.close)
        if not self.is_whole:
            return
        session = ChatSession(config, conversation=conversation, record=trace_folder() if self.recording else None)
        if old is not None and _same_machine(old.config, config):
            session.meters = old.meters
        self.setup, self.session = setup, session  # together: nobody sees the one without the other
        self.redraw()

    def open_trace(self, word: str) -> object:
        """Look at a recorded answer."""
        raise NotImplementedError

    def ready(self) -> ChatSession | None:
        """The session, started; None after the user was told why there is none."""
        session = self.session
        if self.desk.read_only:
            self.show_error(UsageError(_READ_ONLY, hint="o looks at recorded answers"))
            return None
        if session is None:
            self.notify("Still looking for a base and its draft.", severity="warning")
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
            self.show_error(error)
            return False
        self.close_trace()
        self.redraw()
        return True

    def tell(self, before: str, now: str) -> None:
        """Say what the eye may miss."""
        session = self.session
        if session is None:
            return
        if now == "dead" and session.death is not None:
            death = session.death
            words = [death.message, death.hint, "The conversation is kept; ctrl+r starts a new worker."]
            self.notify("\n".join(filter(None, words)), title="The chat worker died", severity="error", timeout=15)
        elif before == "calibrating" and now == "ready" and session.meters.calibration is not None:
            speed = 1 / session.meters.calibration.plain_token_s if session.meters.calibration.plain_token_s else 0.0
            self.notify(f"Plain decoding makes {speed:.1f} tokens/s here.", title="Measured")
        if session.problem is not None:
            error = session.problem.error
            session.problem = None if now != "dead" else session.problem
            if now != "dead":
                self.notify(f"{error.message}\n{error.hint}".strip(), severity="error")

    # --- asking -------------------------------------------------------------------------------------------------------

    @on(Composer.Sent)
    def send(self, message: Composer.Sent) -> None:
        """Ask what was written, or put it in the place of the turn that is edited."""
        text, place = message.text, self.editing
        if place is not None:
            done = self.order(lambda session: session.edit(place, text))
        else:
            done = self.order(lambda session: session.send(text))
        if done:
            self._turns.clear()
            self._edit_no_more()
            self.composer.sent(text)

    def action_again(self) -> None:
        """Answer the last question anew."""
        if self.order(lambda session: session.regenerate()):
            self._turns.clear()

    def action_edit(self) -> None:
        """Change the last question."""
        turns = self.session.conversation.turns if self.session is not None else []
        places = [place for place, turn in enumerate(turns) if turn.role == "user"]
        if places:
            self._edit(places[-1])
        else:
            self.notify("There is no question to edit yet.", timeout=3)

    @work(group="dialog", exclusive=True)
    async def action_edit_any(self) -> None:
        """Choose a turn to change."""
        turns = self.session.conversation.turns if self.session is not None else []
        choices = [
            Choice(f"{at}", f"{turn.role:<9} {' '.join(turn.text.split())[:50]}") for at, turn in enumerate(turns)
        ]
        key = await self.app.push_screen_wait(Choose("Edit which turn?", choices, empty="nothing was said yet"))
        if key is not None:
            self._edit(int(key))

    def _edit(self, place: int) -> None:
        assert self.session is not None
        turn = self.session.conversation.turns[place]
        self.editing = place
        self.composer.put(turn.text)
        after = "enter answers it anew; what followed it goes" if turn.role == "user" else "enter changes the answer"
        self.composer.border_title = f"editing turn {place + 1}: {after}, esc leaves it"
        self.composer.focus()

    def _edit_no_more(self) -> None:
        if self.editing is not None:
            self.editing = None
            self.composer.border_title = ""
            self.composer.put("")

    def action_write(self) -> None:
        """Go to the line where one writes."""
        self.composer.focus()

    def interrupt(self) -> bool:
        session = self.session
        if session is None or not session.busy or session.stopping:
            return False
        session.stop()
        self.redraw()
        return True

    async def action_leave(self) -> None:
        """Stop the answer; else leave what is open, one thing at a time."""
        if self.interrupt():
            return
        if self.maximized is not None:
            self.minimize()
        elif self.editing is not None:
            self._edit_no_more()
        elif self.replayed is not None:
            self.close_trace()
            self.redraw()
        elif self.composer.has_focus:
            self.query_one("#tree").focus()
        else:
            await self.app.run_action("app.back")

    def close_trace(self) -> None:
        """Look at the conversation again."""
        self.trace = self.replayed = None

    # --- the worker ---------------------------------------------------------------------------------------------------

    def action_calibrate(self) -> None:
        """Measure plain decoding, and what a step of several trees costs here."""

        def measure(session: ChatSession) -> None:
            session.calibrate(list(dict.fromkeys([session.settings.tree, *CALIBRATION_TREES])))

        if self.order(measure):
            self.notify("Measuring plain decoding and the steps of some trees; esc stops it.", timeout=4)

    @work(exclusive=True, group="session")
    async def action_restart(self) -> None:
        """Start a new worker."""
        session = self.session
        if session is None or session.state in ("new", "closed"):
            return
        try:
            await asyncio.to_thread(session.restart)
        except HetSpecError as error:
            self.show_error(error)
        if self.is_whole:
            self.redraw()

    @work(exclusive=True, group="session")
    async def action_free(self) -> None:
        """End the worker, whose memory is free then; the conversation stays."""
        session = self.session
        if session is None or session.state in ("new", "closed"):
            return
        began = time.monotonic()
        if session.busy:
            session.stop()
        await asyncio.to_thread(session.close)
        if not self.is_whole:
            return
        self.notify(f"The models are gone, after {time.monotonic() - began:.1f} s.", timeout=3)
        self.refresh_bindings()
        self.redraw()

    def action_record(self) -> None:
        """Write a trace of every answer from now on, or no more."""
        self.recording = not self.recording
        folder = trace_folder() if self.recording else None
        if self.session is not None:
            self.session.recorder.folder = folder
        where = f"Every answer is written to {folder}" if folder else "Nothing is recorded any more"
        self.notify(where, timeout=4)
        self.redraw()

    @work(group="dialog", exclusive=True)
    async def action_new(self) -> None:
        """Begin another conversation."""
        session = self.session
        if session is None or not session.conversation.turns:
            return
        question = Confirm("Begin a new conversation?", "This one is lost unless w has saved it.", yes="Begin")
        if await self.app.push_screen_wait(question) and self.order_quietly(lambda: session.replace_conversation()):
            self._turns.clear()
            self.redraw()

    def order_quietly(self, what: Callable[[], Any]) -> bool:
        """Do something that needs no worker; whether it was done."""
        try:
            what()
        except HetSpecError as error:
            self.show_error(error)
            return False
        return True

    # --- looking ------------------------------------------------------------------------------------------------------

    def action_raw(self) -> None:
        """Show finished answers as Markdown, or every token in its colour."""
        self.raw = not self.raw
        self._turns.clear()
        self.redraw()

    def action_copy(self) -> None:
        """Put the last answer on the clipboard."""
        shown = self.replayed or (self.session.answer if self.session is not None else None)
        turns = self.session.conversation.turns if self.session is not None else []
        text = shown.text if shown is not None else turns[-1].text if turns else ""
        self._to_clipboard(text)

    def action_copy_all(self) -> None:
        """Put the conversation on the clipboard."""
        turns = self.session.conversation.turns if self.session is not None else []
        self._to_clipboard("\n\n".join(f"{turn.role}: {turn.text}" for turn in turns))

    def _to_clipboard(self, text: str) -> None:
        if text:
            self.app.copy_to_clipboard(text)
            self.notify(safe(text.replace("\n", " "))[:60], title="Copied", timeout=2)

    def action_maximize(self) -> None:
        """Give the pane with the focus the whole screen, or take it back."""
        if self.maximized is not None:
            self.minimize()
            return
        pane = self.talk if self.talk.has_focus else self.query_one("#tree-pane")
        self.maximize(pane, container=False)

    @property
    def settings(self) -> ChatSettings | None:
        """Settings of the next answer."""
        return self.session.settings if self.session is not None else None


def _same_machine(old: ChatConfig, new: ChatConfig) -> bool:
    """Whether figures of the one are comparable with those of the other."""
    return (old.base, old.backend, old.backend_options) == (new.base, new.backend, new.backend_options)
