"""Latent drafts in SGLang: the recurrence of `engine/algorithms/latent.py` inside one step of its EAGLE worker.

A token passes through the same layers several times, and every pass attends to the keys of that pass alone. For SGLang
this is a draft of passes x layers layers: the exported `num_hidden_layers` says so, and its pool has key/value slots
for each of them. Layer number i of pass p is a twin of layer i: the same weights, and p x layers + i as its layer id.
The exported `hidden_size` is the base's, the width of the states that the worker carries; the layers' own width and all
other settings of the recurrence are in `hetspec_latent`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.models.llama import LlamaAttention
from sglang.srt.utils import add_prefix
from torch import Tensor, nn

from hetspec_core.sglang.models.fusion import EagleLayer, FusionForCausalLM, MakeLayer, mlp_of, rope_of
from hetspec_core.sglang.models.qwen3_eagle import attention_of as qwen3_attention

KEY = "hetspec_latent"
"""Key of the recurrence in the exported configuration."""


def _llama_attention(config: Any, layer_id: int, quant_config: Any, prefix: str) -> nn.Module:
    return LlamaAttention(
        config=config,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        layer_id=layer_id,
        max_position_embeddings=config.max_position_embeddings,
        quant_config=quant_config,
        bias=bool(getattr(config, "attention_bias", False)),
        prefix=add_prefix("self_attn", prefix),
        **rope_of(config),
    )


def _layer_of(attention: Callable[..., nn.Module], *, reduced: bool) -> MakeLayer:
    """Layers of this attention and a dense MLP."""

    def make(config: Any, layer_id: int, quant_config: Any, prefix: str) -> nn.Module:
        mlp = mlp_of(config, config.intermediate_size, quant_config, add_prefix("mlp", prefix))
        made = attention(config, layer_id, quant_config, prefix)
        norm = bool(getattr(config, KEY)["first_input_norm"])
        return EagleLayer(config, layer_id, made, mlp, first_input_norm=norm, attention_is_reduced=reduced)

    return make


LAYERS: dict[str, MakeLayer] = {
    "llama": _layer_of(_llama_attention, reduced=True),  # its output projection sums over the ranks itself
    "mistral": _layer_of(_llama_attention, reduced=True),
    "qwen3": _layer_of(qwen3_attention, reduced=False),
}
"""Layers by the family of the draft."""


class LatentModel(nn.Module):
    """Embedding, projections and the layers of every pass."""

    def __init__(self, config: Any, quant_config: Any, prefix: str) -> None:
        super().__init__()
        how = getattr(config, KEY)
        self.config = config
        self.vocab_size = config.vocab_size
        self.refinements, self.recurrences = int(how["refinements"]), int(how["recurrences"])
        self.repeats, self.depth = int(how["repeats"]), int(how["layers"])
        width, base_width = int(how["hidden_size"]), config.hidden_size
        inner = copy.copy(config)
        inner.hidden_size = width
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, base_width, prefix=add_prefix("embed_tokens", prefix)
        )
        self.fc = nn.Linear(2 * base_width + width, width)
        self.fc_init = nn.Linear(2 * base_width, width) if how["learned"] else None
        self.up = nn.Linear(width, base_width, bias=False)
        make = LAYERS[how["family"]]
        own = [
            make(inner, number, quant_config, add_prefix(f"layers.{number}", prefix)) for number in range(self.depth)
        ]
        passes = self.refinements * self.recurrences * self.repeats
        twins = [
            twin_of(layer, later * self.depth + number)
            for later in range(1, passes)
            for number, layer in enumerate(own)
        ]
        self.layers = nn.ModuleList([*own, *twins])
        self.norm = RMSNorm(width, eps=config.rms_norm_eps) if how["output_norm"] else nn.Identity()

    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: Any, input_embeds: Tensor | None = None
    ) -> Tensor:
        """[T] tokens, and [T, H] states of the batch -> [T, H] states."""
        embedding = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        state = forward_batch.spec_info.hidden_states
        first = 0  # layer of the next pass
        for _ in range(self.refinements):
            if self.fc_init is not None:
                latent = self.fc_init(torch.cat((embedding, state), dim=-1))
            else:
                latent = embedding.new_zeros(embedding.shape[0], self.fc.out_features)
            for _ in range(self.recurrences):
                latent = self.fc(torch.cat((embedding, state, latent), dim=-1))
                for _ in range(self.repeats):
                    for layer in self.layers[first : first + self.depth]:
                        latent = layer(positions, latent, forward_batch)
                    latent = self.norm(latent)
                    first += self.depth
            state = self.up(latent)
        return state


def twin_of(layer: Any, layer_id: int) -> Any:
    """The same layer with shared weights and the key/value slots of another layer id."""
    twin = _share(layer)
    twin.self_attn = _share(layer.self_attn)
    twin.self_attn.attn = _share(layer.self_attn.attn)
    twin.self_attn.attn.layer_id = layer_id
    return twin


def _share(module: nn.Module) -> Any:
    """A copy of a module with the same parts; replacing a part does not change the original."""
    found = copy.copy(module)
    found.__dict__["_modules"] = dict(module._modules)
    return found


class HetSpecLatentEagle(FusionForCausalLM):
    """A latent draft of any family in `LAYERS`."""

    @classmethod
    def make_model(cls, config: Any, quant_config: Any, prefix: str) -> nn.Module:
        """The latent model in place of the fusion model."""
        return LatentModel(config, quant_config, prefix)


EntryClass = HetSpecLatentEagle
