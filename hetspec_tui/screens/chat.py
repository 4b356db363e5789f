"""The chat page: a conversation with base and draft, the draft tree of every verify step, meters, A/B, replays.

The session with its worker belongs to the page and outlives a change of page; `F` or leaving the dashboard frees it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import ContentSwitcher, Input, Static

from hetspec_core.errors import HetSpecError
from hetspec_tui.chatting import orders, words
from hetspec_tui.chatting.deeds import ChatDeeds
from hetspec_tui.chatting.player import Player
from hetspec_tui.formatting import safe
from hetspec_tui.widgets.draft_tree import DraftTree

if TYPE_CHECKING:
    from hetspec_core.service.chat import Answer, ChatSession

TICK_S = 1 / 15
WELCOME = (
    "Talk to a base with a draft, and see which tokens the draft got right.\n\n"
    "  Type a question and press Enter: the base is loaded, with the newest draft trained on it.\n"
    "  o   explores a recorded answer of the real pair, without loading anything\n"
    "  B   another base        d   another draft        t   another tree\n\n"
    "Letters are keys when the line below is not chosen: Esc leaves it, i comes back."
)


class ChatScreen(ChatDeeds):
    """Conversation on the left, draft tree and meters on the right."""

    CRUMB = "Chat"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("i", "write", "Write", id="chat.write"),
        Binding("d", "draft", "Draft", id="chat.draft"),
        Binding("t", "tree", "Tree", id="chat.tree"),
        Binding("b", "compare", "A/B", id="chat.compare"),
        Binding("o", "replay", "Replay", id="chat.replay"),
        Binding("p", "simulate", "Predict", id="chat.simulate"),
        Binding("k", "calibrate", "Calibrate", id="chat.calibrate"),
        Binding("left", "step(-1)", "Step back", id="chat.back", show=False),
        Binding("right", "step(1)", "Step on", id="chat.on", show=False),
        Binding("space", "pause", "Pause", id="chat.pause", show=False),
        Binding("less_than_sign", "speed(-1)", "Slower", id="chat.slower", show=False),
        Binding("greater_than_sign", "speed(1)", "Faster", id="chat.faster", show=False),
        Binding("g", "again", "Answer again", id="chat.again", show=False),
        Binding("e", "edit", "Edit question", id="chat.edit", show=False),
        Binding("T", "temperature", "Temperature", id="chat.temperature", show=False),
        Binding("P", "system", "System prompt", id="chat.system", show=False),
        Binding("B", "base", "Base", id="chat.base", show=False),
        Binding("m", "markdown", "Markdown", id="chat.markdown", show=False),
        Binding("c", "copy", "Copy answer", id="chat.copy", show=False),
        Binding("R", "record", "Record", id="chat.record", show=False),
        Binding("S", "save", "Save", id="chat.save", show=False),
        Binding("L", "load", "Load", id="chat.load", show=False),
        Binding("E", "export", "Export", id="chat.export", show=False),
        Binding("N", "new", "New conversation", id="chat.new", show=False),
        Binding("r", "restart", "Restart worker", id="chat.restart", show=False),
        Binding("F", "free", "Free memory", id="chat.free", show=False),
        Binding("up", "history(-1)", "Earlier question", id="chat.history_up", show=False),
        Binding("down", "history(1)", "Later question", id="chat.history_down", show=False),
    ]
    CHANGES = frozenset({"save", "record"})

    def __init__(self) -> None:
        super().__init__()
        self.session: ChatSession | None = None
        self.player = Player()
        self.recipe = orders.RECIPE
        self.wanted_draft: str | None = None
        self.markdown = True
        self.record = False
        self.command: list[str] | None = None  # the worker's command line; tests have one without a model
        self._asked: list[str] = []
        self._recalled = 0
        self._waiting = ""  # a question that waits for the session to open
        self._drawn: tuple[Any, ...] = ()
        self._ticked = time.monotonic()

    def compose_page(self) -> ComposeResult:
        with Container(id="body"):
            with Vertical(id="talk"):
                with ContentSwitcher(initial="welcome", id="left"):
                    yield Static(WELCOME, id="welcome", markup=False)
                    yield VerticalScroll(id="conversation")
                    with Vertical(id="sides"):
                        with Container(id="side-texts"):
                            with VerticalScroll(classes="side"):
                                yield Static(id="side-left")
                            with VerticalScroll(classes="side"):
                                yield Static(id="side-right")
                        yield Static(id="verdict")
                    with VerticalScroll(id="prediction-box"):
                        yield Static(id="prediction")
                yield Static(id="status", markup=False)
                yield Input(placeholder="ask something", id="question")
            with Vertical(id="look"):
                yield DraftTree(id="tree", empty="the draft tree of each verify step appears here")
                yield Static(id="why", markup=False)
                yield Static(id="meters")

    # --- life ---------------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self.query_one("#meters").border_title = "meters"
        self.query_one("#left").border_subtitle = words.LEGEND
        self.query_one("#question", Input).focus()
        self.set_interval(TICK_S, self.tick)
        self.draw()

    def on_unmount(self) -> None:
        if self.session is not None:
            self.session.close(0.2)

    def receive(self, about: dict[str, Any]) -> None:
        draft, recipe = about.get("draft"), about.get("recipe")
        if isinstance(recipe, str) and recipe:
            self.recipe = recipe
        if isinstance(draft, str) and draft:
            self.wanted_draft = draft
            self.open_session(fresh=True)
        trace = about.get("trace")
        if isinstance(trace, str):
            self.open_trace(trace)

    def state(self) -> dict[str, Any]:
        return {"markdown": self.markdown, "view": self.draft_tree.view, "record": self.record}

    def restore(self, state: dict[str, Any]) -> None:
        self.markdown = bool(state.get("markdown", True))
        self.record = bool(state.get("record", False))
        if state.get("view") in ("tree", "table", "compact"):
            self.draft_tree.view = state["view"]

    @property
    def draft_tree(self) -> DraftTree:
        """The draft tree."""
        return self.query_one("#tree", DraftTree)

    @work(exclusive=True, group="chat-open")
    async def open_session(self, *, fresh: bool = False) -> None:
        """Open a session, and ask what waits for it; with `fresh`, in the place of another one."""
        from hetspec_core.service.chat import ChatSession
        from hetspec_core.service.traces import trace_folder

        if self.session is not None and not fresh:
            return
        recipe, draft = self.recipe, self.wanted_draft
        config = await self.ask(lambda workbench: orders.open_config(workbench, recipe, draft))
        if config is None:
            return
        old, self.session = self.session, None
        if old is not None:
            await self.close_session(old)
        session = ChatSession(config, command=self.command, record=trace_folder() if self.record else None)
        session.start()
        self.session = session
        self.player.follow(None)
        waiting, self._waiting = self._waiting, ""
        if waiting:
            self.say(waiting)
        self.draw()

    # --- asking -------------------------------------------------------------------------------------------------------

    @on(Input.Submitted, "#question")
    def take_question(self, event: Input.Submitted) -> None:
        """Ask what was written."""
        text = event.value.strip()
        if not text:
            return
        if self.session is None:
            self._waiting = text
            self.open_session()
        elif not self.say(text):
            return
        event.input.value = ""
        self._asked.append(text)
        self._recalled = len(self._asked)

    def say(self, text: str) -> bool:
        """Ask the session; False, and the reason is shown, when it cannot be asked now."""
        return self.order(lambda session: session.send(text))

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take what came from the worker, let a replay go on, and draw what is new."""
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        if not self.is_current:
            if self.session is not None:
                self.session.poll()  # what comes while another page is open is not lost
            return
        changed = self.player.advance(passed)
        if self.session is not None and self.session.poll():
            changed = True
        if changed or self._drawn != self._what():
            self.draw()

    def _what(self) -> tuple[Any, ...]:
        """What the picture depends on besides what comes."""
        session, player = self.session, self.player
        answer = session.answer if session is not None else None
        return (
            session.state if session is not None else "",
            session.settings if session is not None else None,
            len(session.conversation.turns) if session is not None else 0,
            answer.state if answer is not None else "",
            player.place,
            player.trace is not None,
            player.playing,
            self.markdown,
            self.recipe,
        )

    def draw(self) -> None:
        """Draw everything that is seen."""
        if not self.query("#status"):
            return
        session = self.session
        if session is not None and self.player.trace is None:
            self.player.follow(session.answer)
        self._drawn = self._what()
        self.draw_left()
        self.draw_look()
        self.query_one("#status", Static).update(self.status())

    def draw_left(self) -> None:
        """The conversation, the two sides, or a replay."""
        session, left = self.session, self.query_one("#left", ContentSwitcher)
        if left.current == "prediction-box":
            return
        if self.player.trace is not None or (session is not None and session.conversation.turns):
            left.current = "conversation"
        if self.player.trace is not None and self.player.answer is not None:
            self.draw_turns(replayed=self.player.answer)
        elif session is not None and session.comparison is not None and self.comparing:
            left.current = "sides"
            self.draw_sides()
        elif session is not None and session.conversation.turns:
            self.draw_turns()

    def draw_turns(self, replayed: Answer | None = None) -> None:
        """One view a turn; only those that changed are drawn again."""
        self.turns_of(replayed)

    def draw_look(self) -> None:
        """Tree, why it accepted no more, meters."""
        from hetspec_core.service.chat import Meters, best_rejected

        player, session, tree = self.player, self.session, self.draft_tree
        step = player.shown
        tree.show(step)
        count = len(player.steps)
        place = (count if player.place is None else player.place + 1) if count else 0
        following = "" if player.place is None else ", back to the newest with →"
        tree.border_title = f"draft tree  step {place} of {count}{following}" if count else "draft tree"
        tree.border_subtitle = "←→ step  v view" + ("  space pause  < > speed" if player.trace is not None else "")
        rejection = best_rejected(step) if step is not None else None
        why = f"✗ {safe(rejection.sentence)}" if rejection is not None else ""
        self.query_one("#why", Static).update(Content(why))
        meters = self.query_one("#meters", Static)
        if player.trace is not None and player.answer is not None:
            figures = Meters().figures(player.answer, player.answer.settings.label)
        elif session is not None:
            figures = session.figures
        else:
            meters.update(Content.styled("accept length, tokens/s, time and cache appear here", "$foreground-muted"))
            return
        lines = words.meter_lines(figures, meters.size.width or 60)
        meters.update(Content("\n").join(lines))

    def status(self) -> str:
        """One line: what is under way, and how the next answer is made."""
        session, player = self.session, self.player
        if player.trace is not None and player.answer is not None:
            state = "playing" if player.playing else "paused" if not player.answer.ended else "at its end"
            return f"replay {state}, {player.speed:g} steps/s · esc goes back to the chat"
        if session is None:
            return f"nothing is loaded · recipe {self.recipe}"
        if session.state == "dead" and session.death is not None:
            return f"✖ r restarts the worker, the conversation is kept: {safe(session.death.message)}"
        doing = str(session.state)
        if session.loading is not None:
            doing = f"loading {safe(session.loading.what)} {session.loading.done:.0%}"
        record = " · recording" if session.recorder.folder is not None else ""
        return f"{doing} · {words.settings_words(session.settings)}{record}"

    # --- errors -------------------------------------------------------------------------------------------------------

    def order(self, what: Any) -> bool:
        """Have the session do something that returns at once; an error is shown."""
        if self.session is None:
            self.notify("nothing is loaded yet: ask something first", severity="warning")
            return False
        try:
            what(self.session)
        except HetSpecError as error:
            self.show_error(error)
            return False
        self.draw()
        return True
