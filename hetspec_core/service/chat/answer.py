"""An answer as it appears: where each token came from, every verify step, and how it ended.

Fed with the worker's replies or with those of a trace; so a live answer and a replayed one are the same thing. It knows
messages, not who sends them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hetspec_core.acceptance import AcceptStats, StepCount
from hetspec_core.events.chat import (
    Answered,
    ChatEvent,
    ChatMessage,
    ChatSettings,
    Failed,
    Refused,
    Started,
    Step,
    Tokens,
    WorkerDied,
)
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import Trace

Origin = Literal["base", "draft", "bonus"]
AnswerState = Literal["waiting", "answering", "done", "stopped", "refused", "failed", "died"]


@dataclass(frozen=True)
class Piece:
    """Text that became certain with one token.

    Attributes:
        text: often empty in the middle of a character; raw: a view must make it safe.
        origin: `draft` = accepted draft token; `bonus` = chosen by the base behind the accepted ones; `base` = no draft
            was asked (the first token, and plain decoding).
        depth: level of an accepted draft token in its tree, from 1; else 0.
        step: index of the verify step, or -1.
    """

    text: str
    origin: Origin
    depth: int = 0
    step: int = -1


@dataclass
class Answer:
    """One answer.

    Attributes:
        ask: number of the question.
        messages: the conversation that is answered.
        settings: how.
        state: where it is.
        pieces, tokens: what there is of it so far.
        steps: verify steps so far.
        started: its sizes, once known.
        end: the worker's last word on it.
        error: why there is no (whole) answer, and what to do.
    """

    ask: int
    messages: list[ChatMessage]
    settings: ChatSettings
    every_position: bool = False
    state: AnswerState = "waiting"
    pieces: list[Piece] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    started: Started | None = None
    end: Answered | None = None
    error: str = ""
    hint: str = ""
    first_token_s: float | None = None
    elapsed_s: float = 0.0

    @classmethod
    def of(cls, trace: Trace) -> Answer:
        """The answer of a trace, complete at once; feed the replies one by one to see it appear."""
        answer = cls.empty(trace)
        for reply in trace.replies:
            answer.apply(reply)
        return answer

    @classmethod
    def empty(cls, trace: Trace) -> Answer:
        """The answer of a trace before its first reply."""
        header = trace.header
        return cls(ask=-1, messages=header.messages, settings=header.settings, every_position=header.every_position)

    def apply(self, event: ChatEvent) -> None:
        """Take one reply; those that are not about an answer are passed over."""
        if isinstance(event, Started):
            self.started, self.state = event, "answering"
        elif isinstance(event, Tokens):
            self.state = "answering"
            self.pieces += [Piece(text, "base") for text in event.pieces]
            self._take(event.tokens, event.elapsed_s)
        elif isinstance(event, Step):
            self.state = "answering"
            for place, text in enumerate(event.pieces):
                drafted = place < event.accepted
                self.pieces.append(
                    Piece(text, "draft" if drafted else "bonus", place + 1 if drafted else 0, event.index)
                )
            self.steps.append(event)
            self._take(event.committed, event.elapsed_s)
        elif isinstance(event, Answered):
            if event.rest:
                last = self.pieces[-1] if self.pieces else Piece("", "base")
                self.pieces.append(Piece(event.rest, last.origin, last.depth, last.step))
            self.end, self.state = event, "stopped" if event.stop_reason == "stopped" else "done"
        elif isinstance(event, Refused):
            self._fail("refused", event.message, event.hint)
        elif isinstance(event, Failed):
            self._fail("failed", event.error.message, event.error.hint)
        elif isinstance(event, WorkerDied):
            self._fail("died", event.message, event.hint)

    def _take(self, tokens: list[int], elapsed_s: float) -> None:
        self.tokens += tokens
        self.elapsed_s = elapsed_s
        if self.first_token_s is None:
            self.first_token_s = elapsed_s

    def _fail(self, state: AnswerState, message: str, hint: str) -> None:
        self.state, self.error, self.hint = state, message, hint

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("waiting", "answering")

    @property
    def went_wrong(self) -> bool:
        """Whether it ended for a reason that is told in `error`."""
        return self.state in ("refused", "failed", "died")

    @property
    def whole(self) -> bool:
        """Whether what was streamed is what the worker says the answer is, token by token and as text."""
        return self.end is not None and self.tokens == self.end.tokens and self.text == self.end.text

    @property
    def trees(self) -> list[TreeStep]:
        """The trees of the steps that carry one."""
        return [step.tree for step in self.steps if step.tree is not None]

    @property
    def counts(self) -> list[StepCount]:
        """The steps as statistics count them; none when every step was cut to one token."""
        if self.every_position:
            return []
        counted = self.end.counts if self.end is not None else None
        return [step.count for step in self.steps] if counted is None else counted

    @property
    def stats(self) -> AcceptStats:
        """Accept length, acceptance by depth, histogram, by the definitions of docs/measuring.md."""
        return AcceptStats(self.counts)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first / seconds after the first token, so far or of the whole."""
        if self.end is not None:
            return self.end.decode_tokens_per_s
        seconds = self.elapsed_s - (self.first_token_s or 0.0)
        return (len(self.tokens) - 1) / seconds if len(self.tokens) > 1 and seconds > 0 else None

    @property
    def kv_tokens(self) -> int:
        """Tokens in the base's key/value cache: all but the last one, which it has not read yet."""
        return (self.started.prompt_tokens if self.started else 0) + max(0, len(self.tokens) - 1)
