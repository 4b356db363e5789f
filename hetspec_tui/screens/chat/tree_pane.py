"""The draft tree of the verify step that is looked at, its figures, and why the draft's best proposal failed.

A `Playback` holds which step that is: the newest while the answer is live, any other when the user steps or plays.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from hetspec_core.events.steps import TreeStep
from hetspec_core.service.chat.answer import Answer, best_rejected, shown
from hetspec_tui.formatting import number
from hetspec_tui.widgets.draft_tree import DraftTreeView, ordinal, percent

NO_TREE = "no draft tree yet: every verify step\nof the next answer is drawn here"
PLAIN = "plain decoding: no draft, so no tree.\nf2 chooses a draft."
NO_TREES = "this answer has no trees"
SPEEDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Steps a second."""


class Playback:
    """The step of one answer that is looked at.

    Attributes:
        answer: whose steps.
        step: which, from 0; None = live, the newest.
        playing: whether it goes on by itself.
        speed: steps a second.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.step: int | None = None
        self.playing = False
        self.speed = 2.0
        self._due = 0.0

    def follow(self, answer: Answer | None) -> bool:
        """Look at this answer; another one than before is looked at live. Gives whether it is another."""
        if answer is self.answer:
            return False
        self.answer, self.step, self.playing = answer, None, False
        return True

    @property
    def count(self) -> int:
        return len(self.answer.steps) if self.answer is not None else 0

    @property
    def place(self) -> int:
        """The step that is shown; -1 when there is none."""
        return self.count - 1 if self.step is None else min(self.step, self.count - 1)

    @property
    def live(self) -> bool:
        """Whether the newest step is looked at, and all of the text."""
        return self.step is None

    def go(self, step: int) -> None:
        """Look at a step, from 0, and stay there."""
        if self.count:
            self.playing, self.step = False, min(max(step, 0), self.count - 1)

    def move(self, by: int) -> None:
        self.go(self.place + by)

    def pause(self) -> None:
        """Stay at the present step, or go on: with playing when it played, else live."""
        if self.live:
            self.go(self.place)
        elif self.playing:
            self.playing = False
        else:
            self.step = None

    def play(self, now: float) -> None:
        """Go on by itself from here, from the beginning when it is at the end; or stop doing so."""
        if self.playing:
            self.playing = False
        elif self.count:
            if self.live or self.place >= self.count - 1:
                self.step = 0
            self.playing, self._due = True, now + 1 / self.speed

    def faster(self, by: int) -> None:
        place = min(range(len(SPEEDS)), key=lambda at: abs(SPEEDS[at] - self.speed))
        self.speed = SPEEDS[min(max(place + by, 0), len(SPEEDS) - 1)]

    def tick(self, now: float) -> bool:
        """Go on if it is time to; whether another step is shown. It stays at the last step of an ended answer."""
        if not self.playing or now < self._due or self.step is None:
            return False
        if self.step < self.count - 1:
            self.step += 1
            self._due = max(self._due + 1 / self.speed, now)
            return True
        if self.answer is None or self.answer.ended:
            self.playing = False
            return True
        return False

    @property
    def seen(self) -> Answer | None:
        """The answer as it was behind the step that is shown."""
        if self.answer is None or self.live:
            return self.answer
        return upto(self.answer, self.place)


def upto(answer: Answer, place: int) -> Answer:
    """The answer as it was behind its step `place`, in the state it is in now; without steps the answer itself."""
    if not answer.steps:
        return answer
    steps = answer.steps[: place + 1]
    last = steps[-1]
    pieces = [piece for piece in answer.pieces if piece.step <= last.index]
    later = sum(len(step.committed) for step in answer.steps[place + 1 :])
    return replace(
        answer,
        pieces=pieces,
        steps=steps,
        tokens=answer.tokens[: len(answer.tokens) - later],
        end=None,
        elapsed_s=last.elapsed_s,
    )


def failed_node(step: TreeStep) -> int | None:
    """The draft's best proposal where the accepted path ended; None when nothing was proposed there."""
    rejected = best_rejected(step)
    return None if rejected is None else rejected.node


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
        yield Static(id="step", markup=False)
        yield DraftTreeView(shown, failed_node, empty=NO_TREE, id="tree")
        yield Static(id="why", markup=False)

    @property
    def drawing(self) -> DraftTreeView:
        return self.query_one(DraftTreeView)

    def draw(self) -> None:
        playback, answer = self.playback, self.playback.answer
        step = answer.steps[playback.place] if answer is not None and playback.count else None
        self._step = step.tree if step is not None else None
        if self._step is None:
            plain = answer is not None and answer.settings.plain
            self.drawing.set_empty(NO_TREES if step is not None else PLAIN if plain else NO_TREE)
        self.drawing.show(self._step)
        self.query_one("#step", Static).update(self._step_text(), layout=False)
        self.query_one("#why", Static).update(self._why_text(), layout=False)

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
        if self.query_one("#why").size.height == 1:
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
        self.playback.move(by)
        self._stepped()

    def action_go(self, step: int) -> None:
        self.playback.go(step if step >= 0 else self.playback.count - 1)
        self._stepped()

    def action_pause(self) -> None:
        self.playback.pause()
        self._stepped()

    def action_play(self) -> None:
        self.playback.play(time.monotonic())
        self._stepped()

    def action_faster(self, by: int) -> None:
        self.playback.faster(by)
        self._stepped()

    def action_view(self) -> None:
        self.drawing.next_view()

    def _stepped(self) -> None:
        self.draw()
        self.post_message(self.Stepped())
