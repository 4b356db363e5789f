"""An answer while it is written: the origin of each token, every verify step, how it ended, and its trace.

The replies come from a worker or from a trace, so a live answer and a replayed one are the same object. `shown` and
`best_rejected` turn tokens and steps into text for any view.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hetspec_core.acceptance import AcceptStats, StepCount
from hetspec_core.errors import ResourceError
from hetspec_core.events.chat import (
    Answered,
    Ask,
    BaseFacts,
    ChatEvent,
    Failed,
    Refused,
    Started,
    Step,
    Tokens,
    WorkerDied,
)
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import SUFFIX, Trace, TraceHeader, TraceWriter

Origin = Literal["base", "draft", "bonus"]
AnswerState = Literal["waiting", "answering", "done", "stopped", "refused", "failed", "died"]

_NAMES = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


@dataclass(frozen=True)
class Piece:
    """The text that one token adds.

    Attributes:
        text: often empty in the middle of a character; raw: a view must make it safe.
        origin: `draft` = accepted draft token; `bonus` = chosen by the base after the accepted ones; `base` = without a
            draft (the first token, and plain decoding).
        depth: level of an accepted draft token in its tree, from 1; else 0.
        step: index of the verify step, or -1.
    """

    text: str
    origin: Origin = "base"
    depth: int = 0
    step: int = -1


@dataclass
class Answer:
    """One answer.

    Attributes:
        ask: number of the question.
        messages: the conversation that is answered.
        pieces, tokens, steps: text, token ids and verify steps so far.
        started: its sizes, once known.
        end: the worker's summary.
        error, hint: why there is no (whole) answer, and what to do.
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

    @property
    def label(self) -> str:
        """The way of decoding; of `auto`, once it has ended, with the shape that it took and what that promised."""
        if self.end is None or not self.end.tree:
            return self.settings.label
        promised = self.end.predicted_speedup
        words = "" if promised is None else f", predicted {promised:.2f}x"
        return f"{self.settings.label} ({self.end.tree}{words})"

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
        """Apply one reply; replies that do not concern an answer are ignored."""
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
        return "".join(piece.text for piece in self.pieces)

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "answering")

    @property
    def went_wrong(self) -> bool:
        return self.state in ("refused", "failed", "died")

    @property
    def whole(self) -> bool:
        """Whether the streamed tokens and text equal those of the worker's summary."""
        return self.end is not None and self.tokens == self.end.tokens and self.text == self.end.text

    @property
    def trees(self) -> list[TreeStep]:
        return [step.tree for step in self.steps if step.tree is not None]

    @property
    def counts(self) -> list[StepCount]:
        """The steps for statistics; none when every step was cut to one token."""
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
        """Tokens after the first / seconds after the first token, so far or of the whole answer."""
        if self.end is not None:
            return self.end.decode_tokens_per_s
        seconds = self.elapsed_s - (self.first_token_s or 0.0)
        return (len(self.tokens) - 1) / seconds if len(self.tokens) > 1 and seconds > 0 else None

    @property
    def kv_tokens(self) -> int:
        """Tokens in the base's key/value cache: all except the last one, which the base has not read yet."""
        return (self.started.prompt_tokens if self.started else 0) + max(0, len(self.tokens) - 1)


class Recorder:
    """Writes a trace of every answer of a chat."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.last: Path | None = None
        self._writer: TraceWriter | None = None

    def begin(self, request: Ask, base: BaseFacts | None) -> str:
        """Begin the trace of an answer; returns why it cannot be recorded, or an empty text."""
        self.finish()
        if self.folder is None:
            return ""
        header = TraceHeader(
            name=" ".join(request.messages[-1].content.split())[:60],
            messages=request.messages,
            settings=request.settings,
            base=base,
            every_position=request.every_position,
        )
        stamp, number = time.strftime("%Y%m%d-%H%M%S", time.gmtime()), request.ask
        while (path := self.folder / f"{stamp}-{number}{SUFFIX}").exists():
            number += 1
        try:
            self._writer = TraceWriter(path, header)
        except ResourceError as error:
            return error.message
        self.last = path
        return ""

    def add(self, event: ChatEvent) -> str:
        """Write one event; returns an error, after which the trace ends, or an empty text."""
        if self._writer is None:
            return ""
        try:
            self._writer.add(event)
        except OSError as error:
            self.finish()
            return f"the trace {self.last} was cut off: {error.strerror or error}"
        return ""

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def shown(text: str, *, spaces: bool = False) -> str:
    """Token text that is safe to print: controls, separators, directions and joiners are written by name.

    Args:
        text: raw text of a token.
        spaces: show spaces as ␣ too; a token of blanks alone always shows them.
    """
    if not text:
        return "∅"
    visible = spaces or not text.strip(" ")
    out = []
    for char in text:
        if char in _NAMES and (char != " " or visible):
            out.append(_NAMES[char])
        elif char == " " or char.isprintable():
            out.append(char)
        else:
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}")
    return "".join(out)


@dataclass(frozen=True)
class Rejection:
    """The likeliest proposal below the end of an accepted path, which the base rejected.

    Attributes:
        node: index of the rejected child.
        depth: its level.
        rank: its place in the base's distribution, from 0.
        draft_prob, base_prob: its probability in both models.
        sentence: the same in words.
    """

    node: int
    depth: int
    rank: int
    draft_prob: float
    base_prob: float
    sentence: str


def best_rejected(step: TreeStep) -> Rejection | None:
    """The draft's best proposal below the end of the accepted path; None when nothing was proposed there."""
    end = step.path[-1] if step.path else 0
    below = [node for node in range(1, len(step.tokens)) if step.parents[node] == end]
    if not below:
        return None
    node = max(below, key=lambda one: step.draft_probs[one])
    rank, bonus = step.base_ranks[node], shown(step.bonus_text)
    place = "first" if rank == 0 else f"number {rank + 1}"
    sentence = (
        f"{shown(step.texts[node])!r} (draft {step.draft_probs[node]:.0%}) was {place} of the base "
        f"at {step.base_probs[node]:.1%}; it chose {bonus!r} at {step.bonus_prob:.1%}"
    )
    return Rejection(
        node=node,
        depth=len(step.path) + 1,
        rank=rank,
        draft_prob=step.draft_probs[node],
        base_prob=step.base_probs[node],
        sentence=sentence,
    )
