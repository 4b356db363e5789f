"""Copies of the base's embedding or head that a draft directory carries, against those of the base that it gets.

HetSpec's drafts read the base's own. A copy that differs says that the draft was trained with other embeddings than it
will read: those of another base or revision, or some that were trained with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hetspec_core.engine.modeling.base_lm import FrozenEnds
from hetspec_core.engine.modeling.draft_files import DraftFiles, LoadReport

_ROUNDED = 0.01  # of a row's length; half types round to a few thousandths
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class CopyComparison:
    """One copy against the base's own.

    Attributes:
        name: the tensor in the files.
        shape: of the copy.
        own_shape: of the base's.
        largest: largest absolute difference of two numbers; NaN where the copy holds NaN, or the shapes differ.
        rows: rows (tokens) that differ by more than rounding.
    """

    name: str
    shape: tuple[int, ...]
    own_shape: tuple[int, ...]
    largest: float = float("nan")
    rows: int = 0

    @property
    def same_shape(self) -> bool:
        return self.shape == self.own_shape

    @property
    def equal(self) -> bool:
        """Whether the copy is the base's but for rounding."""
        return self.same_shape and self.rows == 0

    @property
    def sentence(self) -> str:
        """What was seen."""
        if not self.same_shape:
            return f"{self.name} is {list(self.shape)}, the base's {list(self.own_shape)}"
        if self.rows == 0:
            return f"{self.name} is the base's (up to {self.largest:.1g})"
        return (
            f"{self.name} differs from the base's by up to {self.largest:.3g}, "
            f"in {self.rows:,} of {self.shape[0]:,} rows by more than rounding"
        )


def compare_copies(folder: DraftFiles, reading: LoadReport, ends: FrozenEnds) -> Iterator[CopyComparison]:
    """Every tensor that was dropped as a copy of the base's embedding or head.

    Args:
        folder: the directory that `reading` came from.
        reading: says which tensors were dropped.
        ends: the base's.
    """
    own = {"embed_tokens.weight": ends.embedding.weight, "lm_head.weight": ends.head.weight}
    for name in reading.dropped:
        weight = next((weight for suffix, weight in own.items() if name.endswith(suffix)), None)
        if isinstance(weight, Tensor) and name in folder.tensors:
            yield _compared(name, folder.tensors[name], weight.detach())


def _compared(name: str, copy: Tensor, own: Tensor) -> CopyComparison:
    shapes = tuple(copy.shape), tuple(own.shape)
    if shapes[0] != shapes[1]:
        return CopyComparison(name, *shapes)
    largest, rows = 0.0, 0
    for held, wanted in zip(copy.split(_ROWS_AT_ONCE), own.split(_ROWS_AT_ONCE), strict=True):
        wanted = wanted.float().cpu()
        error = (held.float() - wanted).abs()
        largest = max(largest, float(error.max())) if not bool(error.isnan().any()) else float("nan")
        alike = torch.linalg.vector_norm(error, dim=-1) <= _ROUNDED * torch.linalg.vector_norm(wanted, dim=-1)
        rows += int((~alike).sum())
    return CopyComparison(name, *shapes, largest, rows)
