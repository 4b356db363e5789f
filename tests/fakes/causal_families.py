"""A tiny random configuration of every causal family of transformers, made from the family's own default."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB, HIDDEN, LAYERS, WINDOW = 48, 32, 4, 12
FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "max_position_embeddings": 256,
    "sliding_window": WINDOW,
    "attention_window_size": WINDOW,
    # names of older families
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 256,
    "d_model": HIDDEN,
    "decoder_layers": LAYERS,
    "num_layers": LAYERS,
    "ffn_dim": 48,
    "word_embed_proj_dim": HIDDEN,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
}

_PER_LAYER: dict[str, Any] = {
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
}
_GEMMA3N: dict[str, Any] = _PER_LAYER | {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * LAYERS,
}
_GEMMA4: dict[str, Any] = _PER_LAYER | {"global_head_dim": 8}
_OWN: dict[str, dict[str, Any]] = {
    "cwm": {"bos_token_id": 1},
    "gemma3n": _GEMMA3N,
    "gemma3n_text": _GEMMA3N,
    "gemma4": _GEMMA4,
    "gemma4_text": _GEMMA4,
    "granitemoehybrid": {
        "layer_types": ["attention"] * LAYERS,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "shared_intermediate_size": 48,
        "num_local_experts": 0,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 24,
        "zero_expert_num": 2,
        "moe_topk": 2,
        "num_layers": 2,
    },
}
"""What some families need besides; models of granitemoehybrid without recurrent layers exist."""


def tiny_config(family: str, **values: Any) -> Any:
    """The configuration of a family's text model with small sizes and a window shorter than any test's text.

    Args:
        family: a model type.
        values: further values of the configuration.
    """
    text = AutoConfig.for_model(family).get_text_config()
    known = {key for key in text.to_dict() if key in _SIZES}
    sizes: dict[str, Any] = {key: _SIZES[key] for key in known}
    sizes |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    for key in ("layer_types", "mlp_layer_types"):
        if isinstance(kinds := getattr(text, key, None), list):
            kinds = list(dict.fromkeys(kinds))
            sizes[key] = [kinds[layer % len(kinds)] for layer in range(LAYERS)]
    if hasattr(text, "use_sliding_window"):
        sizes["use_sliding_window"] = True
    if hasattr(text, "max_window_layers"):
        sizes["max_window_layers"] = LAYERS if "layer_types" in sizes else 0
    if getattr(text, "kv_lora_rank", None):
        sizes["num_key_value_heads"] = 4
    return type(text)(**(sizes | _OWN.get(family, {}) | values))
