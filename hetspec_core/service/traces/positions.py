"""The draft trees of a trace by position in its answer, as the simulator walks them.

A step's root stands at a position of the answer; below it hang the recorded nodes. A trace recorded at every position
has a tree of its own everywhere. In another trace the positions between two steps only have the subtree below the
accepted node: drafted without the base's features of the tokens since, and shallower; such trees are marked. It knows
traces, not shapes or costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetspec_core.errors import DataError
from hetspec_core.events.chat import Step, Tokens
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import Trace
from hetspec_core.spec import TreeSpec

_LEAST_PROB = 1e-38  # a probability that was rounded to nothing still has an order


@dataclass(frozen=True)
class PositionTree:
    """Recorded candidates below one position.

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
    """One answer, ready to be walked with any shape.

    Attributes:
        tokens: the answer; a step at position r continues `tokens[r]`.
        trees: tree of every position that one was recorded or derived for.
        shape: the shape it was recorded with.
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
    """Give the positions behind `root` that have no tree the subtree below the node that was accepted there."""
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
