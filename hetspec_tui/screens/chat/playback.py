"""Which verify step of an answer is looked at: the newest while it is live, any other when stepping or playing.

It counts steps and time; it draws nothing.
"""

from __future__ import annotations

from dataclasses import replace

from hetspec_core.service.chat.answer import Answer

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
        """How many steps there are."""
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
        """Look at a step before or behind the present one."""
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
        """Play at another of the speeds."""
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
