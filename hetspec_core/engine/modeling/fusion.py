"""What programs of the fast decoder do in fewer and larger operations: one product for projections of one input.

Query, key and value projections read the same hidden states, and so do the gate and up projections of an MLP. Their
weights are laid out behind one another once, so that one product gives all of them. Results are those of the separate
products up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_MOST_FREED = (
    1 << 28
)  # bytes of old weights that the allocator may hold back: the joined ones do not fit in their place
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def is_fused(tensor: Tensor) -> bool:
    """Whether what is computed from a [...] tensor is part of a compiled program of decoding on a GPU.

    Kernels of our own replace operations there.
    """
    return torch.compiler.is_compiling() and tensor.is_cuda and not torch.is_grad_enabled()


class _Joined:
    """Projections of one input: the first that is called computes all, the others take their piece.

    Args:
        parts: linear layers of one input width, type and device, all with bias or all without. Their parameters become
            views of the joined ones.
    """

    def __init__(self, parts: list[Any]) -> None:
        self.sizes = [part.out_features for part in parts]
        self.weight = torch.cat([part.weight.detach() for part in parts])
        self.bias = torch.cat([part.bias.detach() for part in parts]) if parts[0].bias is not None else None
        for part, weight in zip(parts, self.weight.split(self.sizes), strict=True):
            part.weight = nn.Parameter(weight, requires_grad=False)
        if self.bias is not None:
            for part, bias in zip(parts, self.bias.split(self.sizes), strict=True):
                part.bias = nn.Parameter(bias, requires_grad=False)
        self._parts, self._multiply = parts, F.linear
        self._input: Tensor | None = None
        self._pieces: tuple[Tensor, ...] = ()
        self._left = 0

    def lay_out(self, pack: Callable[[Tensor], Tensor], multiply: Product) -> None:
        """Keep the weight in another layout only, as a parameter of the first projection.

        Args:
            pack: [out, in] -> the same in the other layout.
            multiply: the product of [..., in] with such a weight and a bias.
        """
        self.weight, self._multiply = pack(self.weight), multiply
        for index, part in enumerate(self._parts):
            weight = self.weight if index == 0 else torch.empty(0, dtype=self.weight.dtype)
            part.weight = nn.Parameter(weight, requires_grad=False)

    def piece(self, index: int, hidden: Tensor) -> Tensor:
        """[..., in] -> [..., out] of the projection `index`."""
        if self._input is not hidden:
            self._input, self._left = hidden, len(self.sizes)
            self._pieces = self._multiply(hidden, self.weight, self.bias).split(self.sizes, dim=-1)
        piece = self._pieces[index]
        self._left -= 1
        if self._left == 0:
            self._input, self._pieces = None, ()
        return piece


class JoinedLinear(nn.Linear):
    """A linear layer that takes its result from the product of several."""

    joined: _Joined
    index: int

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.joined.piece(self.index, input)


def join_projections(model: nn.Module) -> int:
    """Lay out the projections of every attention and MLP for one product each; returns how many groups it joined.

    Layers that are not plain linear ones (quantised, with adapters), that differ in type or device, or that are joined
    already stay as they are. The model computes what it did, and its parameters keep their names; they are frozen.
    """
    groups, freed = 0, 0
    for module in model.modules():
        for names in _TOGETHER:
            parts: list[Any] = [getattr(module, name, None) for name in names]
            if not all(type(part) is nn.Linear for part in parts):
                continue
            first = parts[0]
            if any(
                part.in_features != first.in_features
                or part.weight.dtype != first.weight.dtype
                or part.weight.device != first.weight.device
                or (part.bias is None) != (first.bias is None)
                for part in parts
            ):
                continue
            joined = _Joined(parts)
            for index, part in enumerate(parts):
                part.__class__ = JoinedLinear
                part.joined, part.index = joined, index
            groups += 1
            freed += joined.weight.nbytes if joined.weight.is_cuda else 0
            if freed > _MOST_FREED:
                torch.cuda.empty_cache()
                freed = 0
    if freed:
        torch.cuda.empty_cache()
    return groups
