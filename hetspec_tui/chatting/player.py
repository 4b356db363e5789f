"""What the tree shows of an answer: its newest step while it is live, or any step that somebody goes back to, and a
recorded answer that appears again at a chosen speed. It keeps a place and a clock; it draws nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetspec_core.events import TreeStep

if TYPE_CHECKING:
    from hetspec_core.service.chat import Answer
    from hetspec_core.service.traces import Trace

SPEEDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Verify steps a second of a replay."""


class Player:
    """Chooses the step that is shown, of an answer that may still grow.

    Attributes:
        place: number of the step that is shown; None = the newest.
        playing: whether a replay goes on by itself.
        speed: verify steps a second.
        trace: what is replayed; None = a live answer.
    """

    def __init__(self) -> None:
        self.place: int | None = None
        self.playing = False
        self.speed = 4.0
        self.trace: Trace | None = None
        self.answer: Answer | None = None
        self._due = 0.0
        self._next = 0

    def follow(self, answer: Answer | None) -> None:
        """Show a live answer, from its newest step."""
        if answer is not self.answer or self.trace is not None:
            self.trace, self.answer, self.place, self.playing = None, answer, None, False

    def load(self, trace: Trace) -> None:
        """Replay a recorded answer from its beginning."""
        from hetspec_core.service.chat import Answer

        self.trace, self.answer, self.place = trace, Answer.empty(trace), None
        self.playing, self._due, self._next = True, 0.0, 0

    def advance(self, seconds: float) -> bool:
        """Let time pass; returns whether something new is to be drawn."""
        if not self.playing or self.trace is None or self.answer is None:
            return False
        self._due += seconds * self.speed
        changed = False
        while self._due >= 1.0:
            self._due -= 1.0
            if not self._apply_one():
                self.playing = False
                break
            changed = True
        return changed

    def _apply_one(self) -> bool:
        """Take replies up to and with the next verify step; False at the end."""
        assert self.trace is not None and self.answer is not None
        replies = self.trace.replies
        before = len(self.answer.steps)
        while self._next < len(replies):
            self.answer.apply(replies[self._next])
            self._next += 1
            if len(self.answer.steps) > before:
                break
        return self._next < len(replies)

    @property
    def steps(self) -> list[TreeStep]:
        """The steps that have a tree."""
        return self.answer.trees if self.answer is not None else []

    @property
    def shown(self) -> TreeStep | None:
        """The step that is shown now."""
        steps = self.steps
        if not steps:
            return None
        return steps[-1] if self.place is None else steps[max(0, min(self.place, len(steps) - 1))]

    def go(self, by: int) -> None:
        """Show the step so many before or behind; the newest one is followed again when it is reached."""
        steps = self.steps
        if not steps:
            return
        now = len(steps) - 1 if self.place is None else self.place
        wanted = max(0, now + by)
        if self.trace is not None and wanted >= len(steps):  # beyond what has been played: play one more
            self.playing = False
            self._apply_one()
        self.place = None if wanted >= len(self.steps) - 1 else wanted

    def faster(self, by: int) -> None:
        """Another speed of `SPEEDS`."""
        place = min(range(len(SPEEDS)), key=lambda number: abs(SPEEDS[number] - self.speed))
        self.speed = SPEEDS[max(0, min(place + by, len(SPEEDS) - 1))]
