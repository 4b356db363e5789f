"""An output projection as plain tensors, so that losses need not know models."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class OutputHead(NamedTuple):
    """An output projection: logits = cap * tanh(scale * (hidden @ weight^T + bias) / cap), or uncapped.

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        scale: factor of the logits.
        softcap: cap, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
