"""Weights laid out once for the processor's own products, in place of at every product.

PyTorch's linear layers on a CPU bring a bfloat16 weight into the blocked layout of oneDNN each time that they multiply
with it. With one token that takes as long as the product itself. Here the layout is made once, and the original is
given up where nothing else reads it. Where the processor does not multiply in bfloat16, or this build of PyTorch has
not the operations, everything stays as it is.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from hetspec_core.engine.context import has_fast_bfloat16
from hetspec_core.engine.modeling.fusion import JoinedLinear

_ROWS = 8  # that a layout is made for; it serves other numbers as well (measured with 1 to 61)
_HEADS = WeakTensorKeyDictionary()


def can_pack(weight: Tensor) -> bool:
    """Whether a weight [out, in] can be laid out once: it is in bfloat16, on a processor that multiplies in it."""
    plain = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not weight.is_mkldnn
    return plain and _packs()


@functools.cache
def _packs() -> bool:
    """The operations are not public: a product with a packed weight is held to the ordinary one."""
    if not has_fast_bfloat16(torch.device("cpu")) or not torch.backends.mkldnn.is_available():
        return False
    with torch.inference_mode():
        weight = torch.arange(-48, 48, dtype=torch.bfloat16).view(6, 16) / 8
        hidden = torch.linspace(-1, 1, 32).to(torch.bfloat16).view(1, 2, 16)
        try:
            found = _times(hidden, _pack(weight), None)
        except (RuntimeError, AttributeError, NotImplementedError):
            return False
        return torch.allclose(found, F.linear(hidden, weight), rtol=0.02, atol=0.02)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)


def _times(hidden: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(hidden, packed, bias, "none", [], "")


class PackedLinear(nn.Linear):
    """A linear layer whose weight is in the processor's layout."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return _times(input, self.weight, self.bias)


def pack_layers(model: nn.Module) -> int:
    """Lay out the weights of all linear layers of a frozen model; returns how many products that concerns.

    Joined projections are laid out together. Layers of another kind, quantised ones for example, stay as they are. The
    weights are parameters still, which count as before; what reads them has to bring them back with `to_dense`.
    """
    count = 0
    for module in model.modules():
        if type(module) is nn.Linear and can_pack(module.weight):
            module.weight = nn.Parameter(_pack(module.weight), requires_grad=False)
            module.__class__ = PackedLinear
            count += 1
        elif isinstance(module, JoinedLinear) and module.index == 0 and can_pack(module.joined.weight):
            module.joined.lay_out(_pack, _times)
            count += 1
    return count


def pack_head(weight: Tensor) -> None:
    """Lay out the weight [V, H] of an output head for `product`; the weight stays, as an embedding may share it."""
    if weight not in _HEADS and can_pack(weight):
        _HEADS[weight] = _pack(weight)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., H] hidden states times a head's weight [V, H]: [..., V]."""
    packed = None if torch.compiler.is_compiling() or not len(_HEADS) else _HEADS.get(weight)
    return F.linear(hidden, weight, bias) if packed is None else _times(hidden, packed, bias)
