"""Formulas of a draft: computed in the order they need each other, each failure reported once and under its key."""

from __future__ import annotations

from typing import Any

from hetspec_core.config.formulas import compute_sizes
from hetspec_core.config.origins import Place, merge, plain, to_table

BASE = {
    "architecture": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "rope_theta": 1e5,
        "tie_word_embeddings": True,
        "extra": {"hidden_act": "silu", "experts": 4},
    }
}


def compute(*layers: dict[str, Any], base: dict[str, Any] = BASE) -> tuple[dict[str, Any], list[str]]:
    table: Any = {}
    for number, layer in enumerate(layers):
        table = merge(table, to_table(layer, lambda _, number=number: Place("preset", f"layer {number}")))
    draft, problems, _ = compute_sizes(table, to_table(base, lambda _: Place("preset", "base")))
    return plain(draft), [str(problem) for problem in problems]


def sizes(*layers: dict[str, Any], base: dict[str, Any] = BASE) -> dict[str, Any]:
    draft, problems = compute(*({"architecture": layer} for layer in layers), base=base)
    assert not problems
    return draft["architecture"]


def faults(layer: dict[str, Any]) -> list[str]:
    return compute({"architecture": layer})[1]


def test_formulas_are_computed_in_the_order_they_need_each_other() -> None:
    assert sizes({"hidden_size": "draft.intermediate_size // 4", "intermediate_size": "base.hidden_size * 2"}) == {
        "hidden_size": 288,
        "intermediate_size": 1152,
    }


def test_every_type_of_size_may_be_a_formula() -> None:
    values = sizes({"rope_theta": "base.rope_theta / 2", "tie_word_embeddings": "base.tie_word_embeddings"})
    assert values == {"rope_theta": 5e4, "tie_word_embeddings": True}


def test_the_model_type_is_never_a_formula() -> None:
    assert sizes({"model_type": "llama"}) == {"model_type": "llama"}


def test_further_keys_are_formulas_only_if_they_name_a_size() -> None:
    values = sizes(
        {"extra": {"a": "silu", "b": "base.hidden_act", "c": "base.experts * 2", "d": "3", "e": "draft.c + 1"}}
    )
    assert values["extra"] == {"a": "silu", "b": "silu", "c": 8, "d": "3", "e": 9}


def test_in_its_own_formula_a_size_stands_for_the_value_beneath() -> None:
    lower = {"num_experts_per_tok": 8, "extra": {"router_aux_loss_coef": 0.001}}
    upper = {
        "num_experts_per_tok": "draft.num_experts_per_tok * 2",
        "extra": {"router_aux_loss_coef": "draft.router_aux_loss_coef / 2"},
    }
    assert sizes(lower, upper) == {"num_experts_per_tok": 16, "extra": {"router_aux_loss_coef": 0.0005}}
    assert sizes(lower, upper, upper)["num_experts_per_tok"] == 32


def test_the_value_beneath_may_be_a_formula_or_the_default() -> None:
    assert sizes({"hidden_size": "base.hidden_size"}, {"hidden_size": "draft.hidden_size // 2"}) == {"hidden_size": 288}
    assert sizes({"rope_theta": "draft.rope_theta * 2"}) == {"rope_theta": 20000.0}


def test_a_head_width_that_is_not_stated_follows_from_the_width() -> None:
    assert sizes({"head_dim": "base.head_dim"}) == {"head_dim": 64}
    values = sizes(
        {"hidden_size": "base.hidden_size", "num_attention_heads": 18, "intermediate_size": "draft.head_dim * 3"}
    )
    assert values["intermediate_size"] == 96


def test_a_reduced_vocabulary_may_be_a_formula() -> None:
    draft, problems = compute({"vocab_size": "draft.vocab_size // 6", "architecture": {"vocab_size": 48}})
    assert not problems and draft["vocab_size"] == 8


def test_the_origin_shows_formula_and_value() -> None:
    table = to_table({"architecture": {"hidden_size": "base.hidden_size"}}, lambda _: Place("preset", "p", line=3))
    draft, _, _ = compute_sizes(table, to_table(BASE, lambda _: Place("preset", "base")))
    leaf: Any = draft["architecture"]["hidden_size"]  # type: ignore[index, call-overload]
    assert str(leaf.place) == "p:3: formula 'base.hidden_size' = 576"


def test_circles_are_named_once() -> None:
    found = faults({"hidden_size": "draft.vocab_size", "vocab_size": "draft.head_dim", "head_dim": "draft.hidden_size"})
    assert found == [
        "draft.architecture.head_dim: formula 'draft.hidden_size': it is circular: "
        "draft.hidden_size -> draft.vocab_size -> draft.head_dim -> draft.hidden_size [layer 0]"
    ]


def test_a_size_that_needs_only_itself_says_that_there_is_nothing_beneath() -> None:
    assert (
        "draft.hidden_size stands for the value beneath this one, and there is none"
        in faults({"hidden_size": "draft.hidden_size"})[0]
    )


def test_a_failure_is_not_repeated_by_those_that_need_it() -> None:
    found = faults({"hidden_size": "base.hiden_size", "intermediate_size": "draft.hidden_size * 4"})
    assert found == [
        "draft.architecture.hidden_size: formula 'base.hiden_size': there is no base.hiden_size; "
        "did you mean 'hidden_size'? [layer 0]"
    ]


def test_a_size_that_this_base_has_not_is_said_to_be_unset() -> None:
    found = faults({"intermediate_size": "base.moe_intermediate_size * 8"})
    assert "base.moe_intermediate_size is not set; set are: experts, head_dim, hidden_act, hidden_size" in found[0]


def test_a_whole_number_has_to_come_out_where_one_is_needed() -> None:
    found = faults(
        {
            "hidden_size": "base.hidden_size / 384",
            "vocab_size": "base.hidden_size / 2",
            "head_dim": "base.tie_word_embeddings",
        }
    )
    way_out = "needs a whole number > 0; // divides to a whole number"
    assert [fault.partition(": ")[2] for fault in found] == [
        f"formula 'base.hidden_size / 384': it gives 1.5; {way_out} [layer 0]",
        f"formula 'base.hidden_size / 2': it gives 288.0; {way_out} [layer 0]",
        "formula 'base.tie_word_embeddings': it gives true; needs a whole number > 0 [layer 0]",
    ]


def test_a_text_that_is_no_formula_says_what_is_allowed() -> None:
    assert (
        "it is not an arithmetic expression; allowed: numbers, base.KEY, draft.KEY"
        in faults({"hidden_size": "wide!"})[0]
    )
