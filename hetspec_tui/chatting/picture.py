"""How the chat page draws turns, both sides of an A/B, and replays. What the keys do is in `deeds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from hetspec_tui.chatting import words
from hetspec_tui.chatting.player import Player
from hetspec_tui.formatting import number, safe
from hetspec_tui.page import Page
from hetspec_tui.widgets.draft_tree import DraftTree
from hetspec_tui.widgets.turn_view import TurnView

if TYPE_CHECKING:
    from hetspec_core.service.chat import Answer, ChatSession


class ChatPicture(Page):
    """The part of the chat page that draws; what it draws is made by the page."""

    session: ChatSession | None
    player: Player
    recipe: str
    wanted_draft: str | None
    markdown: bool
    record: bool
    comparing = False
    trace_word = ""
    _asked: list[str]
    _recalled: int

    @property
    def draft_tree(self) -> DraftTree:
        """The draft tree."""
        raise NotImplementedError

    def open_session(self, *, fresh: bool = False) -> Any:
        """Open a session."""
        raise NotImplementedError

    def draw(self) -> None:
        """Draw everything that is seen."""
        raise NotImplementedError

    def order(self, what: Any) -> bool:
        """Have the session do something."""
        raise NotImplementedError

    # --- what is seen -------------------------------------------------------------------------------------------------

    def turns_of(self, replayed: Answer | None) -> None:
        """Draw the conversation, or a replayed answer, in one view a turn."""
        wanted: list[tuple[str, str, Content, str]] = []
        step = self.player.shown if self.player.place is not None or replayed is not None else None
        mark = step.index if step is not None else -1
        answer = replayed
        if replayed is not None:
            for message in replayed.messages:
                wanted.append((message.role, message.role, Content(words.readable(message.content)), ""))
        elif self.session is not None:
            answer = self.session.answer
            wanted += [self._turn(turn) for turn in self.session.conversation.turns]
        if answer is not None and (replayed is not None or (not answer.ended and not self._compares())):
            wanted.append(("assistant", self._heading(answer), words.pieces_content(answer.pieces, mark), ""))
        elif answer is not None and answer.error and not self._compares():
            said = f"{answer.error}\n{answer.hint}".strip()
            wanted.append(("note", f"✖ {answer.state}", Content(words.readable(said)), ""))
        elif answer is not None and mark >= 0 and wanted and wanted[-1][0] == "assistant":
            wanted[-1] = ("assistant", wanted[-1][1], words.pieces_content(answer.pieces, mark), "")
        self._fill(wanted)

    def _compares(self) -> bool:
        return self.session is not None and self.session.compares

    def _turn(self, turn: Any) -> tuple[str, str, Content, str]:
        from hetspec_core.service.chat import pieces_of

        if turn.role == "user":
            return "user", "you", Content(words.readable(turn.text)), ""
        facts = [safe(turn.label), f"{turn.tokens} tokens"]
        if turn.accept_length is not None:
            facts.append(f"accept length {turn.accept_length:.2f}")
        if turn.tokens_per_s:
            facts.append(f"{number(turn.tokens_per_s, 3)} tokens/s")
        if turn.stop_reason and turn.stop_reason != "stop":
            facts.append(turn.stop_reason)
        source = turn.text if self.markdown else ""
        return "assistant", " · ".join(fact for fact in facts if fact), words.pieces_content(pieces_of(turn)), source

    def _heading(self, answer: Answer) -> str:
        length = answer.stats.accept_length
        facts = [safe(answer.settings.label), answer.state, f"{len(answer.tokens)} tokens"]
        if length is not None:
            facts.append(f"accept length {length:.2f}")
        return " · ".join(facts)

    def _fill(self, wanted: list[tuple[str, str, Content, str]]) -> None:
        box = self.query_one("#conversation", VerticalScroll)
        views = list(box.query(TurnView))
        at_end = box.scroll_offset.y >= box.max_scroll_y - 2
        for place, (speaker, heading, content, source) in enumerate(wanted):
            if place < len(views) and views[place].has_class(f"-{speaker}"):
                views[place].show(heading, content)
            else:
                for old in views[place:]:
                    old.remove()
                del views[place:]
                views.append(TurnView(heading, speaker, content))
                box.mount(views[-1])
            view = views[place]
            if getattr(view, "shown_source", None) != source:
                view.shown_source = source  # type: ignore[attr-defined]
                self.call_after_refresh(view.render_markdown, source or None)
        for old in views[len(wanted) :]:
            old.remove()
        if at_end:
            box.scroll_end(animate=False)

    def draw_sides(self) -> None:
        """Both answers of an A/B, and what came of it."""
        comparison = self.session.comparison if self.session is not None else None
        if comparison is None:
            return
        for side in ("left", "right"):
            answers = comparison.of(side)  # type: ignore[arg-type]
            settings = comparison.settings(side)  # type: ignore[arg-type]
            title = Content.styled(f"{safe(settings.label)}\n", "bold")
            body = words.pieces_content(answers[-1].pieces) if answers else Content.styled("waits", "$foreground-muted")
            self.query_one(f"#side-{side}", Static).update(Content.assemble(title, body))
        self.query_one("#verdict", Static).update(Content("\n").join(words.verdict_lines(comparison)))
