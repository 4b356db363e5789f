"""A draft tree as rows of text, three ways. Plain data: it knows a verify step, not how rows are drawn.

Every way shows the accepted path with a sign of its own, so that it is told without colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hetspec_core.events import TreeStep
from hetspec_tui.formatting import safe

Kind = Literal["root", "accepted", "rejected", "best", "bonus", "head"]
View = Literal["tree", "table", "compact"]
VIEWS: tuple[View, ...] = ("tree", "table", "compact")

SIGNS: dict[Kind, str] = {"root": "◆", "accepted": "●", "rejected": "·", "best": "✗", "bonus": "★", "head": " "}
"""What a row is -> a sign of one cell. `best` is the draft's likeliest guess where the accepted path ended."""


@dataclass(frozen=True)
class TreeRow:
    """One row.

    Attributes:
        kind: what it is.
        branch: lines of the tree before the sign.
        token: what is said, safe to draw.
        facts: probabilities and ranks, flush right.
        node: index of the node; -1 for what is none.
    """

    kind: Kind
    branch: str
    token: str
    facts: str
    node: int = -1


def best_rejected(step: TreeStep) -> int:
    """The draft's likeliest child of the last accepted node; 0 when there is none."""
    end = step.path[-1] if step.path else 0
    below = [node for node in range(1, len(step.tokens)) if step.parents[node] == end]
    return max(below, key=lambda node: step.draft_probs[node], default=0)


def rows_of(step: TreeStep, view: View) -> list[TreeRow]:
    """The rows of a step in one of `VIEWS`."""
    return list({"tree": _tree, "table": _table, "compact": _compact}[view](step))


def token_text(text: str) -> str:
    """Token text that moves no cursor, its blanks visible where there is nothing else."""
    if not text:
        return "∅"
    return safe(text if text.strip(" ") else text.replace(" ", "␣"))


def _kinds(step: TreeStep) -> list[Kind]:
    kinds: list[Kind] = ["rejected"] * len(step.tokens)
    kinds[0] = "root"
    for node in step.path:
        kinds[node] = "accepted"
    best = best_rejected(step)
    if best:
        kinds[best] = "best"
    return kinds


def _facts(step: TreeStep, node: int) -> str:
    return f"{_share(step.draft_probs[node])} {_share(step.base_probs[node])} {_rank(step.base_ranks[node])}"


def _share(value: float) -> str:
    """A probability in four cells."""
    return "  1 " if value >= 0.9995 else f".{round(value * 1000):03d}" if value >= 0.0005 else "  0 "


def _rank(rank: int) -> str:
    """A place in the base's distribution, from 1, in five cells."""
    return f"{'#' + str(rank + 1):>5}" if rank < 9999 else " far "


HEAD = "   q    p  rank"
"""The heading of `facts`."""


def _bonus(step: TreeStep, branch: str) -> TreeRow:
    return TreeRow("bonus", branch, token_text(step.bonus_text), f"     {_share(step.bonus_prob)} bonus")


def _tree(step: TreeStep) -> Iterator[TreeRow]:
    kinds = _kinds(step)
    children: list[list[int]] = [[] for _ in step.tokens]
    for node in range(1, len(step.tokens)):
        children[step.parents[node]].append(node)
    for below in children:
        below.sort(key=lambda node: (kinds[node] != "accepted", -step.draft_probs[node]))
    end = step.path[-1] if step.path else 0
    yield TreeRow("root", "", token_text(step.texts[0]), HEAD, 0)

    stack: list[tuple[int, str, bool]] = []

    def push(node: int, indent: str) -> None:
        below = children[node]
        for place, child in reversed(list(enumerate(below))):
            stack.append((child, indent, place == len(below) - 1))
        if node == end:  # the base's own choice stands first among what follows the accepted path
            stack.append((-1, indent, not below))

    push(0, "")
    while stack:
        node, indent, last = stack.pop()
        branch = indent + ("└─" if last else "├─")
        if node < 0:
            yield _bonus(step, branch)
            continue
        yield TreeRow(kinds[node], branch, token_text(step.texts[node]), _facts(step, node), node)
        push(node, indent + ("  " if last else "│ "))


def _table(step: TreeStep) -> Iterator[TreeRow]:
    kinds, depths = _kinds(step), step.depths
    yield TreeRow("root", " 0 ", token_text(step.texts[0]), HEAD, 0)
    order = sorted(range(1, len(step.tokens)), key=lambda n: (depths[n], kinds[n] != "accepted", -step.draft_probs[n]))
    for node in order:
        above = token_text(step.texts[step.parents[node]])
        token = f"{token_text(step.texts[node])}  ← {above}" if depths[node] > 1 else token_text(step.texts[node])
        yield TreeRow(kinds[node], f"{depths[node]:>2} ", token, _facts(step, node), node)
    yield _bonus(step, f"{len(step.path) + 1:>2} ")


def _compact(step: TreeStep) -> Iterator[TreeRow]:
    kinds, depths = _kinds(step), step.depths
    width = [0] * (max(depths) + 1)
    for depth in depths:
        width[depth] += 1
    yield TreeRow("root", "", token_text(step.texts[0]), HEAD, 0)
    for node in step.path:
        others = width[depths[node]] - 1
        more = f"  +{others}" if others else ""
        yield TreeRow("accepted", "", f"{token_text(step.texts[node])}{more}", _facts(step, node), node)
    yield _bonus(step, "")
    best = best_rejected(step)
    if best:
        yield TreeRow(kinds[best], "", token_text(step.texts[best]), _facts(step, best), best)
