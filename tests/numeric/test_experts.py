"""Mixtures of experts against a loop over tokens, and what their balance loss asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.nn import functional as F
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.modeling.backbones import HFBackbone, backbone_config
from hetspec_core.engine.modeling.experts import (
    ExpertMLP,
    Routing,
    balance_loss,
    fixed_shapes,
    prepare_experts,
    watch,
)
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture
from tests.fakes.tiny_models import algorithm_spec, tiny_base, tiny_draft

WIDTH = 16


def make_mlp(*, experts: int = 6, top_k: int = 2, seed: int = 0, **extra: Any) -> ExpertMLP:
    architecture = Architecture(
        model_type="qwen3_moe",
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=32,
        max_position_embeddings=64,
        num_experts=experts,
        num_experts_per_tok=top_k,
        moe_intermediate_size=8,
        extra={"initializer_range": 0.3, "norm_topk_prob": True, "router_aux_loss_coef": 0.5, **extra},
    )
    torch.manual_seed(seed)
    [mlp] = HFBackbone(backbone_config(architecture, 1)).experts
    return mlp


def token_by_token(mlp: ExpertMLP, row: torch.Tensor) -> torch.Tensor:
    probabilities = torch.softmax(mlp.gate.weight @ row, -1)
    weights, chosen = probabilities.topk(mlp.top_k)
    output = torch.zeros_like(row)
    for weight, expert in zip(weights / weights.sum(), chosen.tolist(), strict=True):
        if expert < mlp.num_real:
            gate, up = (mlp.experts.gate_up_proj[expert] @ row).chunk(2)
            output = output + weight * (mlp.experts.down_proj[expert] @ (F.silu(gate) * up))
        elif mlp.kind == "identity":
            output = output + weight * row
        elif mlp.constants is not None:
            output = output + weight * mlp.constants[expert - mlp.num_real]
    if mlp.shared is not None:
        shared = mlp.shared
        extra = shared.down_proj.weight @ (F.silu(shared.gate_proj.weight @ row) * (shared.up_proj.weight @ row))  # type: ignore[union-attr, operator]
        output = output + (extra if mlp.shared_gate is None else torch.sigmoid(mlp.shared_gate.weight @ row) * extra)
    return output


@pytest.mark.parametrize("top_k", [1, 2, 6])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"zero_compute_experts": 2},
        {"zero_compute_experts": 3, "zero_expert_kind": "zero"},
        {"zero_compute_experts": 2, "zero_expert_kind": "constant", "shared_experts": 1},
        {"zero_compute_experts": 5, "shared_experts": 2, "shared_expert_gate": True},
    ],
)
def test_output_and_gradient_are_those_of_a_loop_over_tokens(extra: dict[str, Any], top_k: int) -> None:
    mlp = make_mlp(top_k=top_k, **extra)
    if mlp.constants is not None:
        torch.nn.init.normal_(mlp.constants)
    inputs = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1), requires_grad=True)
    output = mlp(inputs)
    expected = torch.stack([token_by_token(mlp, row) for row in inputs.flatten(0, 1)]).view_as(inputs)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    parameters = [inputs, *mlp.parameters()]
    mine = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
    exact = torch.autograd.grad(expected.square().sum(), parameters, allow_unused=True)
    assert all(gradient is not None for gradient in mine)  # processes wait for every one of them
    for have, want in zip(mine, exact, strict=True):
        torch.testing.assert_close(have, torch.zeros_like(have) if want is None else want, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]


def test_the_familys_own_block_gives_the_same_without_further_experts() -> None:
    mlp = make_mlp()
    inputs = torch.randn(2, 4, WIDTH)
    routing = mlp.route(inputs.flatten(0, 1))
    expected = mlp.experts(inputs.flatten(0, 1), routing.chosen, routing.weights).view_as(inputs)
    torch.testing.assert_close(mlp(inputs), expected)


def routing_of(mlp: ExpertMLP, tokens: int = 40, seed: int = 2) -> Routing:
    return mlp.route(torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)))


def test_without_idle_experts_the_loss_is_hugging_faces() -> None:
    mlp = make_mlp(top_k=2)
    routing = routing_of(mlp)
    rows = torch.arange(40) < 30
    ours = balance_loss(mlp, routing, rows)
    theirs = load_balancing_loss_func((routing.logits,), 6, 2, rows[None].long())
    torch.testing.assert_close(ours, theirs)


def test_experts_without_compute_are_left_alone_by_the_balance() -> None:
    """However many tokens take them, the loss and its pull on their rows of the router stay zero."""
    mlp = make_mlp(zero_compute_experts=2)
    everyone = torch.ones(40, dtype=torch.bool)
    loss = balance_loss(mlp, routing_of(mlp), everyone)
    [gradient] = torch.autograd.grad(loss, [mlp.gate.weight])
    assert gradient[: mlp.num_real].abs().max() > 1e-3 and not gradient[mlp.num_real :].any()
    with torch.no_grad():
        mlp.gate.weight[: mlp.num_real] = 0.0  # real experts are all alike; the others take nearly everything
        mlp.gate.weight[mlp.num_real :] *= 50
    balanced = Routing(
        logits=routing_of(mlp).logits,
        chosen=torch.stack([torch.arange(40) % 4, torch.full((40,), 5)], 1),
        weights=torch.ones(40, 2),
    )
    assert balance_loss(mlp, balanced, everyone).item() == pytest.approx(2.0)  # k: the least that there is


@pytest.mark.parametrize("target", [0.1, 0.6])
def test_a_wanted_share_is_reached(target: float) -> None:
    mlp = make_mlp(zero_compute_experts=2, zero_expert_share=target)
    optimizer = torch.optim.Adam([mlp.gate.weight], lr=0.05)
    inputs = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(3))
    inputs[:, 0] = 1.0  # something that the router can lean on for all tokens
    rows = torch.ones(200, dtype=torch.bool)
    for _ in range(200):
        optimizer.zero_grad()
        balance_loss(mlp, mlp.route(inputs), rows).backward()
        optimizer.step()
    mass = torch.softmax(mlp.route(inputs).logits, -1)[:, mlp.num_real :].sum(-1).mean()
    assert mass.item() == pytest.approx(target, abs=0.05)


def test_reports_say_what_was_computed() -> None:
    mlp = make_mlp(experts=4, top_k=2, zero_compute_experts=1)
    with watch([mlp]) as report:
        report.append(
            (mlp, Routing(torch.zeros(3, 4), torch.tensor([[0, 3], [0, 1], [2, 3]]), torch.full((3, 2), 0.5)))
        )
    values = {name: float(value) for name, value in report.metrics(torch.tensor([[True, True, False]])).items()}
    assert values["zero_compute_share"] == pytest.approx(1 / 4)  # the third token is padding
    assert values["computed_experts"] == pytest.approx(1.5)
    assert values["expert_load_max"] == pytest.approx(3 * 2 / 3) and values["expert_load_min"] == 0.0
    mlp(torch.zeros(1, 2, WIDTH))
    assert len(report.seen) == 1  # nothing is collected once nobody watches


@pytest.mark.parametrize("extra", [{"zero_compute_experts": 6}, {"zero_expert_kind": "lazy"}, {"shared_experts": -1}])
def test_experts_that_cannot_be_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        make_mlp(**extra)


def test_the_loss_of_a_mixture_counts_its_balance_per_supervised_token() -> None:
    from tests.fakes.tiny_models import MASK, make_batch

    base, batch = tiny_base(), make_batch(MASK)
    draft = tiny_draft(base, "qwen3-moe").requires_grad_(True)
    rule = build_algorithm(algorithm_spec())
    output = rule.loss(draft, batch)
    assert set(output.sums) == set(rule.names(draft))
    parts = rule.options.token_loss_weight * output.sums["token_loss"] + (  # type: ignore[attr-defined]
        rule.options.feature_loss_weight * output.sums["feature_loss"] + output.sums["router_loss"]  # type: ignore[attr-defined]
    )
    torch.testing.assert_close(output.total, parts)
    assert float(output.sums["router_loss"]) > 0
    assert draft.num_active_parameters == draft.num_parameters - 2 * 3 * 32 * 24  # two of four real experts rest


@pytest.mark.parametrize("experts", [6, 64])  # all experts work on all tokens, or weights are gathered
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"zero_compute_experts": 2},
        {"zero_compute_experts": 2, "zero_expert_kind": "constant", "shared_experts": 1, "shared_expert_gate": True},
        {"zero_compute_experts": 3, "zero_expert_kind": "zero"},
    ],
)
@torch.no_grad()
def test_fixed_shapes_give_what_a_loop_over_tokens_gives(experts: int, extra: dict[str, Any]) -> None:
    mlp = make_mlp(experts=experts, **extra)
    if mlp.constants is not None:
        mlp.constants.copy_(torch.randn_like(mlp.constants))
    rows = torch.randn(2, 5, WIDTH)
    with fixed_shapes():
        found = mlp(rows)
    expected = torch.stack([token_by_token(mlp, row) for row in rows.flatten(0, 1)]).view_as(rows)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("experts", [4, 64])
@torch.no_grad()
def test_a_prepared_base_gives_the_same_states_in_fixed_shapes(experts: int) -> None:
    base = tiny_base("qwen3_moe", num_experts=experts)
    ids = torch.randint(0, base.vocab_size, (2, 7))
    expected = base.forward(ids).hidden
    assert prepare_experts(base.decoder) and not prepare_experts(tiny_base().decoder)
    torch.testing.assert_close(base.forward(ids).hidden, expected)
    with fixed_shapes():
        torch.testing.assert_close(base.forward(ids).hidden, expected)


@torch.no_grad()
def test_nothing_of_a_mixture_in_fixed_shapes_is_looked_at_on_the_host() -> None:
    """Tensors without contents show what a graph cannot hold."""
    base, mlp = tiny_base("qwen3_moe"), make_mlp(zero_compute_experts=2)
    prepare_experts(base.decoder)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):
            with fixed_shapes():
                assert mlp(torch.zeros(2, 5, WIDTH)).shape == (2, 5, WIDTH)
                assert base.forward(torch.zeros(2, 5, dtype=torch.int64)).hidden.shape[:2] == (2, 5)
        with pytest.raises(DynamicOutputShapeException):
            mlp(torch.zeros(2, 5, WIDTH))
