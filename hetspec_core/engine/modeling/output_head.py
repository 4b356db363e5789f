"""An output projection as plain tensors, so that losses need not know models. Logits are computed here only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


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

    def logits(self, hidden: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[..., H] hidden states -> [..., V].

        Args:
            hidden: states after the final norm; multiplied in the type of the weight.
            dtype: type in which the products are scaled and capped; that of the weight when absent.
        """
        logits = F.linear(hidden.to(self.weight.dtype), self.weight, self.bias).to(dtype or self.weight.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the logits by the products: [..., V], or one factor for all."""
        if not self.softcap:
            return self.scale
        return self.scale * (1 - (logits / self.softcap).square())

    def rows(self, ids: Tensor) -> OutputHead:
        """The head of some tokens, [len(ids)] on the weight's device: weight and bias are copied once."""
        bias = None if self.bias is None else self.bias[ids].contiguous()
        return self._replace(weight=self.weight[ids].contiguous(), bias=bias)
