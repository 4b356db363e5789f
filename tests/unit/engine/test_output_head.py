"""The logits of an output head: one formula for decoding, losses and reduced vocabularies."""

from __future__ import annotations

import pytest
import torch

from hetspec_core.engine.modeling.base_lm import OutputHead
from tests.fakes.tiny_models import tiny_base, tiny_draft

_IDS = torch.tensor([1, 4, 7])


def head(scale: float, softcap: float | None, *, bias: bool, dtype: torch.dtype = torch.float32) -> OutputHead:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 6, generator=random).to(dtype)
    return OutputHead(weight, torch.randn(9, generator=random).to(dtype) if bias else None, scale, softcap)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 3.0), (0.8, 2.0)])
def test_logits_and_slope_follow_the_formula(scale: float, softcap: float | None, bias: bool) -> None:
    whole = head(scale, softcap, bias=bias)
    hidden = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    products = (hidden @ whole.weight.T + (0 if whole.bias is None else whole.bias)).requires_grad_()
    wanted = products * scale if softcap is None else softcap * torch.tanh(scale * products / softcap)
    torch.testing.assert_close(whole.logits(hidden), wanted)
    slope = torch.autograd.grad(wanted.sum(), products)[0]
    torch.testing.assert_close(slope, torch.as_tensor(whole.slope(wanted.detach())).expand_as(slope))
    torch.testing.assert_close(whole.rows(_IDS).logits(hidden), wanted[:, _IDS])


def test_products_of_a_rounded_type_are_capped_in_the_type_that_is_asked_for() -> None:
    whole = head(0.8, 2.0, bias=False, dtype=torch.bfloat16)
    hidden = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    exact = whole.logits(hidden, torch.float32)
    products = torch.nn.functional.linear(hidden.to(torch.bfloat16), whole.weight).float()
    assert exact.dtype == torch.float32 and torch.equal(exact, torch.tanh(products * 0.8 / 2.0) * 2.0)
    assert whole.logits(hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "phi"])
def test_a_reduced_draft_has_rows_of_the_logits_of_its_base(family: str) -> None:
    base = tiny_base(family)
    draft = tiny_draft(base, vocab=(1, 4, 7))
    hidden = torch.randn(3, base.hidden_size, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(draft.logits(hidden), base.logits(hidden)[:, _IDS])
    assert draft.output_head.weight.shape[0] == 3 and len(draft.copied_rows) == (2 if family == "phi" else 1)
