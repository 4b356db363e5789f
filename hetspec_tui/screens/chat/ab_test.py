"""A/B: the same question to two ways of decoding, side by side, and the verdict. The session is the chat's."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from hetspec_core.errors import HetSpecError
from hetspec_core.service.chat.answer import Answer, shown
from hetspec_core.service.chat.meters import Comparison, ComparisonResult
from hetspec_core.service.chat.session import ChatSession
from hetspec_tui.formatting import places, safe
from hetspec_tui.page import Page
from hetspec_tui.screens.chat import texts
from hetspec_tui.widgets.transcript import Transcript

LOOK_S = 0.1


class ABTestScreen(Page):
    """Two answers to one question.

    Args:
        session: which compares now.
    """

    CSS_PATH = "chat.tcss"
    CRUMB = "A/B"
    CHANGES: ClassVar[frozenset[str]] = frozenset({"again"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "again", "Once more", id="duel.again", tooltip="Both again, the other one first"),
        Binding("c", "copy", "Copy verdict", id="duel.copy"),
        Binding("escape", "leave", "Stop / Back", id="duel.stop"),
    ]

    def __init__(self, session: ChatSession) -> None:
        super().__init__()
        assert session.comparison is not None
        self.session = session
        self.comparison: Comparison = session.comparison
        self._drawn: tuple[object, ...] = ()

    def compose_page(self) -> ComposeResult:
        yield Static(id="ab-question", markup=False)
        with Horizontal(id="ab-body"):
            for side in ("left", "right"):
                with Vertical(classes="ab-side"):
                    yield Static(id=f"ab-{side}-head", markup=False)
                    yield Transcript(id=f"ab-{side}")
        yield Static(id="ab-verdict", markup=False)

    def on_mount(self) -> None:
        self.query_one("#ab-left").focus()
        self.set_interval(LOOK_S, self.look)
        self.look()

    def look(self) -> None:
        """Draw what is new; the chat below takes what its worker says."""
        comparison = self.comparison
        now = (comparison, self.session.state, *((len(one.tokens), one.state) for _, one in comparison.answers))
        if now == self._drawn or not self.is_current:
            return
        self._drawn = now
        question = comparison.messages[-1].content
        words = Content.assemble(("both are asked  ", "dim"), (shown(question), "bold"))
        self.query_one("#ab-question", Static).update(words, layout=False)
        self._draw_side("left", "A")
        self._draw_side("right", "B")
        self.query_one("#ab-verdict", Static).update(self._verdict(), layout=False)

    def _draw_side(self, side: str, letter: str) -> None:
        comparison = self.comparison
        answers = comparison.of("left" if side == "left" else "right")
        settings = comparison.left if side == "left" else comparison.right
        answer: Answer | None = answers[-1] if answers else None
        state = "waits" if answer is None else "answers" if not answer.ended else answer.state
        words = Content.assemble((f" {letter} ", "reverse bold"), (f" {safe(settings.label)} ", "bold"), (state, "dim"))
        self.query_one(f"#ab-{side}-head", Static).update(words, layout=False)
        entries = []
        if answer is not None:
            entries.append(texts.answer_entry(f"{side} {answer.ask}", answer))
            trouble = texts.trouble_entry(answer)
            if trouble is not None:
                entries.append(trouble)
        self.query_one(f"#ab-{side}", Transcript).show(entries)

    def _verdict(self) -> Content:
        verdict = self.comparison.verdict
        if verdict is None:
            words = "the verdict comes when both have answered; esc stops"
            if self.comparison.done:
                words = "no verdict: one of them did not come to an end"
            return Content.styled(words, "dim")
        return verdict_text(verdict)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def action_again(self) -> None:
        old = self.comparison
        try:
            self.session.compare(old.messages[-1].content, old.left, old.right)
        except HetSpecError as error:
            self.show_error(error)
            return
        assert self.session.comparison is not None
        self.comparison = self.session.comparison
        self.look()

    def action_copy(self) -> None:
        text = self._verdict().plain
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", timeout=2)

    def interrupt(self) -> bool:
        if not self.session.busy or self.session.stopping:
            return False
        self.session.stop()
        return True

    async def action_leave(self) -> None:
        if not self.interrupt():
            await self.app.run_action("app.back")


def verdict_text(verdict: ComparisonResult) -> Content:
    """The verdict in three lines: speeds, accept lengths, texts."""
    lines: list[tuple[str, str]] = []
    ratio = verdict.ratio
    lines.append(("tok/s          ", "dim"))
    lines.append((f"A {places(verdict.left_tokens_per_s, 1)}   B {places(verdict.right_tokens_per_s, 1)}", "bold"))
    if ratio is not None:
        faster, factor = ("B", ratio) if ratio >= 1 else ("A", 1 / ratio)
        lines.append((f"   {faster} is {factor:.2f} times as fast", "bold $text-accent"))
    lines.append(("\naccept length  ", "dim"))
    lines.append((f"A {places(verdict.left_accept_length, 2)}   B {places(verdict.right_accept_length, 2)}", ""))
    lines.append(("\ntexts          ", "dim"))
    if verdict.identical:
        lines.append(("✔ identical, token by token", "bold $text-success"))
    elif verdict.difference is not None:
        found = verdict.difference
        fault = "$text-error" if verdict.must_be_identical else "$text-warning"
        lines.append((f"≠ differ from token {found.token + 1} on: ", fault))
        lines.append((f"{shown(found.left_text[:20])!r} / {shown(found.right_text[:20])!r}", ""))
        if verdict.must_be_identical:
            lines.append(("  (greedy: only rounding may do that)", "dim"))
    return Content.assemble(*lines)
