"""Which draft tree pays: expected accept lengths from rates of acceptance, cycle times, and the choice between shapes.

The base's next token is the draft's r-th child of an accepted node with a probability that depends on r and on the
depth. From these probabilities follows what every shape would have accepted; with the measured time of a cycle of every
shape and of a plain step follows what is fastest. It knows no models and no clocks.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hetspec_core.acceptance import StepCount
from hetspec_core.spec import TreeSpec

LEAST_GAIN = 1.05
"""A shape is taken when its predicted speed-up over plain decoding is at least this."""

SHAPES = tuple(
    TreeSpec.parse(shape)
    for shape in ("1/1/1", "2/1/2", "3/1/3", "3/2/5", "5/1/5", "4/2/7", "4/4/12", "5/8/31", "6/10/60")
)
"""What `auto` chooses from, within its bounds."""

_FIRST = (0.55, 0.22, 0.15, 0.1)  # chance of a rank when those before it were wrong; it falls with 1 / rank behind them
_FIRST_WEIGHT = 6.0  # steps that these are worth
_HALF_LIFE = 500.0  # steps after which an observation counts half
_DISTURBED = 1.3  # times as slow as a larger shape
_REMEMBERED = 5  # times of a shape whose median counts
_FEWEST_SEEN = 2  # times of a label that overrule what was measured: one alone may be of a disturbed answer
_SHAPE_WEIGHT = 30.0  # steps of a shape after which its own accept length counts as much as the model's


@dataclass
class AcceptanceModel:
    """Chances that a child is accepted, by depth and rank, and the accept lengths seen with every shape.

    Rank 1 has a chance for every depth. The chance of a further rank, given that those before it were wrong, is pooled
    over the depths. It is counted with decay, so that the estimate follows a change of topic.
    """

    _hits: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    _trials: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    _committed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _steps: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def start_from(self, rates: Sequence[float], weight: float = 50.0) -> None:
        """Begin with rates of acceptance by depth, as training simulates them for a chain.

        Args:
            rates: from depth 1 on, each given that the parent is accepted.
            weight: steps that they are worth.
        """
        for depth, rate in enumerate(rates, start=1):
            self._hits[depth, 1] += weight * rate
            self._trials[depth, 1] += weight

    def learn(self, shape: TreeSpec, steps: Iterable[StepCount]) -> None:
        """Count the verify steps of an answer that was decoded with a shape."""
        steps = list(steps)
        kept = 0.5 ** (len(steps) / _HALF_LIFE)
        for counts in (self._hits, self._trials):
            counts.update({key: kept * count for key, count in counts.items()})
        for totals in (self._committed, self._steps):
            totals.update({label: kept * count for label, count in totals.items()})
        for step in steps:
            for depth, rank in enumerate(step.ranks, start=1):
                self._miss(depth, rank)
                self._hits[self._key(depth, rank + 1)] += 1
                self._trials[self._key(depth, rank + 1)] += 1
            self._miss(step.accepted + 1, step.children)
            self._committed[shape.label] += step.accepted + 1  # committed tokens are cut at the end of an answer
            self._steps[shape.label] += 1

    def _miss(self, depth: int, count: int) -> None:
        for rank in range(1, count + 1):
            self._trials[self._key(depth, rank)] += 1

    @staticmethod
    def _key(depth: int, rank: int) -> tuple[int, int]:
        return (depth, 1) if rank == 1 else (0, rank)

    def chance(self, depth: int, rank: int) -> float:
        """That the child of a rank (1 = the likeliest) is accepted at a depth, its parent being accepted."""
        chance = 1.0
        for before in range(1, rank):
            chance *= 1 - self._given(depth, before)
        return chance * self._given(depth, rank)

    def _given(self, depth: int, rank: int) -> float:
        key = self._key(depth, rank)
        first = _first(rank)
        if rank > 2:  # what is seen of a rank says what to expect of the next
            first *= min(1.0, self._given(depth, rank - 1) / _first(rank - 1))
        return (self._hits.get(key, 0.0) + _FIRST_WEIGHT * first) / (self._trials.get(key, 0.0) + _FIRST_WEIGHT)

    def modelled(self, shape: TreeSpec) -> float:
        """Expected accept length of a shape by the chances: 1 and the chances of the N likeliest nodes."""
        chances: dict[tuple[int, int], float] = {}

        def of(depth: int, rank: int) -> float:
            if (depth, rank) not in chances:
                chances[depth, rank] = self.chance(depth, rank)
            return chances[depth, rank]

        total, left = 1.0, shape.num_nodes
        queue = [(-of(1, 1), 1, 1, 1.0)]  # chance of the path, depth, rank, chance of the parent's path
        while queue and left:
            negative, depth, rank, above = heapq.heappop(queue)
            total, left = total - negative, left - 1
            if rank < shape.top_k:
                heapq.heappush(queue, (-above * of(depth, rank + 1), depth, rank + 1, above))
            if depth < shape.depth:
                heapq.heappush(queue, (negative * of(depth + 1, 1), depth + 1, 1, -negative))
        return total

    def accept_length(self, shape: TreeSpec) -> float:
        """Expected accept length of a shape: what was seen with it, and the model as far as little was seen."""
        steps = self._steps.get(shape.label, 0.0)
        seen = self._committed.get(shape.label, 0.0)
        return (seen + _SHAPE_WEIGHT * self.modelled(shape)) / (steps + _SHAPE_WEIGHT)


def _first(rank: int) -> float:
    """The chance of a rank before anything is seen."""
    return _FIRST[rank - 1] if rank <= len(_FIRST) else _FIRST[-1] * len(_FIRST) / rank


@dataclass
class CycleCosts:
    """Seconds of decoding steps of one batch size on one machine.

    `plain` is a label as well as the shapes are.

    Attributes:
        plain_s: a step of plain decoding, measured at the start.
        cycle_s: by label of a shape, one cycle of propose, verify and commit, measured at the start.
    """

    plain_s: float
    cycle_s: dict[str, float]
    _seen: dict[str, deque[float]] = field(default_factory=dict)

    def seconds(self, label: str) -> float:
        """Of a step: what answers took, or what was measured, scaled as others came out: a shape as other shapes."""
        if label in self._seen:
            return self._of_answers(label)
        alike = [each for each in self._seen if (each == "plain") == (label == "plain")] or self._seen
        ratios = [math.log(self._of_answers(each) / self._measured(each)) for each in alike]
        return self._measured(label) * math.exp(sum(ratios) / len(ratios) if ratios else 0.0)

    def _of_answers(self, label: str) -> float:
        """The median of what answers took. One answer alone, which may be disturbed, cannot come out as slower."""
        times = list(self._seen[label])
        if len(times) < _FEWEST_SEEN:
            times.append(self._measured(label))
        return statistics.median_low(times)

    def plausible(self, shapes: Sequence[TreeSpec]) -> bool:
        """Whether no shape came out much slower than one that contains it, as on a machine that is disturbed."""
        return all(
            self.cycle_s[small.label] <= _DISTURBED * self.cycle_s[large.label]
            for small in shapes
            for large in shapes
            if small.depth <= large.depth and small.num_nodes <= large.num_nodes
        )

    def correct(self, label: str, seconds: float) -> None:
        """Tell what a step of an answer took."""
        self._seen.setdefault(label, deque(maxlen=_REMEMBERED)).append(seconds)

    def seen(self, label: str) -> bool:
        """Whether an answer has shown its time."""
        return label in self._seen

    def differs(self, other: CycleCosts) -> bool:
        """Whether a ratio to plain decoding differs by more than 5 %."""
        ratios = [
            (costs / self.plain_s) / (other.cycle_s[label] / other.plain_s) for label, costs in self.cycle_s.items()
        ]
        return any(abs(math.log(ratio)) > 0.05 for ratio in ratios)

    def joined(self, other: CycleCosts) -> CycleCosts:
        """These costs with the shapes that were measured later, at another plain step's time, beside them."""
        scale = self.plain_s / other.plain_s
        later = {label: scale * seconds for label, seconds in other.cycle_s.items()}
        return CycleCosts(self.plain_s, later | self.cycle_s, self._seen)

    def corrected(self) -> CycleCosts | None:
        """The costs as answers corrected them; None until plain decoding and a shape were seen often enough."""
        settled = {label for label, times in self._seen.items() if len(times) >= _FEWEST_SEEN}
        if "plain" not in settled or len(settled) < 2:
            return None
        return CycleCosts(self.seconds("plain"), {label: self.seconds(label) for label in self.cycle_s})

    def _measured(self, label: str) -> float:
        return self.plain_s if label == "plain" else self.cycle_s[label]


@dataclass(frozen=True)
class TreeChoice:
    """What `auto` decided for an answer.

    Attributes:
        shape: of the tree; None = plain decoding.
        predicted_speedup: of the best shape over plain decoding.
        best: the best shape, whether it pays or not.
        accept_length: expected with the best shape.
    """

    shape: TreeSpec | None
    predicted_speedup: float
    best: TreeSpec
    accept_length: float

    @property
    def label(self) -> str:
        """The shape, or `plain`."""
        return "plain" if self.shape is None else self.shape.label

    @property
    def sentence(self) -> str:
        """The choice and its reason."""
        expected = f"accept length {self.accept_length:.2f}, {self.predicted_speedup:.2f} times plain decoding"
        if self.shape is None:
            return (
                f"tree auto decodes plainly: the best shape is {self.best.label} with a predicted {expected}, and "
                f"{LEAST_GAIN:.2f} times is the least that it takes"
            )
        return f"tree auto takes {self.shape.label}: predicted {expected}"


def shapes_within(bounds: TreeSpec, vocab_size: int | None = None) -> tuple[TreeSpec, ...]:
    """The shapes that `auto` may choose: those within its bounds, and no wider than a draft's vocabulary."""
    widest = min(bounds.top_k, vocab_size or bounds.top_k)
    found = tuple(
        shape
        for shape in SHAPES
        if shape.depth <= bounds.depth and shape.top_k <= widest and shape.num_nodes <= bounds.num_nodes
    )
    return found or (TreeSpec(depth=1, top_k=1, num_draft_tokens=1),)


def choose(costs: CycleCosts, model: AcceptanceModel, shapes: Iterable[TreeSpec]) -> TreeChoice:
    """The fastest of the shapes whose cycle was timed, or plain decoding where none is 5 % faster than it."""
    expected: Mapping[TreeSpec, float] = {
        shape: model.accept_length(shape) for shape in shapes if shape.label in costs.cycle_s
    }
    if not expected:
        raise ValueError("no shape has a cycle time")
    plain_s = costs.seconds("plain")
    speedups = {shape: length * plain_s / costs.seconds(shape.label) for shape, length in expected.items()}
    best = max(speedups, key=lambda shape: speedups[shape])
    taken = best if speedups[best] >= LEAST_GAIN else None
    return TreeChoice(taken, speedups[best], best, expected[best])
