"""EAGLE-3's first layer: attention over [norm(embedding); norm(state)], with the state as residual stream.

(arXiv 2503.01840, section 3.1.) Attention and MLP are those of a Hugging Face decoder layer of any family; only the
inputs of its three projections are twice as wide. It takes the place of that layer in the family's own decoder, which
then hands it rotary embeddings, masks and caches as ever.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.errors import ModelError

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class PairLayer(nn.Module):
    """A decoder layer that reads [embedding; state], 2 H wide, and gives a state, H wide.

    Args:
        layer: the layer to take attention, MLP and norms from.
        config: its configuration.
        norm_before_residual: the residual stream starts from the normalised state.

    Raises:
        ModelError: the family's layers are put together in another way.
    """

    def __init__(self, layer: Any, config: Any, *, norm_before_residual: bool) -> None:
        super().__init__()
        if not all(hasattr(layer, name) for name in ("self_attn", "mlp", "post_attention_layernorm")) or not all(
            isinstance(getattr(layer.self_attn, name, None), nn.Linear) for name in _PROJECTIONS
        ):
            raise ModelError(
                f"{type(layer).__name__} has no q_proj, k_proj and v_proj of its own behind an input_layernorm",
                hint="take a backbone of the Llama, Qwen, Mistral or Gemma families for this algorithm",
            )
        self.hidden_norm = copy.deepcopy(layer.input_layernorm)
        self.input_layernorm = layer.input_layernorm
        self.self_attn = layer.self_attn
        for name in _PROJECTIONS:
            narrow: nn.Linear = getattr(layer.self_attn, name)
            wide = nn.Linear(2 * narrow.in_features, narrow.out_features, bias=narrow.bias is not None)
            nn.init.normal_(wide.weight, std=config.initializer_range)
            if wide.bias is not None:
                nn.init.zeros_(wide.bias)
            setattr(self.self_attn, name, wide)
        # Gemma normalises what attention and MLP give as well, under names that others use for the norm between them.
        self._sandwich = hasattr(layer, "pre_feedforward_layernorm")
        self.post_attention_layernorm = layer.post_attention_layernorm
        if self._sandwich:
            self.pre_feedforward_layernorm = layer.pre_feedforward_layernorm
            self.post_feedforward_layernorm = layer.post_feedforward_layernorm
        self.mlp = layer.mlp
        self._norm_before_residual = norm_before_residual

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        """[B, T, 2 H] -> [B, T, H]; the context is what the family's decoder hands to its layers."""
        embedding, state = hidden_states.chunk(2, dim=-1)
        normed = self.hidden_norm(state)
        residual = normed if self._norm_before_residual else state
        pair = torch.cat([self.input_layernorm(embedding), normed], dim=-1)
        attended, _ = self.self_attn(hidden_states=pair, **context)
        if self._sandwich:
            residual = residual + self.post_attention_layernorm(attended)
            return residual + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(residual)))
        residual = residual + attended
        return residual + self.mlp(self.post_attention_layernorm(residual))
