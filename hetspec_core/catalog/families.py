"""Families of bases that cannot be decoded with, and why, as far as a configuration shows it.

The desk asks before a run is planned, the engine before weights are loaded. What a configuration does not show is found
by the engine's survey of the attention layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STATE = "some of its layers keep a recurrent or convolution state, which cannot go back when draft tokens are refused"
_SINKS = "its attention uses sinks, which are not supported"
_INDEXER = "its attention looks at tokens that an indexer with a cache of its own chooses"
_OWN = "its attention cannot be exchanged, so it cannot verify trees"
_MASK = "its attention changes the mask of the draft tree"
_CHUNKS = "its attention looks at chunks of the past, which is not supported"
_CACHE = "its window is kept by the cache of transformers alone, and by no mask"

_FAMILIES = {
    _STATE: "bamba falcon_h1 falcon_mamba inkling_text jamba kimi_linear mamba mamba2 minimax nemotron_h olmo_hybrid "
    "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma rwkv xlstm "
    "zamba zamba2 zaya",
    _SINKS: "gpt_oss granite_swa granitemoe_swa mimo_v2_flash",
    _INDEXER: "axk2 deepseek_v32 deepseek_v4 glm_moe_dsa hy_v4",
    _OWN: "biogpt bloom codegen cpmant falcon gpt_neo gpt_neox_japanese gptj mpt openai-gpt reformer stablelm xglm xlm "
    "xlnet",
    _MASK: "doge",
    _CHUNKS: "llama4 llama4_text",
    _CACHE: "moshi",
}
_REASONS = {family: reason for reason, families in _FAMILIES.items() for family in families.split()}

_MIXED = frozenset({"granitemoehybrid", "lfm2", "lfm2_moe"})
"""Families of which some models have attention in every layer and others do not; `layer_types` tells."""

_ATTENTION = frozenset({"attention", "full_attention", "sliding_attention"})

HINT = "use a base whose layers all have ordinary attention, e.g. of family llama, qwen3 or gemma3_text"


def refusal(model_type: str, config: Mapping[str, Any] | None = None) -> str:
    """Why a base of a family cannot be decoded with, as a sentence that names the family; empty when nothing is known.

    Args:
        model_type: Hugging Face model type of the text model.
        config: values of its `config.json`, as far as they are known.
    """
    config = config or {}
    reason = _REASONS.get(model_type, "")
    if not reason and model_type in _MIXED and _has_states(config):
        reason = _STATE
    return f"bases of family {model_type} are not supported: {reason}" if reason else ""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a `config.json` that is about text, of a model that reads pictures or sound as well."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and "model_type" in inner else config


def _has_states(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types") or config.get("layers_block_type") or ()
    return isinstance(kinds, list | tuple) and any(kind not in _ATTENTION for kind in kinds)
