"""Draft backbones: decoder layers of any Hugging Face family, by configuration.

The family's own model class is built without embedding; the layers, rotary embedding and mask handling are Hugging
Face's. It knows nothing of heads, algorithms or bases.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.attention import ATTENTION_NAME
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture


def backbone_config(architecture: Architecture, num_layers: int) -> Any:
    """The Hugging Face configuration of `num_layers` decoder layers of this architecture.

    Raises:
        ModelError: the family is unknown to the installed transformers.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    sizes = architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    # Both spellings of the rotary base: configurations moved from the first to the second.
    rope = {
        "rope_theta": architecture.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": architecture.rope_theta},
    }
    values = {**sizes, **rope, **architecture.extra, "num_hidden_layers": num_layers, "tie_word_embeddings": False}
    try:
        return AutoConfig.for_model(architecture.model_type, **values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ModelError(
            f"no configuration for model_type {architecture.model_type!r}: {str(error).splitlines()[0]}",
            hint="see `hetspec-core catalog backbones`",
        ) from error


class HFBackbone(nn.Module):
    """Decoder layers that take fused inputs instead of token ids.

    Args:
        config: a Hugging Face decoder configuration; `num_hidden_layers` layers are built.
        skip_first_input_norm: EAGLE's first layer sees its input unnormalised.
        skip_output_norm: no norm after the last layer.
    """

    decoder: Any  # Hugging Face's model class of the family

    def __init__(self, config: Any, *, skip_first_input_norm: bool = True, skip_output_norm: bool = True) -> None:
        super().__init__()
        import copy

        from transformers import AutoModel

        config = copy.deepcopy(config)
        vocab_size, pad = config.vocab_size, getattr(config, "pad_token_id", None)
        config.vocab_size, config.pad_token_id = 1, None  # the embedding is the base's: build none worth its memory
        config._attn_implementation = ATTENTION_NAME
        decoder = AutoModel.from_config(config, dtype=torch.float32)
        decoder.set_input_embeddings(None)
        if skip_first_input_norm:
            decoder.layers[0].input_layernorm = nn.Identity()
        if skip_output_norm:
            decoder.norm = nn.Identity()
        config.vocab_size, config.pad_token_id = vocab_size, pad
        self.config = config
        self.decoder = decoder

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers  # type: ignore[return-value]

    def forward(
        self, inputs: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None, cache: Any | None = None
    ) -> Tensor:
        """[B, T, H] fused inputs -> [B, T, H] hidden states; positions, mask and cache as in `BaseLM.forward`."""
        output = self.decoder(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state
