"""Norms that a draft does not have of its own: one set for all of its layers, or the base's final norm.

On disk every norm stands under its own name all the same, so a draft with ties is read by programs that know of none.
It knows modules and names, not files, algorithms or specs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hetspec_core.errors import ModelError

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
_SHIFTS = (0.0, -1.0, 1.0)  # Gemma scales by 1 + weight, others by weight


@dataclass(frozen=True)
class NormTies:
    """Which norms of a draft are tied.

    Attributes:
        layers: each norm of a layer is shared by all layers.
        output: the norm behind the last layer is the base's final norm, and stays as it is.
    """

    layers: bool = False
    output: bool = False


def share_norms(layers: nn.ModuleList) -> None:
    """Make the norms of one name a single norm for all layers: that of the first layer which has it.

    A layer that reads pairs keeps the norms of its two inputs, which stand for other things than a layer's one input.
    """
    found: dict[str, nn.Module] = {}
    for layer in layers:
        own = ("input_layernorm", "hidden_norm") if hasattr(layer, "hidden_norm") else ()
        for name, module in list(layer.named_modules()):
            place, _, last = name.rpartition(".")
            if not last.endswith("norm") or name in own or not any(True for _ in module.parameters(recurse=False)):
                continue
            setattr(layer.get_submodule(place), last, found.setdefault(name, module))


@torch.no_grad()
def take_final_norm(norm: nn.Module, decoder: Any) -> None:
    """Give a draft's output norm the weights with which it does what the base's final norm does.

    Args:
        norm: the draft's, of its own family.
        decoder: the base's.

    Raises:
        ModelError: the base's norm is of another width or kind.
    """
    theirs = next((found for name in FINAL_NORMS if (found := getattr(decoder, name, None)) is not None), None)
    ours, weight = getattr(norm, "weight", None), getattr(theirs, "weight", None)
    if theirs is None or ours is None or weight is None:
        raise ModelError(
            f"the output norm cannot be tied to the base's: {type(decoder).__name__} or the draft has no final norm",
            hint="set draft.tie_output_norm = false",
        )
    if ours.shape != weight.shape:
        raise ModelError(
            f"the output norm cannot be tied to the base's: it is {ours.shape[0]} wide, the base's {weight.shape[0]}",
            hint="set draft.tie_output_norm = false, or give the draft the base's hidden_size",
        )
    theirs = copy.deepcopy(theirs).to("cpu", torch.float32)
    random = torch.Generator().manual_seed(0)
    probe = 3.0 * torch.randn(4, len(weight), generator=random)  # so large that the epsilons do not matter
    probe += 1.0  # a norm that takes the mean away shows
    wanted = theirs(probe)
    for shift in _SHIFTS:
        ours.copy_(theirs.weight + shift)
        if torch.allclose(copy.deepcopy(norm).to("cpu", torch.float32)(probe), wanted, rtol=1e-3, atol=1e-3):
            return
    raise ModelError(
        f"the output norm cannot be tied to the base's: a {type(norm).__name__} does not do what the base's "
        f"{type(theirs).__name__} does",
        hint="set draft.tie_output_norm = false, or take a backbone of the base's family",
    )
