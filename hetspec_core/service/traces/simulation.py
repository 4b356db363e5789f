"""The tree simulator: what accept length other tree shapes would have had, from recorded traces, without a model.

EAGLE-2's selection (arXiv 2406.16858, section 4; `engine/decoding/propose.py`) is repeated on the recorded
candidates of each position: level by level the top_k best nodes are expanded into top_k children each, and the best
num_draft_tokens of all are kept. Which node is accepted is known from the answer: the one whose token comes next.

Assumed:
- The answer does not depend on the shape. True for greedy decoding in float32, and for sampling as well, because
  randomness belongs to positions (docs/adr/0002). In bfloat16 answers may part where two tokens are close.
- What the draft proposes at a position depends only on the tokens before it, not on how they were committed. True:
  after each step it reads the committed tokens with the base's own features.
- So the prediction is exact where a tree was recorded at every position and the smaller tree's candidates are among the
  recorded ones. Where they are not, a prediction says so: `extrapolated` = the shape is larger than the recorded one;
  `certain` = share of steps that no unrecorded candidate could change; `own_trees` = share of steps that stood where a
  tree was drafted (the others used what the tree before had below the accepted node).

Positions: a step's root stands at a position of the answer; below it hang the recorded nodes. A trace recorded at every
position has a tree of its own everywhere. In another trace the positions between two steps only have the subtree below
the accepted node: drafted without the base's features of the tokens since, and shallower; such trees are marked.

Costs: a shape that was measured costs what was measured. Between the measured shapes, proposing is linear in the levels
below the first and in the nodes expanded there (depth - 1 and (depth - 1) * top_k), and verifying is linear between the
measured numbers of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hetspec_core.errors import DataError
from hetspec_core.events.chat import Calibrated, ShapeCost, Step, Tokens
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import Trace
from hetspec_core.spec import TreeSpec

_LEAST_PROB = 1e-38  # keeps the order of probabilities that were rounded to 0
_NODES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 60, 96, 128)
_TOP_K = (1, 2, 3, 4, 6, 8, 10, 16)

CALIBRATION_TREES = ("1/1/1", "4/1/4", "3/4/12", "6/4/24", "6/10/60")
"""Shapes that determine the cost model: chain and tree, shallow and deep, few nodes and many."""


@dataclass(frozen=True)
class PositionTree:
    """The recorded candidates below one position.

    Attributes:
        tokens: [N+1] the root first.
        scores: [N+1] sum of log q from the root.
        depths: [N+1] 0 for the root.
        children: [N+1] indices, likeliest first.
        expanded: [N+1] whether the recorded proposal looked below the node, so that its best children are known.
        floor: candidates that are not recorded have a lower score than this.
        own: whether the tree was drafted at this position.
    """

    tokens: list[int]
    scores: list[float]
    depths: list[int]
    children: list[list[int]]
    expanded: list[bool]
    floor: float
    own: bool = True


@dataclass(frozen=True)
class Positions:
    """One answer for the simulation of any shape.

    Attributes:
        tokens: the answer; a step at position r continues `tokens[r]`.
        trees: position -> its recorded or derived tree.
        shape: the shape with which it was recorded.
    """

    tokens: list[int]
    trees: dict[int, PositionTree]
    shape: TreeSpec


def read_positions(trace: Trace, name: str = "the trace") -> Positions:
    """The trees of a trace by position.

    Raises:
        DataError: it has no trees, or there is a gap in it.
    """
    shape = trace.header.settings.decoding.tree
    tokens: list[int] = []
    trees: dict[int, PositionTree] = {}
    last: list[tuple[int, TreeStep]] = []
    for reply in trace.replies:
        if isinstance(reply, Tokens):
            tokens += reply.tokens
        elif isinstance(reply, Step):
            if reply.tree is not None:
                if not tokens or tokens[-1] != reply.tree.tokens[0]:
                    raise DataError(f"{name} has a gap before step {reply.index}", hint="record it again")
                last.append((len(tokens) - 1, reply.tree))
            tokens += reply.committed
    if not last:
        raise DataError(f"{name} has no draft trees", hint="record an answer with a draft and with trees")
    for root, step in last:
        tree = _whole(step, shape)
        trees[root] = tree
    for root, _ in last:
        _fill(trees, root, tokens)
    return Positions(tokens, trees, shape)


def _whole(step: TreeStep, shape: TreeSpec) -> PositionTree:
    size = len(step.tokens)
    depths = step.depths
    scores = [0.0] * size
    children: list[list[int]] = [[] for _ in range(size)]
    for node in range(1, size):
        parent = step.parents[node]
        scores[node] = scores[parent] + math.log(max(step.draft_probs[node], _LEAST_PROB))
        children[parent].append(node)
    for below in children:
        below.sort(key=lambda node: -step.draft_probs[node])  # stable: level order among equals
    expanded = [False] * size
    expanded[0] = True
    for level in range(1, shape.depth):
        at_level = sorted((node for node in range(size) if depths[node] == level), key=lambda node: -scores[node])
        for node in at_level[: shape.top_k]:
            expanded[node] = True
    pruned = shape.num_draft_tokens < shape.num_candidates
    floor = min(scores[1:], default=0.0) if pruned else -math.inf
    return PositionTree(list(step.tokens), scores, depths, children, expanded, floor)


def _fill(trees: dict[int, PositionTree], root: int, tokens: list[int]) -> None:
    """Give positions after `root` without a tree the subtree below the node that was accepted there."""
    tree, node, place = trees[root], 0, root
    while place + 1 < len(tokens):
        node = next((child for child in tree.children[node] if tree.tokens[child] == tokens[place + 1]), -1)
        place += 1
        if node < 0 or place in trees:
            return
        trees[place] = _below(tree, node)


def _below(tree: PositionTree, top: int) -> PositionTree:
    order = [top]
    for node in order:
        order += tree.children[node]
    order.sort(key=lambda node: (tree.depths[node], node))
    place = {node: index for index, node in enumerate(order)}
    return PositionTree(
        tokens=[tree.tokens[node] for node in order],
        scores=[tree.scores[node] - tree.scores[top] for node in order],
        depths=[tree.depths[node] - tree.depths[top] for node in order],
        children=[[place[child] for child in tree.children[node]] for node in order],
        expanded=[tree.expanded[node] for node in order],
        floor=tree.floor - tree.scores[top],
        own=False,
    )


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step; `measured` = exactly this shape was measured."""

    step_s: float
    measured: bool


class Costs:
    """Costs of steps, from a calibration.

    Args:
        calibration: with one measured shape or more.
    """

    def __init__(self, calibration: Calibrated) -> None:
        self.plain_token_s = calibration.plain_token_s
        self._shapes = list(calibration.shapes)
        self._by_label = {cost.tree: cost for cost in self._shapes}
        self._propose = _fit_propose(self._shapes)
        self._other_s = sum(cost.other_s for cost in self._shapes) / len(self._shapes) if self._shapes else 0.0

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def step(self, shape: TreeSpec) -> StepCost:
        """Cost of a step of this shape."""
        known = self._by_label.get(shape.label)
        if known is not None:
            return StepCost(known.step_s, True)
        features = _features(shape)[: len(self._propose)]
        propose_s = max(0.0, sum(weight * value for weight, value in zip(self._propose, features)))
        return StepCost(propose_s + self._verify_s(shape.num_nodes) + self._other_s, False)

    def tokens_per_s(self, shape: TreeSpec, accept_length: float) -> float | None:
        """Decode tokens/s with this accept length."""
        step_s = self.step(shape).step_s
        return accept_length / step_s if step_s > 0 else None

    def _verify_s(self, nodes: int) -> float:
        groups: dict[int, list[float]] = {}
        for cost in self._shapes:
            groups.setdefault(cost.nodes, []).append(cost.verify_s)
        points = sorted((count, sum(values) / len(values)) for count, values in groups.items())
        if len(points) == 1:
            return points[0][1]
        right = next((i for i, (count, _) in enumerate(points) if count >= nodes), len(points) - 1)
        (x0, y0), (x1, y1) = points[max(0, right - 1)], points[max(1, right)]
        return max(0.0, y0 + (y1 - y0) * (nodes - x0) / (x1 - x0))


def _features(shape: TreeSpec) -> tuple[float, float, float]:
    return (1.0, shape.depth - 1.0, (shape.depth - 1.0) * shape.top_k)


def _fit_propose(shapes: Sequence[ShapeCost]) -> list[float]:
    """Weights of the features by least squares; of fewer features when there are too few different shapes."""
    rows = [_features(TreeSpec.parse(cost.tree)) for cost in shapes]
    values = [cost.propose_s for cost in shapes]
    for count in (3, 2):
        if len({row[:count] for row in rows}) >= count:
            found = _least_squares([row[:count] for row in rows], values)
            if found is not None:
                return found
    return [sum(values) / len(values)] if values else [0.0]


def _least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float] | None:
    """Solve the normal equations by elimination; None when they have no single solution."""
    size = len(rows[0])
    table = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(r[i] * v for r, v in zip(rows, values))]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda line: abs(table[line][column]))
        if abs(table[pivot][column]) < 1e-9:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        for line in range(size):
            if line != column:
                factor = table[line][column] / table[column][column]
                table[line] = [a - factor * b for a, b in zip(table[line], table[column])]
    return [table[i][size] / table[i][i] for i in range(size)]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one shape.

    Attributes:
        shape: depth/top_k/num_draft_tokens.
        accept_length: tokens per verify step, pooled over the traces.
        steps, tokens: verify steps, and tokens they commit.
        extrapolated: the shape is larger than the recorded one, so the figure is at best a lower bound.
        certain: share of steps that unrecorded candidates could not change.
        own_trees: share of steps with a tree drafted at their position.
        step_s, tokens_per_s, speedup: with the costs of a calibration; None without one.
        measured_cost: whether the cost of exactly this shape was measured.
    """

    shape: TreeSpec
    accept_length: float
    steps: int
    tokens: int
    extrapolated: bool
    certain: float
    own_trees: float
    step_s: float | None = None
    tokens_per_s: float | None = None
    speedup: float | None = None
    measured_cost: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "shape": self.shape.label}


@dataclass(frozen=True)
class Simulation:
    """Predictions of many shapes.

    Attributes:
        predictions: all of them, fastest first (most accepted first without costs).
        frontier: the Pareto front of cost (step seconds, or nodes) and accept length, cheapest first.
        best: the fastest that is not extrapolated; without costs the cheapest within 1 % of the longest.
    """

    predictions: list[Prediction]
    frontier: list[Prediction]
    best: Prediction | None

    def to_json(self) -> dict[str, Any]:
        best = None if self.best is None else self.best.to_json()
        lists = {"predictions": self.predictions, "frontier": self.frontier}
        return {"best": best, **{key: [one.to_json() for one in rows] for key, rows in lists.items()}}


def simulate(
    answers: Sequence[Positions], shapes: Iterable[TreeSpec] | None = None, costs: Costs | None = None
) -> Simulation:
    """Predict every shape on all answers together.

    Args:
        answers: recorded answers; best recorded with a wide tree at every position.
        shapes: to predict; a grid within the recorded shape when absent.
        costs: step costs of this machine, for tokens/s.

    Raises:
        DataError: there is no answer.
    """
    if not answers:
        raise DataError("there is no trace to simulate from", hint="record one: hetspec-core chat --record")
    tried = list(dict.fromkeys(shapes if shapes is not None else grid(answers)))
    predictions = [predict(answers, shape, costs) for shape in tried]
    predictions.sort(key=lambda one: (-(one.tokens_per_s or 0.0), -one.accept_length, one.shape.num_nodes))
    known = [one for one in predictions if not one.extrapolated]
    return Simulation(predictions, _frontier(known), _best(known))


def predict(answers: Sequence[Positions], shape: TreeSpec, costs: Costs | None = None) -> Prediction:
    """Predict one shape on all answers together."""
    steps = tokens = certain = own = 0
    for answer in answers:
        place, end = 0, len(answer.tokens) - 1
        while place < end:
            tree = answer.trees.get(place)
            accepted, sure = walk(tree, shape, answer.tokens[place + 1 :]) if tree is not None else (0, False)
            committed = min(accepted + 1, end - place)
            steps, tokens = steps + 1, tokens + committed
            certain, own = certain + sure, own + (tree is not None and tree.own)
            place += committed
    accept_length = tokens / steps if steps else 0.0
    cost = costs.step(shape) if costs else None
    speed = accept_length / cost.step_s if cost is not None and cost.step_s > 0 else None
    return Prediction(
        shape=shape,
        accept_length=accept_length,
        steps=steps,
        tokens=tokens,
        extrapolated=any(_larger(shape, answer.shape) for answer in answers),
        certain=certain / steps if steps else 0.0,
        own_trees=own / steps if steps else 0.0,
        step_s=cost.step_s if cost is not None else None,
        tokens_per_s=speed,
        speedup=speed * costs.plain_token_s if speed is not None and costs is not None else None,
        measured_cost=cost.measured if cost is not None else False,
    )


def walk(tree: PositionTree, shape: TreeSpec, following: Sequence[int]) -> tuple[int, bool]:
    """How many nodes of the simulated tree are accepted, and whether no unrecorded candidate could change that.

    Args:
        tree: the recorded candidates of a position.
        shape: the simulated shape.
        following: tokens of the answer after the root.
    """
    chosen, bound = select(tree, shape)
    node, accepted, sure = 0, 0, True
    for token in following:
        child = next((one for one in tree.children[node] if tree.tokens[one] == token), -1)
        if child < 0:  # not recorded: could it have been there?
            return accepted, sure and not _room(tree, shape, node, chosen, bound)
        if child not in chosen:  # recorded and not chosen: more candidates would only push it further out
            return accepted, sure
        sure = sure and tree.scores[child] >= bound  # else an unrecorded candidate might have taken its place
        node, accepted = child, accepted + 1
    return accepted, sure


def select(tree: PositionTree, shape: TreeSpec) -> tuple[set[int], float]:
    """The nodes that the shape keeps, and the highest possible score of its candidates that are not recorded."""
    frontier, chosen = [0], []
    bound = -math.inf
    for level in range(1, shape.depth + 1):
        found: list[int] = []
        for node in frontier:
            below = tree.children[node][: shape.top_k]
            found += below
            if not tree.expanded[node]:
                bound = max(bound, tree.scores[node])
            elif len(below) < shape.top_k:
                bound = max(bound, min(tree.floor, tree.scores[node]))
        chosen += found
        if level < shape.depth:
            frontier = sorted(found, key=lambda node: -tree.scores[node])[: shape.top_k]
    chosen.sort(key=lambda node: -tree.scores[node])
    kept = set(chosen[: shape.num_draft_tokens])
    if len(chosen) >= shape.num_draft_tokens and kept and min(tree.scores[node] for node in kept) >= bound:
        bound = -math.inf  # full, and nothing unrecorded could have come in
    return kept, bound


def _room(tree: PositionTree, shape: TreeSpec, node: int, chosen: set[int], bound: float) -> bool:
    """Whether an unrecorded child of `node` could be among the kept ones."""
    if bound == -math.inf or tree.depths[node] >= shape.depth:
        return False
    return sum(1 for child in tree.children[node] if child in chosen) < shape.top_k


def _larger(shape: TreeSpec, recorded: TreeSpec) -> bool:
    return shape.depth > recorded.depth or shape.top_k > recorded.top_k or shape.num_nodes > recorded.num_nodes


def grid(answers: Sequence[Positions]) -> list[TreeSpec]:
    """Shapes within the recorded shape of every answer: chains and trees of every depth."""
    depth = min(answer.shape.depth for answer in answers)
    top_k = min(answer.shape.top_k for answer in answers)
    nodes = min(answer.shape.num_nodes for answer in answers)
    shapes = []
    for levels in range(1, depth + 1):
        for width in sorted({value for value in _TOP_K if value <= top_k} | {top_k}):
            if width == 1:
                shapes.append(TreeSpec(depth=levels, top_k=1, num_draft_tokens=levels))
                continue
            most = min(nodes, width + (levels - 1) * width * width)
            for count in sorted({value for value in _NODES if levels < value <= most} | {most}):
                shapes.append(TreeSpec(depth=levels, top_k=width, num_draft_tokens=count))
    return [shape for shape in shapes if shape.num_nodes <= nodes]


def _frontier(predictions: Sequence[Prediction]) -> list[Prediction]:
    found: list[Prediction] = []
    for one in sorted(predictions, key=lambda one: (_cost(one), -one.accept_length)):
        if not found or one.accept_length > found[-1].accept_length + 1e-9:
            found.append(one)
    return found


def _best(predictions: Sequence[Prediction]) -> Prediction | None:
    if not predictions:
        return None
    if any(one.tokens_per_s is not None for one in predictions):
        return max(predictions, key=lambda one: one.tokens_per_s or 0.0)
    longest = max(one.accept_length for one in predictions)
    return min((one for one in predictions if one.accept_length >= 0.99 * longest), key=_cost)


def _cost(one: Prediction) -> float:
    return one.step_s if one.step_s is not None else float(one.shape.num_nodes)
