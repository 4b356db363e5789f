"""Statistics of verify steps, by the definitions of docs/measuring.md; engine and desk both use them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class StepCount:
    """The numbers of one verify step that statistics need.

    Attributes:
        committed: tokens added to the answer, bonus token included, after cutting at a stop token or the limit.
        accepted: draft tokens that the base accepted, before cutting.
        offered: levels of the tree at which a child of the accepted path was offered: `accepted`, or one more when the
            last accepted node had children and all were rejected.
        ranks: of every accepted draft token, how many of its siblings the draft held likelier; empty where it is not
            known, and not compared.
        children: of the last accepted node, none of which is the base's token; as `ranks`.
    """

    committed: int
    accepted: int
    offered: int
    ranks: tuple[int, ...] = field(default=(), compare=False)
    children: int = field(default=0, compare=False)


class Counted(Protocol):
    """An answer whose verify steps are counted."""

    @property
    def steps(self) -> Sequence[StepCount]: ...


@dataclass(frozen=True)
class DepthAcceptance:
    """Acceptance at one depth of the tree.

    Attributes:
        depth: 1 = children of the root.
        offered: steps in which a child was offered there below an accepted parent.
        accepted: steps in which one was accepted there.
        steps: all steps.
    """

    depth: int
    offered: int
    accepted: int
    steps: int

    @property
    def acceptance_rate(self) -> float | None:
        """Conditional on the parent being accepted: accepted / offered."""
        return self.accepted / self.offered if self.offered else None

    @property
    def joint_rate(self) -> float:
        """Joint: accepted / all steps."""
        return self.accepted / self.steps


@dataclass
class AcceptStats:
    """Pooled statistics over the verify steps of many answers."""

    steps: list[StepCount] = field(default_factory=list)

    @classmethod
    def of(cls, completions: Iterable[Counted]) -> AcceptStats:
        """The statistics of answers together."""
        return cls([step for completion in completions for step in completion.steps])

    @property
    def num_steps(self) -> int:
        return len(self.steps)

    @property
    def accept_length(self) -> float | None:
        """Committed tokens per verify step, bonus token included: sum of tokens / number of steps, pooled."""
        return sum(step.committed for step in self.steps) / len(self.steps) if self.steps else None

    @property
    def histogram(self) -> dict[int, int]:
        """Steps by committed tokens."""
        return dict(sorted(Counter(step.committed for step in self.steps).items()))

    @property
    def by_depth(self) -> list[DepthAcceptance]:
        """Acceptance at every depth that was offered at least once."""
        deepest = max((step.offered for step in self.steps), default=0)
        return [
            DepthAcceptance(
                depth=depth,
                offered=sum(step.offered >= depth for step in self.steps),
                accepted=sum(step.accepted >= depth for step in self.steps),
                steps=len(self.steps),
            )
            for depth in range(1, deepest + 1)
        ]


def bootstrap_interval(
    groups: Sequence[Sequence[StepCount]], resamples: int, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the pooled accept length.

    Args:
        groups: the steps of each conversation; conversations are resampled, because the steps of one are not
            independent of each other.
        resamples: how often; 0 = no interval.
        seed: of the resampling.
        level: coverage.

    Returns:
        Lower and upper end, or None without steps or with fewer than two conversations.
    """
    sums = [(sum(step.committed for step in group), len(group)) for group in groups if group]
    if resamples <= 0 or len(sums) < 2:
        return None
    generator = random.Random(seed)
    values = []
    for _ in range(resamples):
        drawn = generator.choices(sums, k=len(sums))
        values.append(sum(tokens for tokens, _ in drawn) / sum(steps for _, steps in drawn))
    values.sort()
    tail = (1 - level) / 2
    return values[int(tail * resamples)], values[min(resamples - 1, int((1 - tail) * resamples))]


def macro_accept_length(groups: Sequence[Sequence[StepCount]]) -> float | None:
    """Mean over conversations of each one's accept length: how other tools average; never the headline."""
    means = [sum(step.committed for step in group) / len(group) for group in groups if group]
    return sum(means) / len(means) if means else None
