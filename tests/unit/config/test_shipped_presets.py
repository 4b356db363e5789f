"""Every preset that ships: it loads, it says what it is, and every recipe resolves for every stage."""

from __future__ import annotations

import time

import pytest

from hetspec_core.config import library, load_base, resolve
from hetspec_core.config.resolve import STAGES
from hetspec_core.errors import NotFoundError
from hetspec_core.spec import Architecture
from hetspec_core.spec.run import from_toml, to_toml

NAMES = {kind: [item.file.name for item in library.list_presets(kind) if item.file.shipped] for kind in library.KINDS}
EVERY = [(kind, name) for kind, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_it_loads_and_says_what_it_is(kind: str, name: str) -> None:
    preset = library.load(kind, name)
    assert preset.file.shipped
    assert 10 <= len(preset.summary) <= 120 and not preset.summary.endswith(".")


@pytest.mark.parametrize("name", NAMES["recipe"])
@pytest.mark.parametrize("stage", STAGES)
def test_it_resolves_for_every_stage(name: str, stage: str) -> None:
    resolved = resolve(name, stage=stage)
    spec = resolved.spec
    assert (spec.stage, spec.recipe) == (stage, name)
    assert spec.draft is not None and spec.draft.architecture.vocab_size == spec.base.architecture.vocab_size
    assert from_toml(to_toml(spec)) == spec


@pytest.mark.parametrize("name", NAMES["base"])
def test_a_base_states_its_licence_and_its_size(name: str) -> None:
    base = load_base(name)
    assert base.license and base.parameters
    counted = count_parameters(base.architecture)
    assert abs(counted - base.parameters) / base.parameters < 1e-3, "the sizes are not those of the published model"


def count_parameters(sizes: Architecture) -> int:
    """Parameters of a Llama-like model with these sizes, norms included, query and key norms not."""
    width = sizes.head_dim or sizes.hidden_size // sizes.num_attention_heads
    attention = 2 * sizes.hidden_size * width * (sizes.num_attention_heads + sizes.num_key_value_heads)
    if sizes.num_experts:
        mlp = sizes.num_experts * (3 * sizes.hidden_size * (sizes.moe_intermediate_size or 0) + sizes.hidden_size)
    else:
        mlp = 3 * sizes.hidden_size * sizes.intermediate_size
    ends = sizes.vocab_size * sizes.hidden_size * (1 if sizes.tie_word_embeddings else 2)
    return sizes.num_hidden_layers * (attention + mlp + 2 * sizes.hidden_size) + ends + sizes.hidden_size


@pytest.mark.parametrize("kind", ["base", "draft", "algorithm"])
def test_every_part_is_used_by_a_recipe(kind: str) -> None:
    used = {str(resolve(name, stage="dataset").origins[f"{kind}.summary"].value) for name in NAMES["recipe"]}
    assert {library.load(kind, name).summary for name in NAMES[kind]} <= used


def test_the_mixtures_draft_is_as_wide_as_the_experts_of_one_token() -> None:
    origin = resolve("qwen3-30b-qwen3-eagle", stage="train").origins["draft.architecture.intermediate_size"]
    assert origin.value == 768 * 8
    assert origin.source.endswith("formula 'base.moe_intermediate_size * base.num_experts_per_tok' = 6144")


def test_resolving_is_fast() -> None:
    resolve("quick-demo", stage="train")
    begin = time.process_time()
    for _ in range(5):
        resolve("quick-demo", stage="train")
    assert (time.process_time() - begin) / 5 < 0.05


ORIGIN = {
    "llama2_7b_base_and_llama2_7b_drafter_using_eagle2": ("llama2-7b-llama-eagle", "eagle", "llama"),
    "llama2_7b_base_and_qwen3_moe_30A3B_drafter_using_eagle2": ("llama2-7b-qwen3-moe-eagle", "eagle", "qwen3_moe"),
    "qwen3_moe_30A3B_base_and_qwen3_moe_30A3B_drafter_using_eagle2": (
        "qwen3-30b-qwen3-moe-eagle",
        "eagle",
        "qwen3_moe",
    ),
    "qwen3_moe_30A3B_base_and_qwen3_4B_drafter_using_eagle2": ("qwen3-30b-qwen3-eagle", "eagle", "qwen3"),
    "qwen3_4B_base_and_qwen3_4B_drafter_using_eagle2": ("qwen3-4b-qwen3-eagle", "eagle", "qwen3"),
    "qwen3_4B_base_and_qwen3_moe_30A3B_drafter_using_eagle2": ("qwen3-4b-qwen3-moe-eagle", "eagle", "qwen3_moe"),
    "qwen3_4B_base_and_customized_qwen3_moe_30A3B_drafter_using_eagle2": (
        "qwen3-4b-qwen3-moe-zero-eagle",
        "eagle",
        "qwen3_moe",
    ),
    "qwen3_4B_base_and_qwen3_4B_drafter_using_experimental": ("qwen3-4b-latent", "latent", "qwen3"),
}
"""Preset of specforge_het -> recipe here, its algorithm and the family of its draft."""


@pytest.mark.parametrize("theirs", ORIGIN)
def test_every_pairing_of_the_origin_is_a_recipe(theirs: str) -> None:
    name, algorithm, family = ORIGIN[theirs]
    spec = resolve(name, stage="train").spec
    assert spec.algorithm.name == algorithm
    assert spec.draft is not None and spec.draft.architecture.model_type == family
    assert spec.draft.architecture.num_hidden_layers == 1
    sizes, base = spec.draft.architecture, spec.base.architecture
    if "experimental" in theirs:
        assert (sizes.hidden_size, sizes.intermediate_size) == (1408, 5376)
        assert spec.algorithm.options["latent_init"] == "learned"
    else:
        assert sizes.hidden_size == base.hidden_size
    if theirs.startswith("qwen3_4B_base") and family == "qwen3_moe":
        assert sizes.moe_intermediate_size == base.intermediate_size // (sizes.num_experts_per_tok or 0) == 9728 // 8
        assert sizes.num_key_value_heads == base.num_key_value_heads and sizes.rope_theta == base.rope_theta
    if "customized" in theirs:
        assert sizes.num_experts == 128
        assert (sizes.extra["zero_compute_experts"], sizes.extra["shared_experts"]) == (32, 2)
        assert sizes.extra["router_aux_loss_coef"] == 0.0005


@pytest.mark.parametrize(
    ("theirs", "base"),
    [
        ("llama2_7b", "llama2-7b-chat"),
        ("qwen3_moe_30A3B", "qwen3-30b-a3b-instruct-2507"),
        ("qwen3_4B", "qwen3-4b-instruct-2507"),
    ],
)
def test_a_base_alone_is_enough_for_a_dataset(theirs: str, base: str) -> None:
    spec = resolve(base, stage="dataset", options={"dataset.range": [0, 17500]}).spec
    assert (spec.base.name, spec.draft, spec.dataset.range) == (base, None, (0, 17500)), theirs
    extras = {"pad_token": "@eos"} if theirs == "llama2_7b" else {"unk_token": "@eos"}
    assert spec.base.special_tokens == extras
    with pytest.raises(NotFoundError):
        resolve(base, stage="train")
