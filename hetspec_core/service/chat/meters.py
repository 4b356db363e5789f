"""Live figures of a chat: accept length, acceptance by depth, speed against plain decoding, where the time goes.

By the definitions of docs/measuring.md. Steps of different drafts or trees are never pooled together. It knows answers
and calibrations, not the worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hetspec_core.acceptance import AcceptStats, DepthAcceptance, StepCount
from hetspec_core.events.chat import PLAIN, Calibrated
from hetspec_core.service.chat.answer import Answer


@dataclass(frozen=True)
class TimeSplit:
    """Where the seconds of the verify steps went; they add up to the time of decoding."""

    propose_s: float
    verify_s: float
    other_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.propose_s + self.verify_s + self.other_s

    @property
    def shares(self) -> tuple[float, float, float]:
        """Propose, verify, other as parts of one; zeros when nothing was measured."""
        total = self.total_s
        return (self.propose_s / total, self.verify_s / total, self.other_s / total) if total > 0 else (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Figures:
    """What the meters show now. None = not known (yet).

    Attributes:
        label: way of decoding, `plain` or draft and tree.
        step_committed: tokens of the last verify step.
        accept_length, by_depth, histogram: of this answer.
        pooled_accept_length, pooled_by_depth, pooled_histogram: of all answers by the same draft and tree.
        tokens_per_s: decode tokens/s of this answer so far.
        plain_tokens_per_s: of plain decoding on this machine in this session; `plain_source` says from what.
        speedup: the ratio of the two.
        split: where the time of this answer's steps went.
        kv_tokens, context_tokens: length of the key/value cache, and what the base can hold.
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
        """Tokens/s over plain decoding's."""
        if not self.tokens_per_s or not self.plain_tokens_per_s or self.label == PLAIN:
            return None
        return self.tokens_per_s / self.plain_tokens_per_s

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        rows = {
            name: [vars(row) | {"acceptance_rate": row.acceptance_rate, "joint_rate": row.joint_rate} for row in table]
            for name, table in (("by_depth", self.by_depth), ("pooled_by_depth", self.pooled_by_depth))
        }
        split = None if self.split is None else vars(self.split)
        return {**vars(self), **rows, "split": split, "speedup": self.speedup}


class SessionTotals:
    """Adds up the answers of one session, by draft and tree."""

    def __init__(self) -> None:
        self._counts: dict[str, list[StepCount]] = {}
        self._plain_tokens, self._plain_s = 0, 0.0
        self.calibration: Calibrated | None = None

    def add(self, answer: Answer) -> None:
        """Count an answer that has ended. One that was stopped counts too: its steps were whole."""
        label = answer.settings.label
        if answer.counts:
            self._counts.setdefault(label, []).extend(answer.counts)
        if label == PLAIN and answer.end is not None and answer.end.decode_s > 0:
            self._plain_tokens += len(answer.end.tokens) - 1
            self._plain_s += answer.end.decode_s

    def calibrated(self, calibration: Calibrated) -> None:
        """Take a calibration; a newer one replaces an older one."""
        self.calibration = calibration

    @property
    def plain_tokens_per_s(self) -> tuple[float | None, str]:
        """Speed of plain decoding in this session and what it is from: plain answers before a calibration."""
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
            label: the way of decoding when there is none.
            context_tokens: what the base can hold.
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
    """Where the time of an answer's steps went; None without steps, and where the backend cannot tell phases apart."""
    split = TimeSplit(
        sum(step.propose_s for step in answer.steps),
        sum(step.verify_s for step in answer.steps),
        sum(step.other_s for step in answer.steps),
    )
    return split if split.propose_s or split.verify_s else None
