"""Cross-checks: parts that hold by themselves and do not fit each other."""

from __future__ import annotations

import re

import pytest

from hetspec_core.config import resolve
from hetspec_core.errors import SpecError

LLAMA = "smollm2-llama-eagle"
ARCHITECTURE = "draft.architecture"


def problems_of(*overrides: str, recipe: str = LLAMA) -> list[str]:
    with pytest.raises(SpecError) as error:
        resolve(recipe, stage="train", overrides=overrides)
    return [re.sub(r" \[(--set|preset) [^\]]*\]$", "", problem) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("algorithm.name=eagel", "algorithm.name: no card 'eagel' on axis algorithms; did you mean 'eagle'?"),
        ("draft.backbone=lama", "draft.backbone: no card 'lama' on axis backbones; did you mean 'llama'?"),
        (
            "draft.backbone=qwen3",
            "draft.architecture.model_type: is 'llama'; backbone 'qwen3' needs 'qwen3'; set draft.backbone = 'llama'",
        ),
        (
            f"{ARCHITECTURE}.model_type=mamba",
            "draft.architecture.model_type: is 'mamba'; backbone 'llama' needs 'llama'",
        ),
        (
            f"{ARCHITECTURE}.extra.shared_experts=2",
            "draft.architecture.extra: has experts without compute or shared ones; needs num_experts in "
            "draft.architecture",
        ),
        (
            f"{ARCHITECTURE}.vocab_size=50000",
            "draft.architecture.vocab_size: is 50000; needs at most the base's 49152",
        ),
        ("draft.vocab_size=50000", "draft.vocab_size: is 50000; needs at most the base's vocabulary of 49152"),
        (
            f"{ARCHITECTURE}.num_key_value_heads=2",
            "draft.architecture.num_key_value_heads: is 2; needs a divisor of num_attention_heads = 9",
        ),
        (
            "base.architecture.num_key_value_heads=2",
            "base.architecture.num_key_value_heads: is 2; needs a divisor of num_attention_heads = 9",
        ),
        (
            f"{ARCHITECTURE}.head_dim=63",
            "draft.architecture.head_dim: is 63; needs an even number, which the rotary embedding turns in pairs",
        ),
        (
            f"{ARCHITECTURE}.num_experts=4",
            "draft.architecture.num_experts: is 4; backbone 'llama' is dense and has no experts",
        ),
        (
            f"{ARCHITECTURE}.num_experts_per_tok=4",
            "draft.architecture.num_experts_per_tok: is 4; needs at most num_experts = 0",
        ),
        (
            "decoding.draft_vocab=49153",
            "decoding.draft_vocab: is 49153; needs at most the base's vocabulary of 49152",
        ),
        (
            "bench.draft_vocabs=[8192, 50000]",
            "bench.draft_vocabs.1: is 50000; needs at most the base's vocabulary of 49152",
        ),
        ("decoding.tree.top_k=49153", "decoding.tree.top_k: is 49153; needs at most the draft's vocabulary of 49152"),
        ("dataset.max_length=8193", "dataset.max_length: is 8193; the base's context has 8192 tokens"),
        ("training.max_length=8193", "training.max_length: is 8193; the base's context has 8192 tokens"),
        ("decoding.max_new_tokens=8193", "decoding.max_new_tokens: is 8193; the base's context has 8192 tokens"),
        (
            "dataset.layers=[2, 31, -1]",
            "dataset.layers: has 31, -1; the base has 0 (embeddings) to 29 besides the final state",
        ),
        ("dataset.layers=[2, 2]", "dataset.layers: is [2, 2]; each layer may be named once"),
        (
            "dataset.format=parquet",
            "dataset.format: no card 'parquet' on axis formats; there are: sharegpt, messages, prompts",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named_with_both_values(override: str, problem: str) -> None:
    assert problem in problems_of(override)


def test_a_head_width_that_does_not_divide_needs_one_of_its_own() -> None:
    found = problems_of(
        f"{ARCHITECTURE}.head_dim=none",
        f"{ARCHITECTURE}.num_attention_heads=5",
        f"{ARCHITECTURE}.num_key_value_heads=1",
    )
    assert (
        f"{ARCHITECTURE}.num_attention_heads: is 5; needs a divisor of hidden_size = 576, or a head_dim of its own"
        in found
    )


def test_the_reduced_vocabulary_bounds_the_tree() -> None:
    found = problems_of("draft.vocab_size=8", 'bench.trees=["2/4/8", "2/9/8"]', "decoding.tree=2/8/8")
    assert found == ["bench.trees.1.top_k: is 9; needs at most the draft's vocabulary of 8"]


def test_a_draft_vocabulary_of_fewer_tokens_than_a_node_has_children_is_refused() -> None:
    found = problems_of("decoding.draft_vocab=8", "bench.draft_vocabs=[16, 8]", "bench.trees=['2/9/9', 'auto']")
    assert found == [
        "decoding.draft_vocab: is 8; needs at least the top_k of every tree, 9",
        "bench.draft_vocabs.1: is 8; needs at least the top_k of every tree, 9",
    ]
    resolve(LLAMA, stage="bench", overrides=["decoding.draft_vocab=9", "decoding.tree=2/9/9", "bench.trees=['2/9/9']"])


def test_starting_from_the_bases_layers_needs_as_many() -> None:
    assert problems_of(f"{ARCHITECTURE}.num_hidden_layers=31", "draft.init=base_last_layers") == [
        "draft.architecture.num_hidden_layers: is 31; the base has 30 layers to start from"
    ]


def test_starting_from_the_bases_layers_needs_layers_of_their_shape() -> None:
    faults = ["draft=qwen3-1l", "draft.init=base_last_layers", f"{ARCHITECTURE}.intermediate_size=64"]
    assert problems_of(*faults) == [
        "draft.init: is 'base_last_layers', but the layers differ from the base's (model_type qwen3 there llama, "
        "intermediate_size 64 there 1536); needs 'random'"
    ]
    resolve(LLAMA, stage="train", overrides=["draft=qwen3-1l", "draft.init=random"])
    resolve(LLAMA, stage="bench", overrides=["draft=qwen3-1l", "draft.checkpoint=/trained"])


def test_a_fault_in_one_section_does_not_hide_that_two_others_do_not_fit() -> None:
    found = problems_of("training.epochs=0", f"{ARCHITECTURE}.vocab_size=50000", "draft.init=random")
    assert found == [
        "training.epochs: is 0; needs a whole number > 0",
        "draft.architecture.vocab_size: is 50000; needs at most the base's 49152",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("zero_compute_experts=16", "zero_compute_experts: is 16; needs 0 to 15 of num_experts = 16"),
        ("zero_expert_kind=lazy", "zero_expert_kind: is 'lazy'; needs identity, zero or constant"),
        ("zero_expert_share=1.5", "zero_expert_share: is 1.5; needs a number from 0 to below 1"),
        ("shared_experts=-1", "shared_experts: is -1; needs a whole number >= 0"),
    ],
)
def test_experts_that_do_not_hold_are_named(override: str, problem: str) -> None:
    found = problems_of(f"{ARCHITECTURE}.extra.{override}", recipe="smollm2-qwen3-moe-zero-eagle")
    assert found == [f"draft.architecture.extra.{problem}"]


def test_a_dataset_stores_the_layers_that_its_algorithm_reads() -> None:
    resolved = resolve("smollm2-eagle3", stage="dataset", overrides=["dataset.layers=[5, 15]"])
    assert resolved.spec.dataset.layers == (5, 15, 2, 27)
    origin = resolved.origins["dataset.layers"]
    assert origin.value == (5, 15, 2, 27)
    assert origin.source == "--set dataset.layers: with those that algorithm 'eagle3' reads"
    assert resolve(LLAMA, stage="dataset").spec.dataset.layers == ()
    found = problems_of("algorithm.options.layers=2,30", recipe="smollm2-eagle3")
    assert found == ["algorithm.options.layers: has 30; the base has 0 (embeddings) to 29"]


def test_only_some_algorithms_start_from_the_bases_layers() -> None:
    found = problems_of("draft.init=base_last_layers", "draft.vocab_size=none", recipe="smollm2-eagle3")
    assert found == ["draft.init: is 'base_last_layers'; algorithm 'eagle3' needs 'random'"]
