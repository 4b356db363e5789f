"""Where each node of a draft tree stands, in three ways: as a tree, as a table of levels, one line a level. Pure.

It knows one verify step and no colours; text of tokens is told to it ready to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hetspec_core.events.steps import TreeStep

Kind = Literal["root", "accepted", "rejected", "failed", "bonus"]
SIGNS: dict[Kind, str] = {"root": "◉", "accepted": "●", "rejected": "○", "failed": "✗", "bonus": "★"}
"""What became of a node -> its sign, so that nothing is told by colour alone."""
BONUS = -1
"""The bonus token, which is no node of the tree."""


@dataclass(frozen=True)
class TreeFrame:
    """One verify step, ready to be laid out.

    Attributes:
        step: the step.
        labels: [N+1] text of every node, safe to draw.
        bonus: text of the bonus token.
        failed: the draft's best proposal where the path ended; None when nothing was proposed there.
        why: what became of it, in a sentence.
    """

    step: TreeStep
    labels: Sequence[str]
    bonus: str
    failed: int | None = None
    why: str = ""

    def label(self, node: int) -> str:
        """Text of a node, or of the bonus token."""
        return self.bonus if node == BONUS else self.labels[node]

    def kind(self, node: int) -> Kind:
        """What became of a node."""
        if node == BONUS:
            return "bonus"
        if node == 0:
            return "root"
        if node in self.step.path:
            return "accepted"
        return "failed" if node == self.failed else "rejected"

    def draft(self, node: int) -> float | None:
        """What the draft gave it; None for root and bonus."""
        return None if node <= 0 else self.step.draft_probs[node]

    def base(self, node: int) -> float | None:
        """What the base gave it; None for the root."""
        return self.step.bonus_prob if node == BONUS else None if node == 0 else self.step.base_probs[node]

    def rank(self, node: int) -> int | None:
        """Its place in the base's distribution, from 0; None for root and bonus."""
        return None if node <= 0 else self.step.base_ranks[node]


@dataclass(frozen=True)
class Branch:
    """A node in the tree view: the lines that lead to it, heavy where the accepted path goes."""

    node: int
    stem: str


def children_of(frame: TreeFrame) -> list[list[int]]:
    """[N+1] children of each node: the accepted one or the bonus first, then the failed one, then the likeliest."""
    step, end = frame.step, frame.step.path[-1] if frame.step.path else 0
    found: list[list[int]] = [[] for _ in step.tokens]
    for node in range(1, len(step.tokens)):
        found[step.parents[node]].append(node)
    order = {"accepted": 0, "failed": 1}
    for below in found:
        below.sort(key=lambda node: (order.get(frame.kind(node), 2), -_known(step.draft_probs[node])))
    found[end].insert(0, BONUS)
    return found


def branches(frame: TreeFrame) -> list[Branch]:
    """The tree line by line: every node once, the accepted path down the first lines."""
    children = children_of(frame)
    found = [Branch(0, "")]
    stack = [(node, "", at == len(children[0]) - 1) for at, node in enumerate(children[0])][::-1]
    while stack:
        node, above, last = stack.pop()
        on_path = frame.kind(node) in ("accepted", "bonus")
        corner = ("┗" if last else "┡") if on_path else ("└" if last else "├")
        found.append(Branch(node, f"{above}{corner}{'━' if on_path else '─'}"))
        if node != BONUS:
            below = children[node]
            stem = above + ("  " if last else "│ ")
            stack += [(child, stem, at == len(below) - 1) for at, child in enumerate(below)][::-1]
    return found


@dataclass(frozen=True)
class NodePosition:
    """A node in the table view; `parent` is the row of its parent in the level before, from 0."""

    node: int
    parent: int


def levels(frame: TreeFrame) -> list[list[NodePosition]]:
    """The nodes by level, from 1; in each the accepted one or the bonus first, then by joint draft probability."""
    step, depths = frame.step, frame.step.depths
    joint = [0.0] * len(step.tokens)
    for node in range(1, len(step.tokens)):
        joint[node] = joint[step.parents[node]] + math.log(max(_known(step.draft_probs[node]), 1e-38))
    deepest = max([*depths, len(step.path) + 1])
    found: list[list[int]] = [[] for _ in range(deepest)]
    for node in range(1, len(step.tokens)):
        found[depths[node] - 1].append(node)
    order = {"accepted": 0, "failed": 1}
    for nodes in found:
        nodes.sort(key=lambda node: (order.get(frame.kind(node), 2), -joint[node]))
    found[len(step.path)].insert(0, BONUS)
    rows = {node: row for nodes in found for row, node in enumerate(nodes)}
    rows[0] = 0
    end = step.path[-1] if step.path else 0
    return [
        [NodePosition(node, rows[end if node == BONUS else step.parents[node]]) for node in nodes] for nodes in found
    ]


def percent(value: float | None) -> str:
    """A probability in five cells at most: 62%, 3.1%, <.1%."""
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 0.0995:
        return f"{value:.0%}"
    return f"{value:.1%}" if value >= 0.001 else "<.1%"


def place(rank: int | None) -> str:
    """A rank in six cells at most, counted from 1: #1, #4,312, #128k."""
    if rank is None:
        return ""
    return f"#{rank + 1:,}" if rank < 9999 else f"#{(rank + 1) // 1000}k"


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0
