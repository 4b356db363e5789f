"""The part of a base that a draft is trained with: embedding, head, final norm and the last decoder layers.

The base's own class is built without its other modules, and transformers loads the weights into it. Safetensors files
are mapped into memory and read tensor by tensor, so tensors of other modules are never read. transformers handles names
of tensors, tied weights and merged experts, as for the whole base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
"""Names of the norm after the last layer in the families."""


def can_load_part(folder: Path, config: Any) -> bool:
    """Whether `load_part` reads this base: its weights are safetensors files and are not quantised."""
    quantised = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    return not quantised and any(folder.glob("*.safetensors"))


def load_part(folder: Path, kind: Any, config: Any, *, dtype: torch.dtype, last_layers: int) -> Any:
    """A causal language model on the CPU of which only a part exists.

    Args:
        folder: a directory with config.json and safetensors files.
        kind: class of the model.
        config: its configuration.
        dtype: type of the weights.
        last_layers: how many decoder layers to keep, counted from the last one.

    Returns:
        The model with embedding, head, final norm and `last_layers` decoder layers; every other module that has
        weights is None. It cannot run a forward.

    Raises:
        Exception: any exception that transformers raises for a directory that it cannot read.
    """

    def build(model: Any, config: Any, *args: Any, **options: Any) -> None:
        kind.__init__(model, config, *args, **options)
        _drop_all_but(model, _kept_modules(model, last_layers))
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        ties = model.all_tied_weights_keys
        model.all_tied_weights_keys = {name: source for name, source in ties.items() if {name, source} <= names}

    # transformers finds the conversions of a checkpoint by the name of the class.
    part: Any = type(
        kind.__name__,
        (kind,),
        {"__init__": build, "__module__": kind.__module__, "_keys_to_ignore_on_load_unexpected": [""]},
    )
    return part.from_pretrained(folder, config=config, dtype=dtype)


def decoder_layers(decoder: Any) -> list[nn.Module]:
    """The layers that a decoder has; empty for a family that does not call them `layers`."""
    return [layer for layer in getattr(decoder, "layers", None) or () if layer is not None]


def _kept_modules(model: Any, last_layers: int) -> set[int]:
    """Identities of the modules that stay."""
    decoder = model.get_decoder()
    layers = decoder_layers(decoder)
    kept = [model.get_input_embeddings(), model.get_output_embeddings()]
    kept += [getattr(decoder, name, None) for name in FINAL_NORMS]
    kept += layers[max(0, len(layers) - last_layers) :]
    return {id(module) for module in kept if module is not None}


def _drop_all_but(module: nn.Module, kept: set[int]) -> None:
    """Set every module below this one to None that has weights, is not kept, and contains no kept one."""
    for name, child in list(module.named_children()):
        if id(child) in kept:
            continue
        if any(id(part) in kept for part in child.modules()):
            _drop_all_but(child, kept)
        elif child.state_dict():
            setattr(module, name, None)
