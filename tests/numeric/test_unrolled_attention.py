"""Attention over the steps of a training-time test against the whole score matrix, and against decoding itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from hetspec_core.catalog import list_cards
from hetspec_core.engine.modeling import attention as unrolled
from hetspec_core.engine.modeling.attention import UnrolledKeys, merged_attention
from hetspec_core.engine.modeling.base_lm import BaseOutput
from hetspec_core.engine.modeling.draft_lm import Unroll
from tests.fakes.tiny_models import HIDDEN, ragged_prompts, tiny_base, tiny_draft


def dense(query: Tensor, keys: list[Tensor], values: list[Tensor], scale: float) -> Tensor:
    """All [T, (k+1) T] scores with a mask: step 0 is causal, later steps are seen on the diagonal only."""
    length = query.shape[2]
    group = query.shape[1] // keys[0].shape[1]
    key, value = (torch.cat(part, 2).repeat_interleave(group, 1) for part in (keys, values))
    order = torch.arange(length)
    causal, own = order[None] <= order[:, None], order[None] == order[:, None]
    mask = torch.cat([causal] + [own] * (len(keys) - 1), 1)
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1) @ value


def inputs(rows: int, heads: int, group: int, length: int, steps: int, seed: int, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, heads * group, length, 4, generator=random, dtype=torch.float64)
    rest = [torch.randn(rows, heads, length, 4, generator=random, dtype=torch.float64) for _ in range(2 * steps + 2)]
    return [tensor.to(dtype).requires_grad_() for tensor in (query, *rest)]


def ours(tensors: list[Tensor], steps: int, block: int | None) -> Tensor:
    query, keys, values = tensors[0], tensors[1 : steps + 2], tensors[steps + 2 :]
    own = torch.stack(keys[1:], 3), torch.stack(values[1:], 3)
    return merged_attention(query, keys[0], values[0], *own, 0.4, block)


@given(
    st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 10)
)
@settings(max_examples=30, deadline=None)
def test_value_and_gradients_are_those_of_the_dense_mask(
    rows: int, heads: int, group: int, length: int, steps: int, block: int
) -> None:
    mine = inputs(rows, heads, group, length, steps, length, torch.float32)
    exact = inputs(rows, heads, group, length, steps, length, torch.float64)
    expected = dense(exact[0], exact[1 : steps + 2], exact[steps + 2 :], 0.4)
    output = ours(mine, steps, block)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    upper = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected * upper).sum().backward()
    (output * upper.float()).sum().backward()
    for have, want in zip(mine, exact, strict=True):
        assert have.grad is not None and want.grad is not None
        torch.testing.assert_close(have.grad.double(), want.grad, rtol=1e-3, atol=1e-4)


def test_half_precision_stays_near_the_exact_result() -> None:
    mine, exact = (inputs(1, 2, 2, 40, 3, 0, dtype) for dtype in (torch.bfloat16, torch.float64))
    output = ours(mine, 3, 16)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), dense(exact[0], exact[1:5], exact[5:], 0.4), rtol=0.05, atol=0.05)
    output.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in mine)


def test_no_tensor_as_large_as_the_score_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Length 512 with blocks of 16 queries: nothing of 512 x 512 per head appears, neither forward nor backward."""
    monkeypatch.setattr(unrolled, "BLOCK_ELEMENTS", 16 * 512)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return result

    tensors = inputs(1, 1, 1, 512, 2, 0, torch.float32)
    with Watch():
        ours(tensors, 2, None).sum().backward()
    assert largest <= 16 * 512


def test_steps_of_a_layer_do_not_meet_those_of_another() -> None:
    query, key, value = (torch.randn(1, 1, 3, 4) for _ in range(3))
    alone, both = UnrolledKeys(), UnrolledKeys()
    for step in range(3):
        expected = alone.attend(0, query, key + step, value + step, 0.5)
        assert torch.equal(both.attend(0, query, key + step, value + step, 0.5), expected)
        both.attend(1, query, key - step, value, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("backbone", [card.name for card in list_cards("backbones")])
@pytest.mark.parametrize("flags", [{}, {"fc_norm": True, "norm_output": True, "norm_before_residual": True}])
def test_training_shows_a_draft_what_decoding_will(backbone: str, flags: dict[str, bool]) -> None:
    """Step k at t of the unrolled draft is step k of a chain that starts at t and is fed the stored tokens."""
    base, steps = tiny_base(num_hidden_layers=8), 4
    draft = tiny_draft(base, backbone, algorithm="eagle3", layers=2, hidden=24, **flags)
    tokens = torch.tensor(ragged_prompts((9,)))
    output = base.forward(tokens, layers=draft.captured_layers)
    assert draft.captured_layers == (2, 4, 5)
    features = draft.base_features(BaseOutput(output.hidden[:, :-1], {k: v[:, :-1] for k, v in output.layers.items()}))
    tokens = tokens[:, 1:]
    states = draft(tokens, features, unroll=Unroll(steps))
    assert states[0].shape[-1] == 24 != HIDDEN
    length = tokens.shape[1]
    for start in range(length):
        cache = DynamicCache()
        seen = slice(0, start + 1)
        state = draft(tokens[:, seen], draft.first_state(features[:, seen]), cache=cache)[:, -1:]
        for step in range(steps):
            torch.testing.assert_close(state[:, 0], states[step][:, start], rtol=1e-3, atol=1e-4)
            place = start + step + 1
            if place >= length:
                break
            mask = torch.ones(1, 1, 1, place + 1, dtype=torch.bool)
            state = draft(
                tokens[:, place : place + 1], state, positions=torch.tensor([[place]]), mask=mask, cache=cache
            )
