"""Which samples are trained on and which are held out. It knows ids and counts only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def held_out_order(sample_id: str) -> float:
    """A number in [0, 1) that depends on the id alone: the same sample is held out whatever is added around it."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:6]) / 2**48


def split_by_id(ids: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Split samples into training and held-out ones.

    Args:
        ids: sample ids.
        fraction: share to hold out; with a share above 0 and two samples or more, each side gets at least one.

    Returns:
        Indices of the samples to train on, and of those held out, each in ascending order.
    """
    numbers = [held_out_order(sample_id) for sample_id in ids]
    held = {index for index, number in enumerate(numbers) if number < fraction}
    ranked = sorted(range(len(ids)), key=lambda index: (numbers[index], index))
    if fraction > 0 and len(set(numbers)) > 1:
        if not held:
            held = {index for index in ranked if numbers[index] == numbers[ranked[0]]}
        elif len(held) == len(ids):
            held = {index for index in ranked if numbers[index] < numbers[ranked[-1]]}
    return [index for index in range(len(ids)) if index not in held], sorted(held)


def pick_evaluated(ids: Sequence[str], candidates: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the candidates, by the order of their ids' hashes: a stable, unbiased choice."""
    return sorted(candidates, key=lambda index: (held_out_order(ids[index]), index))[:limit]
