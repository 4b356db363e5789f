"""Token text made safe to show, and what a verify step says in words. It knows no terminal and no colours."""

from __future__ import annotations

from dataclasses import dataclass

from hetspec_core.events.steps import TreeStep

_NAMES = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}


def shown(text: str, *, spaces: bool = False) -> str:
    """Token text without anything that moves a cursor or hides: controls, separators, directions, joiners by name.

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
    """Why a verify step accepted no more: the draft's likeliest child where the path ended.

    Attributes:
        node: index of the rejected child.
        depth: its level.
        rank: its place in the base's distribution, from 0.
        draft_prob, base_prob: what both models gave it.
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
