"""The page of the chat: it takes what its worker says twenty times a second, and draws what is new.

It holds one session. The models stay loaded while another page is open; `X` frees them, and so does the end of the
dashboard. What can be done is in `deeds`; what is drawn where is here.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content

from hetspec_core.events.chat import Garbage
from hetspec_core.service.chat import Answer
from hetspec_tui.screens.chat import texts
from hetspec_tui.screens.chat.deeds import ChatDeeds
from hetspec_tui.screens.chat.meters import Meters
from hetspec_tui.screens.chat.playback import Playback
from hetspec_tui.screens.chat.setup import Setup
from hetspec_tui.screens.chat.tree_pane import TreePane, Words
from hetspec_tui.widgets.composer import Composer
from hetspec_tui.widgets.draft_tree import VIEWS
from hetspec_tui.widgets.transcript import Transcript, TranscriptEntry

BEAT_S = 0.05
_METERS_S = 0.2
_TEXT_S = 0.1
_DRAWN = ("#chat-head", "#talk", "#tree-pane #why", "#meters", "#composer")
_MOST_EVENTS = 200  # taken at a time, so that a burst does not stop the keys


class ChatScreen(ChatDeeds):
    """The page of the chat."""

    CSS_PATH = "chat.tcss"
    CRUMB = "Chat"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("i", "write", "Write", id="chat.write", tooltip="Go to the line where one writes"),
        Binding("f2,s", "settings", "Settings", id="chat.settings", tooltip="Base, draft, tree, temperature..."),
        Binding("f3,o", "open_trace", "Recorded", id="chat.open-trace", tooltip="Look at a recorded answer"),
        Binding("f4,m", "simulate", "Simulator", id="chat.simulate", tooltip="What other tree shapes would bring"),
        Binding("f5,a", "compare", "A/B", id="chat.compare", tooltip="The same question two ways"),
        Binding("r", "again", "Again", id="chat.again", tooltip="Answer the last question anew"),
        Binding("e", "edit", "Edit", id="chat.edit", tooltip="Change the last question and answer it anew"),
        Binding("E", "edit_any", "Edit a turn", id="chat.edit-any", show=False),
        Binding("d", "draft", "Draft", id="chat.draft", show=False),
        Binding("t", "tree", "Tree shape", id="chat.tree", show=False),
        Binding("M", "raw", "Markdown", id="chat.raw", show=False, tooltip="Markdown, or every token in its colour"),
        Binding("b", "calibrate", "Measure", id="chat.calibrate", show=False, tooltip="Plain decoding, step costs"),
        Binding("R", "record", "Record", id="chat.record", show=False, tooltip="Write a trace of every answer"),
        Binding("x", "export", "Export", id="chat.export", show=False, tooltip="The recorded answer: SVG, HTML, JSON"),
        Binding("c", "copy", "Copy answer", id="chat.copy", show=False),
        Binding("C", "copy_all", "Copy everything", id="chat.copy-all", show=False),
        Binding("w", "save", "Save", id="chat.save", show=False),
        Binding("l", "load", "Load", id="chat.load", show=False, tooltip="A saved conversation"),
        Binding("n", "new", "New conversation", id="chat.new", show=False),
        Binding("X", "free", "Free memory", id="chat.free", show=False, tooltip="End the worker; nothing is lost"),
        Binding("ctrl+r", "restart", "Restart", id="chat.restart", show=False, tooltip="A new worker"),
        Binding("f", "maximize", "Full", id="chat.maximize", show=False, tooltip="The pane on the whole screen"),
        Binding("escape", "leave", "Stop", id="chat.stop", show=False, tooltip="Stop the answer, else one step back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.playback = Playback()
        self._next_meters = self._next_text = 0.0
        self._stale = True  # something has come that is not drawn yet
        self._text_waits = self._meters_wait = True

    def compose_page(self) -> ComposeResult:
        yield Words(id="chat-head")
        with Container(id="chat-body"):
            yield Transcript(id="talk")
            with Vertical(id="side"):
                yield TreePane(self.playback, id="tree-pane")
                yield Meters(id="meters")
        yield Composer(placeholder="ask something; enter sends, esc leads to the keys", id="composer")

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    @property
    def talk(self) -> Transcript:
        """What was said."""
        return self.query_one(Transcript)

    @property
    def tree_pane(self) -> TreePane:
        """The tree and its step."""
        return self.query_one(TreePane)

    def on_mount(self) -> None:
        self.set_interval(BEAT_S, self.beat)
        (self.talk if self.desk.read_only else self.composer).focus()
        self.begin()

    async def on_unmount(self) -> None:
        if self.session is not None:
            await asyncio.to_thread(self.session.close)

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._stale = True

    # --- what comes ---------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Take what has come and draw what is new; what happens while another screen is on top is drawn later."""
        session = self.session
        if session is not None:
            before = session.state
            events = session.poll(_MOST_EVENTS)
            self._stale |= bool(events) or session.state != before
            if session.state != before:
                self.refresh_bindings()
                self.tell(before, session.state)
            if any(isinstance(event, Garbage) for event in events) and session.garbage <= len(events):
                self.notify("The worker said something that cannot be read; it is left out.", severity="warning")
        if not self.is_current:
            return
        now = time.monotonic()
        if self.playback.tick(now):
            self.redraw()
        elif self._stale or self._text_waits or self._meters_wait:
            self.draw(now)

    def redraw(self) -> None:
        """Draw everything that is shown again."""
        self._stale = True
        self.draw(time.monotonic(), at_once=True)

    @on(TreePane.Stepped)
    def _stepped(self) -> None:
        self.redraw()

    @property
    def answer(self) -> Answer | None:
        """The answer that is looked at: of a recorded one, or the last of the conversation."""
        if self.replayed is not None:
            return self.replayed
        session = self.session
        return None if session is None or session.compares else session.answer

    def draw(self, now: float, *, at_once: bool = False) -> None:
        """Draw what is new: the tree at every beat, text and figures a little less often."""
        if not self.is_mounted or not all(self.query(part) for part in _DRAWN):
            return  # it is being put together, or taken apart: its parts come and go one by one
        at_once |= self.playback.follow(self.answer)
        if self._stale or at_once:
            self._stale, self._text_waits, self._meters_wait = False, True, True
            self.tree_pane.draw()
            self._draw_head()
        if self._text_waits and (at_once or now >= self._next_text):
            self._text_waits, self._next_text = False, now + _TEXT_S
            self._draw_talk()
        if self._meters_wait and (at_once or now >= self._next_meters):
            self._meters_wait, self._next_meters = False, now + _METERS_S
            self._draw_meters()

    def _draw_head(self) -> None:
        head = self.query_one("#chat-head", Words)
        session, trace = self.session, self.trace
        if trace is not None:
            base = trace.header.base.name if trace.header.base else ""
            head.show(texts.replay_text(trace.header.name, trace.header.settings, base))
        elif session is not None:
            recording = session.recorder.folder is not None
            head.show(texts.head_text(session, recording=recording, read_only=self.desk.read_only))
        else:
            head.show(Content.styled("looking for a base and its newest draft", "dim"))

    def _draw_talk(self) -> None:
        playback = self.playback
        here = None if playback.live or not playback.count or playback.answer is None else self._index()
        self.talk.show(self.entries(), here)
        if here is not None:
            self.talk.bring_into_view(here)

    def _index(self) -> int:
        answer = self.playback.answer
        return answer.steps[self.playback.place].index if answer is not None else -1

    def entries(self) -> list[TranscriptEntry]:
        """Everything that was said, the answer that is looked at last."""
        answer, session = self.answer, self.session
        stepping = not self.playback.live
        if self.replayed is not None and self.trace is not None:
            said = [texts.message_entry(at, one) for at, one in enumerate(self.trace.header.messages)]
            return [*said, texts.answer_entry("replay", self.replayed)]
        if session is None or (not session.conversation.turns and answer is None):
            return [texts.welcome(session, read_only=self.desk.read_only)]
        turns = session.conversation.turns
        shown = [self._turn(at) for at in range(len(turns))]
        if answer is None:
            return shown
        if answer.ended and turns and turns[-1].role == "assistant" and turns[-1].text == answer.text:
            if stepping and answer.steps:
                shown[-1] = texts.answer_entry(f"{len(turns) - 1}", answer)
        elif answer.pieces or not answer.ended:
            shown.append(texts.answer_entry(f"{len(turns)}", answer))
        trouble = texts.trouble_entry(answer)
        return shown if trouble is None else [*shown, trouble]

    def _turn(self, at: int) -> TranscriptEntry:
        """A turn as an entry; the same object as long as nothing of it changes, so that nothing is drawn anew."""
        turn = self.session.conversation.turns[at] if self.session is not None else None
        assert turn is not None
        known = self._turns.get(at)
        if known is None or known[0] is not turn or known[1] != self.raw:
            known = (turn, self.raw, texts.turn_entry(at, turn, coloured=self.raw))
            self._turns[at] = known
        return known[2]

    def _draw_meters(self) -> None:
        session, seen = self.session, self.playback.seen
        meters = self.query_one(Meters)
        if self.replayed is not None and self.trace is not None:
            context = self.trace.header.base.context_tokens if self.trace.header.base else 0
            meters.show(self.replay_meters.figures(seen, self.replayed.settings.label, context))
        elif session is not None:
            context = session.base.context_tokens if session.base else 0
            meters.show(session.meters.figures(seen, session.settings.label, context))

    # --- kept for the next time ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "view": self.tree_pane.drawing.chosen,
            "raw": self.raw,
            "record": self.recording,
            "speed": self.playback.speed,
            "setup": self.setup.to_json(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("view") in VIEWS:
            self.tree_pane.drawing.choose(state["view"])
        self.raw = state.get("raw") is True
        self.recording = state.get("record") is True and not self.desk.read_only
        if isinstance(state.get("speed"), float):
            self.playback.speed = state["speed"]
        if isinstance(state.get("setup"), dict):
            self.setup = Setup.of(state["setup"])
