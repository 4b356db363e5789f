"""Figures of a chat: those of the present answer and of the session, and the comparison of two ways of decoding.

The definitions are those of docs/measuring.md. Steps of different drafts or trees are never pooled together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hetspec_core.acceptance import AcceptStats, DepthAcceptance, StepCount
from hetspec_core.events.chat import Calibrated
from hetspec_core.events.chat_settings import PLAIN, ChatMessage, ChatSettings
from hetspec_core.service.chat.answer import Answer

Side = Literal["left", "right"]


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of the phases of all verify steps; they add up to the time of decoding."""

    propose_s: float
    verify_s: float
    other_s: float

    @property
    def total_s(self) -> float:
        return self.propose_s + self.verify_s + self.other_s

    @property
    def shares(self) -> tuple[float, float, float]:
        """Propose, verify, other as parts of one; zeros when nothing was measured."""
        total = self.total_s
        return (self.propose_s / total, self.verify_s / total, self.other_s / total) if total > 0 else (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Figures:
    """The present figures. None = not known (yet).

    Attributes:
        label: way of decoding, `plain` or draft and tree.
        step_committed: tokens of the last verify step.
        accept_length, by_depth, histogram: of this answer.
        pooled_accept_length, pooled_by_depth, pooled_histogram: of all answers by the same draft and tree.
        tokens_per_s: decode tokens/s of this answer so far.
        plain_tokens_per_s: of plain decoding on this machine in this session, measured by `plain_source`.
        split: the time of this answer's steps by phase.
        kv_tokens, context_tokens: length of the key/value cache, and the base's context.
    """

    label: str
    step_committed: int | None = None
    accept_length: float | None = None
    pooled_accept_length: float | None = None
    verify_steps: int = 0
    pooled_steps: int = 0
    by_depth: list[DepthAcceptance] = field(default_factory=list)
    pooled_by_depth: list[DepthAcceptance] = field(default_factory=list)
    histogram: dict[int, int] = field(default_factory=dict)
    pooled_histogram: dict[int, int] = field(default_factory=dict)
    tokens: int = 0
    tokens_per_s: float | None = None
    plain_tokens_per_s: float | None = None
    plain_source: str = ""
    split: TimeSplit | None = None
    kv_tokens: int = 0
    context_tokens: int = 0

    @property
    def speedup(self) -> float | None:
        """Tokens/s divided by those of plain decoding."""
        if not self.tokens_per_s or not self.plain_tokens_per_s or self.label == PLAIN:
            return None
        return self.tokens_per_s / self.plain_tokens_per_s

    def to_json(self) -> dict[str, Any]:
        rows = {
            name: [vars(row) | {"acceptance_rate": row.acceptance_rate, "joint_rate": row.joint_rate} for row in table]
            for name, table in (("by_depth", self.by_depth), ("pooled_by_depth", self.pooled_by_depth))
        }
        split = None if self.split is None else vars(self.split)
        return {**vars(self), **rows, "split": split, "speedup": self.speedup}


class SessionTotals:
    """The figures of one session, pooled by draft and tree."""

    def __init__(self) -> None:
        self._counts: dict[str, list[StepCount]] = {}
        self._plain_tokens, self._plain_s = 0, 0.0
        self.calibration: Calibrated | None = None

    def add(self, answer: Answer) -> None:
        """Count an answer that has ended. A stopped one counts too, because its steps were complete."""
        label = answer.settings.label
        if answer.counts:
            self._counts.setdefault(label, []).extend(answer.counts)
        if label == PLAIN and answer.end is not None and answer.end.decode_s > 0:
            self._plain_tokens += len(answer.end.tokens) - 1
            self._plain_s += answer.end.decode_s

    def calibrated(self, calibration: Calibrated) -> None:
        self.calibration = calibration

    @property
    def plain_tokens_per_s(self) -> tuple[float | None, str]:
        """Tokens/s of plain decoding in this session, and the source: plain answers, else a calibration."""
        if self._plain_s > 0 and self._plain_tokens:
            return self._plain_tokens / self._plain_s, "answers"
        if self.calibration is not None and self.calibration.plain_token_s > 0:
            return 1.0 / self.calibration.plain_token_s, "calibration"
        return None, ""

    def pooled(self, label: str) -> AcceptStats:
        """Statistics over all ended answers of a draft and tree."""
        return AcceptStats(list(self._counts.get(label, ())))

    def figures(self, answer: Answer | None, label: str, context_tokens: int = 0) -> Figures:
        """The figures now.

        Args:
            answer: the present or last answer.
            label: the way of decoding when there is no answer.
            context_tokens: the base's context.
        """
        plain, source = self.plain_tokens_per_s
        if answer is None:
            return Figures(label, plain_tokens_per_s=plain, plain_source=source, context_tokens=context_tokens)
        label = answer.settings.label
        stats, pooled = answer.stats, self.pooled(label)
        if not answer.ended:  # its steps are counted when it has ended
            pooled.steps.extend(answer.counts)
        return Figures(
            label=label,
            step_committed=len(answer.steps[-1].committed) if answer.steps else None,
            accept_length=stats.accept_length,
            pooled_accept_length=pooled.accept_length,
            verify_steps=stats.num_steps,
            pooled_steps=pooled.num_steps,
            by_depth=stats.by_depth,
            pooled_by_depth=pooled.by_depth,
            histogram=stats.histogram,
            pooled_histogram=pooled.histogram,
            tokens=len(answer.tokens),
            tokens_per_s=answer.decode_tokens_per_s,
            plain_tokens_per_s=plain,
            plain_source=source,
            split=time_split(answer),
            kv_tokens=answer.kv_tokens,
            context_tokens=answer.started.context_tokens if answer.started else context_tokens,
        )


def time_split(answer: Answer) -> TimeSplit | None:
    """The time of an answer's steps by phase; None without steps, and where the backend does not measure phases."""
    split = TimeSplit(
        sum(step.propose_s for step in answer.steps),
        sum(step.verify_s for step in answer.steps),
        sum(step.other_s for step in answer.steps),
    )
    return split if split.propose_s or split.verify_s else None


@dataclass(frozen=True)
class Divergence:
    """The first difference of two answers.

    Attributes:
        token: its index in both answers.
        left, right: the token ids there; None = that answer has ended.
        left_text, right_text: the text from there on, up to forty characters.
    """

    token: int
    left: int | None
    right: int | None
    left_text: str
    right_text: str


@dataclass
class Comparison:
    """Two ways of decoding on one conversation.

    Attributes:
        messages: the conversation, ending with the question.
        left, right: the two settings.
        rounds: answers of each side; the sides alternate, and so does the one that begins.
        answers: (side, answer) in their order.
        order: sides that are not asked yet.
    """

    messages: list[ChatMessage]
    left: ChatSettings
    right: ChatSettings
    rounds: int = 1
    answers: list[tuple[Side, Answer]] = field(default_factory=list)
    order: list[Side] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number in range(self.rounds):
            first: Side = "left" if number % 2 == 0 else "right"
            second: Side = "right" if number % 2 == 0 else "left"
            self.order.extend((first, second))

    def settings(self, side: Side) -> ChatSettings:
        return self.left if side == "left" else self.right

    def of(self, side: Side) -> list[Answer]:
        return [answer for owner, answer in self.answers if owner == side]

    @property
    def done(self) -> bool:
        """Whether both sides have given all their answers, or one failed or was stopped."""
        failed = any(answer.went_wrong or answer.state == "stopped" for _, answer in self.answers)
        return failed or (not self.order and all(answer.ended for _, answer in self.answers))

    @property
    def verdict(self) -> ComparisonResult | None:
        """The result, once both sides have a complete answer."""
        left, right = ([a for a in self.of(side) if a.end is not None] for side in ("left", "right"))
        return ComparisonResult.of(left, right) if left and right else None


@dataclass(frozen=True)
class ComparisonResult:
    """The result of a comparison; the ratio is right over left.

    Attributes:
        left_label, right_label: the two ways.
        left_tokens_per_s, right_tokens_per_s: decode tokens/s, summed over the rounds before dividing.
        left_accept_length, right_accept_length: pooled; None for plain decoding.
        identical: whether the answers are the same, token by token.
        difference: the first difference.
        must_be_identical: both greedy with the same limits, so that in float32 any difference is a fault.
    """

    left_label: str
    right_label: str
    left_tokens_per_s: float | None
    right_tokens_per_s: float | None
    left_accept_length: float | None
    right_accept_length: float | None
    identical: bool
    difference: Divergence | None
    must_be_identical: bool

    @classmethod
    def of(cls, left: Sequence[Answer], right: Sequence[Answer]) -> ComparisonResult:
        one, other = left[0], right[0]
        found = first_difference(one, other)
        return cls(
            left_label=one.settings.label,
            right_label=other.settings.label,
            left_tokens_per_s=_speed(left),
            right_tokens_per_s=_speed(right),
            left_accept_length=AcceptStats([c for a in left for c in a.counts]).accept_length,
            right_accept_length=AcceptStats([c for a in right for c in a.counts]).accept_length,
            identical=found is None,
            difference=found,
            must_be_identical=_same_answer(one.settings, other.settings),
        )

    @property
    def ratio(self) -> float | None:
        """Tokens/s of the right side over the left one's."""
        if not self.left_tokens_per_s or not self.right_tokens_per_s:
            return None
        return self.right_tokens_per_s / self.left_tokens_per_s

    @property
    def sentence(self) -> str:
        words = f"texts differ from token {self.difference.token} on" if self.difference else "texts identical"
        if self.ratio is None:
            return f"speed not known; {words}"
        return f"{self.right_label} is {self.ratio:.2f} times as fast as {self.left_label}; {words}"

    def to_json(self) -> dict[str, Any]:
        difference = None if self.difference is None else vars(self.difference)
        return {**vars(self), "difference": difference, "ratio": self.ratio, "sentence": self.sentence}


def first_difference(left: Answer, right: Answer) -> Divergence | None:
    """The first difference of two answers; None when they are the same token by token."""
    size = max(len(left.tokens), len(right.tokens))
    for place in range(size):
        one = left.tokens[place] if place < len(left.tokens) else None
        other = right.tokens[place] if place < len(right.tokens) else None
        if one != other:
            return Divergence(place, one, other, _text_from(left, place), _text_from(right, place))
    return None


def _text_from(answer: Answer, place: int) -> str:
    return "".join(piece.text for piece in answer.pieces[place:])[:40]


def _speed(answers: Sequence[Answer]) -> float | None:
    ends = [answer.end for answer in answers if answer.end is not None]
    seconds = sum(end.decode_s for end in ends)
    tokens = sum(len(end.tokens) - 1 for end in ends)
    return tokens / seconds if seconds > 0 and tokens > 0 else None


def _same_answer(one: ChatSettings, other: ChatSettings) -> bool:
    """Whether two ways must give the same answer: both are greedy, and only tree and draft differ."""
    if not (one.sampling.greedy and other.sampling.greedy and one.system_prompt == other.system_prompt):
        return False
    ways = [way.decoding.model_dump(exclude={"tree", "plain", "sampling"}) for way in (one, other)]
    return ways[0] == ways[1]
