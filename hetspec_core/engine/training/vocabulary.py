"""Choosing a reduced draft vocabulary: the tokens that the assistant really writes. It knows stores, not models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hetspec_core.engine.data.sample_store import SampleStore
from hetspec_core.errors import SpecError


def count_assistant_tokens(store: SampleStore, samples: Sequence[int], *, vocab_size: int, max_length: int) -> Tensor:
    """[V] int64: how often the assistant wrote each token in these samples, cut to the length used in training."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for index in samples:
        sample = store[index]
        written = sample.input_ids[:max_length][sample.assistant_mask[:max_length]]
        counts += torch.bincount(written.long(), minlength=vocab_size)
    return counts


def choose_vocabulary(counts: Tensor, size: int, always: Iterable[int]) -> Tensor:
    """The `size` most frequent tokens, and in any case those of `always`; equal counts are taken in the order of ids.

    Args:
        counts: [V] occurrences.
        size: Vd.
        always: special and stop tokens, without which no answer ends.

    Returns:
        [size] int64, sorted base token ids.

    Raises:
        SpecError: the size is above the base's vocabulary, or below the number of tokens that must be in it.
    """
    must = sorted({token for token in always if 0 <= token < counts.numel()})
    if not len(must) <= size <= counts.numel():
        raise SpecError(
            f"draft.vocab_size is {size}; it needs {len(must)} (the base's special tokens) to {counts.numel()} (all)",
            hint="set draft.vocab_size within these bounds, or leave it out for the base's vocabulary",
        )
    weights = counts.clone()
    weights[must] = torch.iinfo(torch.int64).max
    return torch.sort(weights, descending=True, stable=True).indices[:size].sort().values


def share_outside(counts: Tensor, ids: Tensor) -> float:
    """Share of the counted tokens that a vocabulary lacks: no draft with it can ever get those right."""
    total = int(counts.sum())
    return 1.0 - int(counts[ids.cpu()].sum()) / total if total else 0.0
