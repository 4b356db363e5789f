"""Verify steps as SGLang counts them, in HetSpec's words. Numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hetspec_core.acceptance import StepCount
from hetspec_core.errors import DataError

_SURPLUS = 64
"""Verify steps beyond the tokens of an answer that are still believed; each step commits one token at least."""


def step_counts(meta: Mapping[str, Any], completion_tokens: int, depth: int) -> list[StepCount]:
    """The verify steps of one answer from the figures of its last message; [] without speculation.

    SGLang tells how many steps accepted how many draft tokens, not in which order. Whatever a stop token or the limit
    cut off is taken from the last of them, so that the sum of `committed` is the tokens after the first.

    Args:
        meta: `meta_info` of the last message.
        completion_tokens: tokens of the answer; the first one comes from prefill.
        depth: levels of the tree. HTTP does not tell whether the last accepted node had children; `offered` takes it
            that it had, up to this depth.

    Raises:
        DataError: the figures are no numbers, or say more steps than such an answer can have.
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
    """How many verify steps accepted 0, 1, 2... draft tokens, under the newer or the older name; [] where it is told
    by neither.
    """
    found = meta.get("spec_correct_drafts_histogram") or meta.get("spec_accept_histogram")
    return [int(count) for count in found] if isinstance(found, Sequence) else []


def growth_count(committed: int, depth: int) -> StepCount:
    """One verify step of which only the committed tokens are known."""
    accepted = max(0, committed - 1)
    return StepCount(committed=committed, accepted=accepted, offered=max(accepted, min(accepted + 1, depth)))


def sglang_accept_length(completion_tokens: int, verify_steps: int) -> float | None:
    """As SGLang's own bench script divides: all tokens, the first from prefill among them, by verify steps."""
    return completion_tokens / verify_steps if verify_steps else None


def _spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that are as alike as can be, for servers that tell no histogram."""
    total = max(0, total)
    return [total // parts + (number < total % parts) for number in range(parts)]
