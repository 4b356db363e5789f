"""The same question to two ways of decoding, side by side, and what comes of it. It knows answers, not the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hetspec_core.acceptance import AcceptStats
from hetspec_core.events.chat import ChatMessage, ChatSettings
from hetspec_core.service.chat.answer import Answer

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Divergence:
    """The first place where two answers part.

    Attributes:
        token: its index in both answers.
        left, right: the token ids there; None = that answer has ended.
        left_text, right_text: what follows there, up to forty characters.
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
        rounds: how often each side answers; the sides take turns, and begin in turns.
        answers: (side, answer) as they come.
        order: sides that are still to be asked.
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
        """The settings of a side."""
        return self.left if side == "left" else self.right

    def of(self, side: Side) -> list[Answer]:
        """Answers of a side so far, the first round first."""
        return [answer for owner, answer in self.answers if owner == side]

    @property
    def done(self) -> bool:
        """Whether both sides have given all their answers, or something went wrong."""
        failed = any(answer.went_wrong or answer.state == "stopped" for _, answer in self.answers)
        return failed or (not self.order and all(answer.ended for _, answer in self.answers))

    @property
    def verdict(self) -> ComparisonResult | None:
        """What came of it, once both sides have an answer to the end."""
        left, right = ([a for a in self.of(side) if a.end is not None] for side in ("left", "right"))
        return ComparisonResult.of(left, right) if left and right else None


@dataclass(frozen=True)
class ComparisonResult:
    """What came of a comparison; the ratio is right over left.

    Attributes:
        left_label, right_label: the two ways.
        left_tokens_per_s, right_tokens_per_s: decode tokens/s, summed over the rounds before dividing.
        left_accept_length, right_accept_length: pooled; None for plain decoding.
        identical: whether the texts are the same, token by token.
        difference: the first place where they are not.
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
        """The verdict over answers that have ended."""
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
        """The verdict in words."""
        words = "texts identical" if self.identical else f"texts differ from token {_place(self.difference)} on"
        if self.ratio is None:
            return f"speed not known; {words}"
        return f"{self.right_label} is {self.ratio:.2f} times as fast as {self.left_label}; {words}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        difference = None if self.difference is None else vars(self.difference)
        return {**vars(self), "difference": difference, "ratio": self.ratio, "sentence": self.sentence}


def first_difference(left: Answer, right: Answer) -> Divergence | None:
    """Where two answers part; None when they are the same token by token."""
    size = max(len(left.tokens), len(right.tokens))
    for place in range(size):
        one = left.tokens[place] if place < len(left.tokens) else None
        other = right.tokens[place] if place < len(right.tokens) else None
        if one != other:
            return Divergence(place, one, other, _text_from(left, place), _text_from(right, place))
    return None


def _text_from(answer: Answer, place: int) -> str:
    return "".join(piece.text for piece in answer.pieces[place:])[:40]


def _place(difference: Divergence | None) -> int:
    return difference.token if difference is not None else 0


def _speed(answers: Sequence[Answer]) -> float | None:
    ends = [answer.end for answer in answers if answer.end is not None]
    seconds = sum(end.decode_s for end in ends)
    tokens = sum(len(end.tokens) - 1 for end in ends)
    return tokens / seconds if seconds > 0 and tokens > 0 else None


def _same_answer(one: ChatSettings, other: ChatSettings) -> bool:
    """Whether two ways must give the same answer: both are greedy, and all but tree and draft is equal."""
    if not (one.sampling.greedy and other.sampling.greedy and one.system_prompt == other.system_prompt):
        return False
    ways = [way.decoding.model_dump(exclude={"tree", "plain", "sampling"}) for way in (one, other)]
    return ways[0] == ways[1]
