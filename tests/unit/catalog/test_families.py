"""Families that cannot be decoded with, told from a configuration."""

from __future__ import annotations

import pytest

from hetspec_core.catalog.families import refusal, text_config


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phimoe", "ministral3", "something_new"])
def test_what_is_not_known_to_fail_is_not_refused(family: str) -> None:
    assert refusal(family) == "" and refusal(family, {"layer_types": ["full_attention"]}) == ""


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt_oss", "attention uses sinks"),
        ("recurrent_gemma", "recurrent or convolution state"),
        ("qwen3_next", "recurrent or convolution state"),
        ("deepseek_v32", "indexer"),
        ("bloom", "cannot be exchanged"),
        ("llama4", "chunks"),
    ],
)
def test_a_refusal_names_the_family_and_the_reason(family: str, reason: str) -> None:
    assert refusal(family).startswith(f"bases of family {family} are not supported: ") and reason in refusal(family)


@pytest.mark.parametrize("family", ["lfm2", "lfm2_moe", "granitemoehybrid"])
def test_a_mixed_family_is_refused_for_the_layers_that_its_model_has(family: str) -> None:
    assert refusal(family) == ""  # sizes alone do not tell
    assert refusal(family, {"layer_types": ["full_attention", "sliding_attention"]}) == ""
    assert "state" in refusal(family, {"layer_types": ["full_attention", "conv"]})
    assert "state" in refusal(family, {"layers_block_type": ["mamba", "attention"]})


def test_the_text_part_of_a_configuration() -> None:
    inner = {"model_type": "gemma3_text"}
    assert text_config({"model_type": "gemma3", "text_config": inner}) is inner
    assert text_config({"model_type": "llama"}) == {"model_type": "llama"}
    assert text_config({"model_type": "odd", "text_config": 7})["model_type"] == "odd"
