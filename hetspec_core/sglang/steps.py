"""Verify steps as SGLang reports them: counted at the end of an answer, or recorded one by one by the tree plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetspec_core.acceptance import StepCount
from hetspec_core.errors import DataError
from hetspec_core.events.steps import TreeStep

_SURPLUS = 64
"""Verify steps that a server may count beyond the tokens of an answer. Each step commits at least one token."""


def step_counts(meta: Mapping[str, Any], completion_tokens: int, depth: int) -> list[StepCount]:
    """The verify steps of one answer from the figures of its last message; [] without speculation.

    SGLang counts how many steps accepted how many draft tokens, not in which order. What a stop token or the limit cut
    off is subtracted from the longest of them, so that the sum of `committed` is the number of tokens after the first.

    Args:
        meta: `meta_info` of the last message.
        completion_tokens: tokens of the answer; the first one comes from prefill.
        depth: levels of the tree. SGLang does not say whether the last accepted node had children; `offered` assumes
            that it had, up to this depth.

    Raises:
        DataError: the figures are no numbers, or count more steps than such an answer can have.
    """
    try:
        steps, histogram = int(meta.get("spec_verify_ct") or 0), histogram_of(meta)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the server's count of verify steps is no number: {error}") from error
    if not steps:
        return []
    if not 0 < steps <= 2 * completion_tokens + _SURPLUS or any(count < 0 for count in histogram):
        raise DataError(f"the server counts {steps:,} verify steps for an answer of {completion_tokens:,} tokens")
    if sum(histogram) == steps:
        accepted = [length for length, count in enumerate(histogram) for _ in range(count)]
    else:
        accepted = _spread(completion_tokens - 1 - steps, steps)
    surplus = sum(accepted) + steps - (completion_tokens - 1)
    counts: list[StepCount] = []
    for value in reversed(accepted):  # the longest runs are the likeliest to have been cut
        cut = max(0, min(surplus, value)) if surplus > 0 else 0
        surplus -= cut
        counts.append(StepCount(committed=value + 1 - cut, accepted=value, offered=max(value, min(value + 1, depth))))
    return counts[::-1]


def histogram_of(meta: Mapping[str, Any]) -> list[int]:
    """How many verify steps accepted 0, 1, 2... draft tokens, under the newer or the older name; [] under neither."""
    found = meta.get("spec_correct_drafts_histogram") or meta.get("spec_accept_histogram")
    return [int(count) for count in found] if isinstance(found, Sequence) else []


def growth_count(committed: int, depth: int) -> StepCount:
    """One verify step of which only the committed tokens are known."""
    accepted = max(0, committed - 1)
    return StepCount(committed=committed, accepted=accepted, offered=max(accepted, min(accepted + 1, depth)))


def sglang_accept_length(completion_tokens: int, verify_steps: int) -> float | None:
    """The quotient of SGLang's own bench script: all tokens, the first from prefill included, by verify steps."""
    return completion_tokens / verify_steps if verify_steps else None


def _spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by at most one, for servers without a histogram."""
    total = max(0, total)
    return [total // parts + (number < total % parts) for number in range(parts)]


def committed_tokens(record: dict[str, Any]) -> list[int]:
    """The tokens that the step of a record committed: accepted tokens and the bonus token, before any cut."""
    return [*(record["tokens"][node] for node in record["path"]), record["bonus"]]


def step_count(record: dict[str, Any], committed: int) -> StepCount:
    """The counts of the step of a record. `offered` is exact, because the tree says which nodes had children."""
    path = record["path"]
    last = path[-1] if path else 0
    more = any(parent == last for parent in record["parents"][1:])
    return StepCount(committed=committed, accepted=len(path), offered=len(path) + more)


def tree_step(record: dict[str, Any], index: int, committed: list[int], text: Callable[[int], str]) -> TreeStep:
    """A record as the step that a viewer draws.

    SGLang keeps the draft's probabilities of a node multiplied up from the root; q given the parent is the quotient. It
    keeps none for a chain, where q is 0.
    """
    tokens, parents, scores = record["tokens"], record["parents"], record["scores"]
    probs = [1.0]
    for node in range(1, len(tokens)):
        own, above = scores[node], 1.0 if parents[node] == 0 else scores[parents[node]]
        probs.append(min(1.0, own / above) if own is not None and above else 0.0)
    bonus = record["bonus"]
    return TreeStep(
        index=index,
        tokens=tokens,
        texts=[text(token) for token in tokens],
        parents=parents,
        draft_probs=[round(value, 6) for value in probs],
        base_probs=[round(value, 6) for value in record["base_probs"]],
        base_ranks=record["base_ranks"],
        path=record["path"],
        bonus=bonus,
        bonus_text=text(bonus),
        bonus_prob=round(record["bonus_prob"], 6),
        committed=committed,
        kv_tokens=record["kv_tokens"],
    )
