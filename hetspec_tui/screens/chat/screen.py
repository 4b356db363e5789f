"""The page of the chat: it takes what its worker says twenty times a second, and draws what is new.

The models stay loaded while another page is open; `X` frees them, and so does the end of the dashboard.
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
from textual.widgets import Static

from hetspec_core.events.chat import Garbage, Notice
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.events.trace import Trace
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.conversation import Turn
from hetspec_core.service.chat.meters import SessionTotals
from hetspec_core.service.chat.session import ChatSession
from hetspec_tui.page import Page
from hetspec_tui.screens.chat import texts
from hetspec_tui.screens.chat.commands import ChatCommands
from hetspec_tui.screens.chat.conversation import ChatConversation
from hetspec_tui.screens.chat.setup import NEWEST, Setup
from hetspec_tui.screens.chat.texts import Meters
from hetspec_tui.screens.chat.tree_pane import Playback, TreePane
from hetspec_tui.widgets.composer import Composer
from hetspec_tui.widgets.draft_tree import VIEWS
from hetspec_tui.widgets.transcript import Transcript, TranscriptEntry

BEAT_S = 0.05
_METERS_S = 0.2
_TEXT_S = 0.1
_DRAWN = ("#chat-head", "#talk", "#tree-pane #why", "#meters", "#composer")
_MOST_EVENTS = 200  # taken at a time, so that a burst does not stop the keys


class ChatScreen(Page):
    """The page of the chat."""

    CSS_PATH = "chat.tcss"
    CRUMB = "Chat"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("i", "write", "Write", id="chat.write", tooltip="Go to the line where one writes"),
        Binding("f2,s", "choose('settings')", "Settings", id="chat.settings", tooltip="Base, draft, tree, ..."),
        Binding("f3,o", "choose('open_trace')", "Recorded", id="chat.open-trace", tooltip="Look at a recorded answer"),
        Binding("f4,m", "choose('simulate')", "Simulator", id="chat.simulate", tooltip="Compare tree shapes"),
        Binding("f5,a", "choose('compare')", "A/B", id="chat.compare", tooltip="The same question two ways"),
        Binding("r", "talk('again')", "Again", id="chat.again", tooltip="Answer the last question anew"),
        Binding("e", "talk('edit')", "Edit", id="chat.edit", tooltip="Change the last question and answer it anew"),
        Binding("E", "talk('edit_any')", "Edit a turn", id="chat.edit-any", show=False),
        Binding("d", "choose('draft')", "Draft", id="chat.draft", show=False),
        Binding("t", "choose('tree')", "Tree shape", id="chat.tree", show=False),
        Binding("M", "raw", "Markdown", id="chat.raw", show=False, tooltip="Markdown, or every token in its colour"),
        Binding("b", "talk('calibrate')", "Measure", id="chat.calibrate", show=False, tooltip="Plain decoding, steps"),
        Binding("R", "talk('record')", "Record", id="chat.record", show=False, tooltip="Write a trace of every answer"),
        Binding(
            "x",
            "choose('export')",
            "Export",
            id="chat.export",
            show=False,
            tooltip="As SVG, HTML, JSON",
        ),
        Binding("c", "talk('copy')", "Copy answer", id="chat.copy", show=False),
        Binding("C", "talk('copy_all')", "Copy everything", id="chat.copy-all", show=False),
        Binding("w", "choose('save')", "Save", id="chat.save", show=False),
        Binding("l", "choose('load')", "Load", id="chat.load", show=False, tooltip="A saved conversation"),
        Binding("n", "talk('new')", "New conversation", id="chat.new", show=False),
        Binding("X", "talk('free')", "Free memory", id="chat.free", show=False, tooltip="End the worker"),
        Binding("ctrl+r", "talk('restart')", "Restart", id="chat.restart", show=False, tooltip="A new worker"),
        Binding("f", "maximize", "Full", id="chat.maximize", show=False, tooltip="The pane on the whole screen"),
        Binding("escape", "leave", "Stop", id="chat.stop", show=False, tooltip="Stop the answer, else one step back"),
    ]

    CHANGES: ClassVar[frozenset[str]] = frozenset(
        {"again", "edit", "edit_any", "calibrate", "record", "restart", "compare", "new", "export", "save", "load"}
        | {"draft", "tree", "settings", "free"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.conversation = ChatConversation(self, self)
        self.commands = ChatCommands(self, self, self.conversation)
        self.playback = Playback()
        self.trace: Trace | None = None
        self.replayed: Answer | None = None
        self.replay_meters = SessionTotals()
        self.raw = False
        self._turns: dict[int, tuple[Turn, bool, TranscriptEntry]] = {}
        self._next_meters = self._next_text = 0.0
        self._stale = True  # something has come that is not drawn yet
        self._text_waits = self._meters_wait = True

    def compose_page(self) -> ComposeResult:
        yield Static(id="chat-head", markup=False)
        with Container(id="chat-body"):
            yield Transcript(id="talk")
            with Vertical(id="side"):
                yield TreePane(self.playback, id="tree-pane")
                yield Meters(id="meters")
        yield Composer(placeholder="ask something; enter sends, esc leads to the keys", id="composer")

    @property
    def session(self) -> ChatSession | None:
        return self.conversation.session

    @property
    def settings(self) -> ChatSettings | None:
        return self.session.settings if self.session is not None else None

    @property
    def composer(self) -> Composer:
        return self.query_one(Composer)

    @property
    def talk(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def tree_pane(self) -> TreePane:
        return self.query_one(TreePane)

    def on_mount(self) -> None:
        self.set_interval(BEAT_S, self.beat)
        (self.talk if self.desk.read_only else self.composer).focus()
        self.conversation.begin()

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
                self.conversation.tell(before, session.state)
            for event in events:
                if isinstance(event, Notice):
                    self.notify(event.text, severity="warning")
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
        session, trace = self.session, self.trace
        if trace is not None:
            base = trace.header.base.name if trace.header.base else ""
            words = texts.replay_text(trace.header.name, trace.header.settings, base)
        elif session is not None:
            recording = session.recorder.folder is not None
            words = texts.head_text(session, recording=recording, read_only=self.desk.read_only)
        else:
            words = Content.styled("looking for a base and its newest draft", "dim")
        self.query_one("#chat-head", Static).update(words, layout=False)

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

    # --- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("talk", "choose") and parameters[0] in self.CHANGES and self.desk.read_only:
            return None
        return super().check_action(action, parameters)

    def action_talk(self, name: str) -> None:
        done = getattr(self.conversation, name)()
        if done is not None:
            self.run_worker(done, group="session" if name in ("restart", "free") else "dialog", exclusive=True)

    def action_choose(self, name: str) -> None:
        self.run_worker(getattr(self.commands, name)(), group="dialog", exclusive=True)

    @on(Composer.Sent)
    def send(self, message: Composer.Sent) -> None:
        """Ask what was written, or put it in the place of the turn that is edited."""
        self.conversation.send(message.text)

    def action_write(self) -> None:
        self.composer.focus()

    def interrupt(self) -> bool:
        return self.conversation.interrupt()

    async def action_leave(self) -> None:
        """Stop the answer; else leave what is open, one thing at a time."""
        if self.interrupt():
            return
        if self.maximized is not None:
            self.minimize()
        elif self.conversation.editing is not None:
            self.conversation.edit_no_more()
        elif self.replayed is not None:
            self.close_trace()
            self.redraw()
        elif self.composer.has_focus:
            self.query_one("#tree").focus()
        else:
            await self.app.run_action("app.back")

    def close_trace(self) -> None:
        self.trace = self.replayed = None

    def action_raw(self) -> None:
        self.raw = not self.raw
        self.forget_turns()
        self.redraw()

    def action_maximize(self) -> None:
        if self.maximized is not None:
            self.minimize()
            return
        pane = self.talk if self.talk.has_focus else self.query_one("#tree-pane")
        self.maximize(pane, container=False)

    def show_trace(self, trace: Trace) -> None:
        self.trace, self.replayed, self.replay_meters = trace, Answer.of(trace), SessionTotals()
        self.replay_meters.add(self.replayed)
        self.playback.follow(self.replayed)
        self.playback.play(time.monotonic())
        self.query_one("#tree").focus()
        self.redraw()

    def forget_turns(self) -> None:
        self._turns.clear()

    # --- what it is told, and what is kept for the next time ----------------------------------------------------------

    def receive(self, about: dict[str, Any]) -> None:
        parts = {key: about[key] for key in ("draft", "recipe", "backend", "url") if isinstance(about.get(key), str)}
        if "recipe" in parts:
            parts = {"base": "", "draft": NEWEST} | parts
        if parts:
            self.conversation.begin(**parts)
        if isinstance(about.get("trace"), str):
            self.run_worker(self.commands.show_recorded(about["trace"]), group="dialog", exclusive=True)

    def state(self) -> dict[str, Any]:
        return {
            "view": self.tree_pane.drawing.chosen,
            "raw": self.raw,
            "record": self.conversation.recording,
            "speed": self.playback.speed,
            "setup": self.conversation.setup.to_json(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("view") in VIEWS:
            self.tree_pane.drawing.choose(state["view"])
        self.raw = state.get("raw") is True
        self.conversation.recording = state.get("record") is True and not self.desk.read_only
        if isinstance(state.get("speed"), float):
            self.playback.speed = state["speed"]
        if isinstance(state.get("setup"), dict):
            self.conversation.setup = Setup.of(state["setup"])
