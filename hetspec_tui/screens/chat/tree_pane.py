"""The draft tree of the step at a playback's position, with its figures, and why the draft's best proposal failed."""

from __future__ import annotations

import time
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from hetspec_core.events.steps import TreeStep
from hetspec_core.service.chat.answer import best_rejected, shown
from hetspec_tui.formatting import number
from hetspec_tui.screens.chat.playback import Playback
from hetspec_tui.widgets.draft_tree import DraftTreeView, ordinal, percent

NO_TREE = "no draft tree yet: every verify step\nof the next answer is drawn here"
PLAIN = "plain decoding: no draft, so no tree.\nf2 chooses a draft."
NO_TREES = "this answer has no trees"


def failed_node(step: TreeStep) -> int | None:
    """The draft's best proposal where the accepted path ended; None when nothing was proposed there."""
    rejected = best_rejected(step)
    return None if rejected is None else rejected.node


class Words(Widget):
    """Text of a fixed height, drawn without a layout."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._content = Content("")

    def show(self, content: Content) -> None:
        """Show another text."""
        if content != self._content:
            self._content = content
            self.refresh()

    def render(self) -> Content:
        return self._content


class TreePane(Vertical):
    """The tree of the step that is looked at."""

    BINDING_GROUP_TITLE = "Draft tree"
    ALLOW_MAXIMIZE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left", "move(-1)", "Step", id="tree.step-back", key_display="←→", tooltip="One verify step back, or on"
        ),
        Binding("right", "move(1)", "Step on", id="tree.step-on", show=False, tooltip="One verify step on"),
        Binding("space", "pause", "Pause", id="tree.pause", tooltip="Stay at this step, or follow the newest"),
        Binding("p", "play", "Play", id="tree.play", tooltip="Play all verify steps"),
        Binding("v", "view", "View", id="tree.view", tooltip="Tree, table of levels, one line a level"),
        Binding("plus,equals_sign", "faster(1)", "Faster", id="tree.faster", key_display="+", show=False),
        Binding("minus", "faster(-1)", "Slower", id="tree.slower", key_display="-", show=False),
        Binding("home,g", "go(0)", "First step", id="tree.first", show=False),
        Binding("end,G", "go(-1)", "Last step", id="tree.last", show=False),
    ]
    DEFAULT_CSS = """
    TreePane {
        height: 1fr;

        #step { height: 1; padding: 0 1; }
        #why { height: 2; padding: 0 1; color: $text-muted; }
        DraftTreeView { padding: 0; }
    }
    """

    class Stepped(Message):
        """Another step is looked at, by a key."""

    def __init__(self, playback: Playback, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.playback = playback
        self._step: TreeStep | None = None

    def compose(self) -> ComposeResult:
        yield Words(id="step")
        yield DraftTreeView(shown, failed_node, empty=NO_TREE, id="tree")
        yield Words(id="why")

    @property
    def drawing(self) -> DraftTreeView:
        """The tree itself."""
        return self.query_one(DraftTreeView)

    def draw(self) -> None:
        """Show the step that is looked at now."""
        playback, answer = self.playback, self.playback.answer
        step = answer.steps[playback.place] if answer is not None and playback.count else None
        self._step = step.tree if step is not None else None
        if self._step is None:
            plain = answer is not None and answer.settings.plain
            self.drawing.set_empty(NO_TREES if step is not None else PLAIN if plain else NO_TREE)
        self.drawing.show(self._step)
        self.query_one("#step", Words).show(self._step_text())
        self.query_one("#why", Words).show(self._why_text())

    def _step_text(self) -> Content:
        playback = self.playback
        if not playback.count:
            return Content.styled("draft tree", "dim")
        if playback.playing:
            state = (f"▶ playing {number(playback.speed)}/s", "$text-accent")
        elif playback.live:
            ended = playback.answer is None or playback.answer.ended
            state = ("■ last step", "dim") if ended else ("● live", "$text-success")
        else:
            state = ("‖ paused", "$text-warning")
        parts: list[tuple[str, str] | str] = [("step ", "dim"), (f"{playback.place + 1}", "bold")]
        parts += [(f"/{playback.count}  ", "dim"), state]
        if (step := self._step) is not None:
            parts += [("  accepted ", "dim"), (f"{len(step.path)}", "bold $text-success")]
            parts += [(f" of {step.num_nodes}, committed {len(step.committed)}", "dim")]
        return Content.assemble(*parts)

    def _why_text(self) -> Content:
        step = self._step
        if step is None:
            return Content("")
        rejected, bonus = best_rejected(step), shown(step.bonus_text)
        why = rejected.sentence if rejected is not None else "nothing more was proposed where the path ended"
        if self.query_one("#why", Words).size.height == 1:
            if rejected is None:
                return Content(f"  {why}")
            draft, base = percent(rejected.draft_prob), percent(rejected.base_prob)
            return Content.assemble(
                ("✗ ", "$text-error"),
                f"{shown(step.texts[rejected.node])}  draft {draft}, base {base} {ordinal(rejected.rank)}",
                ("  ★ ", "$text-warning"),
                f"{bonus} {percent(step.bonus_prob)}",
            )
        accepted = "".join(step.texts[node] for node in step.path)
        return Content.assemble(
            ("✗ " if rejected is not None else "  ", "$text-error"),
            why,
            (f"\n● {shown(accepted)}" if accepted else "\n● nothing accepted", "$text-success"),
            (f" ★ {bonus}", "$text-warning"),
        )

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """Look at a step before or behind."""
        self.playback.move(by)
        self._stepped()

    def action_go(self, step: int) -> None:
        """Look at the first step (0) or the last one (-1)."""
        self.playback.go(step if step >= 0 else self.playback.count - 1)
        self._stepped()

    def action_pause(self) -> None:
        """Stay here, or follow the newest step."""
        self.playback.pause()
        self._stepped()

    def action_play(self) -> None:
        """Play all steps, or stop playing."""
        self.playback.play(time.monotonic())
        self._stepped()

    def action_faster(self, by: int) -> None:
        """Play faster or slower."""
        self.playback.faster(by)
        self._stepped()

    def action_view(self) -> None:
        """Another view of the tree."""
        self.drawing.next_view()

    def _stepped(self) -> None:
        self.draw()
        self.post_message(self.Stepped())
