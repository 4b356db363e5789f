"""Backbones by configuration: what a family is turned into, and which families are refused."""

from __future__ import annotations

from typing import Any

import pytest

from hetspec_core.engine.modeling.backbones import HFBackbone, backbone_config
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture


def config_of(model_type: str, *, layers: int = 1, **extra: Any) -> Any:
    architecture = Architecture(
        model_type=model_type,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=48,
        max_position_embeddings=64,
        rope_theta=5000.0,
        extra={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **extra},
    )
    return backbone_config(architecture, layers)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "qwen3_moe"])
def test_layers_see_everything_and_turn_by_the_bases_rotary(family: str) -> None:
    extra = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16} if family == "qwen3_moe" else {}
    config = config_of(family, layers=2, **extra)
    assert set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    rope = config.rope_parameters
    assert rope.get("full_attention", rope)["rope_theta"] == 5000.0
    backbone = HFBackbone(config)
    assert len(backbone.layers) == 2
    assert all(getattr(layer.self_attn, "sliding_window", None) is None for layer in backbone.layers)
    assert backbone.decoder.embed_tokens is None  # the embedding is the base's


@pytest.mark.parametrize("family", ["olmo2", "gpt2"])
def test_families_of_another_shape_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match="input_layernorm"):
        HFBackbone(config_of(family))


def test_a_family_with_fused_projections_can_do_all_but_pairs() -> None:
    HFBackbone(config_of("phi3"))
    with pytest.raises(ModelError, match="q_proj, k_proj and v_proj"):
        HFBackbone(config_of("phi3"), pair_input=True)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ModelError, match="'no-such-family'"):
        config_of("no-such-family")


def test_a_dense_layer_between_mixtures_stays_dense() -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    backbone = HFBackbone(config_of("qwen3_moe", layers=4, decoder_sparse_step=2, **sizes))
    assert len(backbone.experts) == 2
    assert backbone.num_resting_parameters == 2 * 2 * 3 * 32 * 16
    assert HFBackbone(config_of("llama")).num_resting_parameters == 0
