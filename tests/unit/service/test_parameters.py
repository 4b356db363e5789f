"""Parameters counted from sizes are those that Hugging Face's modules have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hetspec_core.config import library, load_base
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.service.planning import parameters
from hetspec_core.service.planning.parameters import FAMILIES, count_base, count_draft, count_passes
from hetspec_core.spec import AlgorithmOptions, AlgorithmSpec, Architecture, DraftSizes, HeadParameters, Passes
from tests.fakes.tiny_models import draft_spec, tiny_base

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 56,
    "max_position_embeddings": 64,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "mixtral": {"num_experts_per_tok": 2},
}
CASES = [
    *((family, {}) for family in FAMILIES),
    *((family, {"attention_bias": True}) for family, traits in FAMILIES.items() if traits.attention_bias_key),
    *((family, {"mlp_bias": True}) for family, traits in FAMILIES.items() if traits.mlp_bias_key),
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("mixtral", {"num_local_experts": 5}),
]


def architecture(family: str, extra: dict[str, Any], **changes: Any) -> Architecture:
    if family == "mixtral":
        extra = {"num_local_experts": 8, **extra}
    return Architecture(model_type=family, extra=extra, **{**SIZES, **EXPERTS.get(family, {}), **changes})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("family", "extra"), CASES)
def test_a_base_has_as_many_parameters_as_are_counted(family: str, extra: dict[str, Any], tied: bool) -> None:
    sizes = architecture(family, extra, tie_word_embeddings=tied)
    values = {**SIZES, **EXPERTS.get(family, {}), **sizes.extra, "tie_word_embeddings": tied, "pad_token_id": None}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))
    counted = count_base(sizes)
    assert counted.exact
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [item.file.name for item in library.list_presets("base") if item.file.shipped])
def test_a_shipped_base_has_its_published_number_of_parameters(name: str) -> None:
    base = load_base(name)
    assert count_base(base.architecture).total == base.parameters


@pytest.mark.parametrize("backbone", ["llama", "qwen3"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("normed", [False, True])
def test_a_draft_has_as_many_parameters_as_are_counted(backbone: str, layers: int, normed: bool) -> None:
    base = tiny_base()
    spec = draft_spec(base, backbone, layers=layers, skip_first_input_norm=not normed, skip_output_norm=not normed)
    for bias in (True, False):
        algorithm = AlgorithmSpec(options={"fusion_bias": bias})
        draft = build_draft(spec, algorithm, base, seed=0)
        assert count_draft(spec, algorithm).total == draft.num_parameters


def test_one_token_passes_through_its_experts_only() -> None:
    many = count_base(architecture("qwen3_moe", {}))
    few = count_base(architecture("qwen3_moe", {}, num_experts_per_tok=1))
    assert few.total == many.total
    assert many.active - few.active == 3 * 3 * 32 * 24  # one expert less in each of three layers
    assert many.active < many.layers


def test_an_unknown_family_is_counted_as_a_llama_and_says_so() -> None:
    unknown, llama = count_base(architecture("brand_new", {})), count_base(architecture("llama", {}))
    assert not unknown.exact
    assert unknown.total == llama.total


def test_a_recurrence_and_a_training_time_test_pass_through_the_layers_again() -> None:
    assert count_passes(AlgorithmSpec()) == Passes(training=1, drafting=1, readouts=1)
    assert count_passes(AlgorithmSpec(name="eagle3", options={"ttt_steps": 5})) == Passes(
        training=5, drafting=1, readouts=5
    )
    options = {"refinements": 2, "recurrences": 3, "repeats": 2}
    assert count_passes(AlgorithmSpec(name="latent", options=options)) == Passes(training=12, drafting=12, readouts=2)


def test_an_algorithm_that_is_not_known_is_counted_as_eagle_and_says_so() -> None:
    spec, unknown = draft_spec(tiny_base(), "llama"), AlgorithmSpec(name="unheard-of")
    counted = count_draft(spec, unknown)
    assert not counted.exact
    assert counted.total == count_draft(spec, AlgorithmSpec()).total
    assert count_passes(unknown) == Passes()


class TwiceOptions(AlgorithmOptions):
    """Options as another package may have them."""

    def passes(self) -> Passes:
        return Passes(training=2, drafting=2)

    def head_parameters(self, sizes: DraftSizes) -> HeadParameters:
        return HeadParameters(7, norms=sizes.hidden_size, output_head=0, logit_products=sizes.vocab_size)


def test_options_of_another_package_say_how_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(check_options=lambda options: TwiceOptions(**options))
    monkeypatch.setattr(parameters, "load_card", lambda axis, name: card)
    spec, foreign = draft_spec(tiny_base(), "llama"), AlgorithmSpec(name="twice")
    counted = count_draft(spec, foreign)
    assert counted.exact
    assert counted.head == 7 + spec.architecture.hidden_size
    assert counted.head_products == spec.architecture.vocab_size
    assert count_passes(foreign) == Passes(training=2, drafting=2)
