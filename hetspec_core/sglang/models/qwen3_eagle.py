"""EAGLE-1/2 drafts of Qwen3 layers in SGLang."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from sglang.srt.models.qwen3 import Qwen3Attention
from sglang.srt.utils import add_prefix
from torch import nn

from hetspec_core.sglang.models.fusion import EagleLayer, FusionForCausalLM, mlp_of, rope_of


def attention_of(config: Any, layer_id: int, quant_config: Any, prefix: str) -> nn.Module:
    """Qwen3's attention, which normalises queries and keys."""
    return Qwen3Attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        layer_id=layer_id,
        head_dim=getattr(config, "head_dim", None),
        max_position_embeddings=config.max_position_embeddings,
        quant_config=quant_config,
        rms_norm_eps=config.rms_norm_eps,
        attention_bias=bool(getattr(config, "attention_bias", False)),
        prefix=add_prefix("self_attn", prefix),
        **rope_of(config),
    )


def make_layer(config: Any, layer_id: int, quant_config: Any, prefix: str) -> nn.Module:
    """One dense layer."""
    mlp = mlp_of(config, config.intermediate_size, quant_config, add_prefix("mlp", prefix))
    return EagleLayer(config, layer_id, attention_of(config, layer_id, quant_config, prefix), mlp)


class HetSpecQwen3Eagle(FusionForCausalLM):
    """Dense Qwen3 layers."""

    make_layer = staticmethod(make_layer)


EntryClass = HetSpecQwen3Eagle
