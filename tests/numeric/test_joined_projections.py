"""Projections of one input as one product: the model computes what it did, and its parameters keep their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hetspec_core.engine.modeling.fusion import JoinedLinear, join_projections
from tests.fakes.tiny_models import FAMILIES, tiny_base


@pytest.mark.parametrize("family", FAMILIES)
def test_a_joined_model_computes_what_it_did(family: str) -> None:
    base = tiny_base(family)
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    with torch.inference_mode():
        before = base.logits(base.forward(ids).hidden)
    parameters = {name: value.clone() for name, value in base.model.state_dict().items()}
    join_projections(base.decoder)
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(base.logits(base.forward(ids).hidden), before, atol=1e-5, rtol=1e-5)
    after = base.model.state_dict()
    assert list(after) == list(parameters)
    assert all(torch.equal(after[name], value) for name, value in parameters.items())


def test_llama_has_one_product_for_attention_and_one_for_the_mlp_of_every_layer() -> None:
    base = tiny_base()
    assert join_projections(base.decoder) == 2 * base.num_layers
    assert join_projections(base.decoder) == 0  # joined already


class Attention(nn.Module):
    def __init__(self, **changes: nn.Module) -> None:
        super().__init__()
        parts = {name: nn.Linear(8, 4, bias=False) for name in ("q_proj", "k_proj", "v_proj")}
        for name, part in (parts | changes).items():
            setattr(self, name, part)


class Adapted(nn.Linear):
    """A layer that does more than its product."""


@pytest.mark.parametrize(
    "other",
    [nn.Linear(8, 4), nn.Linear(6, 4, bias=False), Adapted(8, 4, bias=False), nn.Linear(8, 4, bias=False).half()],
)
def test_layers_that_differ_stay_apart(other: nn.Module) -> None:
    attention = Attention(k_proj=other)
    assert join_projections(attention) == 0
    assert not any(isinstance(part, JoinedLinear) for part in attention.children())


def test_each_part_of_a_joined_product_can_be_called_alone_and_in_any_order() -> None:
    attention = Attention(k_proj=nn.Linear(8, 6, bias=False))
    inputs = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    expected = [[part(value) for part in attention.children()] for value in inputs]
    join_projections(attention)
    q, k, v = attention.children()
    torch.testing.assert_close(v(inputs[0]), expected[0][2])
    torch.testing.assert_close(k(inputs[1]), expected[1][1])
    torch.testing.assert_close(q(inputs[0]), expected[0][0])
    torch.testing.assert_close(k(inputs[0]), expected[0][1])
