"""Losses against a naive implementation in float64 with ordinary autograd, and what a batch may do to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hetspec_core.engine.algorithms import LossOutput
from hetspec_core.engine.algorithms.eagle import Eagle
from hetspec_core.engine.algorithms.losses import TokenScores, distribution_loss, feature_loss
from hetspec_core.engine.data.batches import Batch
from hetspec_core.engine.modeling.base_lm import OutputHead
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import EagleOptions
from tests.fakes.tiny_models import HIDDEN, MASK, make_batch, tiny_base, tiny_draft

WORDS, WIDTH = 14, 5  # V and H of the losses' own tests


def naive(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: list[int] | None,
    scale: float,
    softcap: float | None,
) -> dict[str, Tensor]:
    """Row by row and word by word, in the type of its arguments."""

    def logits(state: Tensor, words: list[int]) -> Tensor:
        rows = [(weight[word] * state).sum() + (bias[word] if bias is not None else 0.0) for word in words]
        raw = torch.stack(rows) * scale
        return torch.tanh(raw / softcap) * softcap if softcap else raw

    everything = list(range(len(weight)))
    words = everything if ids is None else ids
    sums = {name: hidden.new_zeros(()) for name in ("loss", "top1", "top10", "acceptance")}
    for state, wanted in zip(hidden, target, strict=True):
        p = torch.softmax(logits(wanted, everything), -1)
        q = torch.softmax(logits(state, words), -1)
        inside = p[words] / p[words].sum()
        ranking = [words[index] for index in q.argsort(descending=True).tolist()]
        sums["loss"] = sums["loss"] - (inside * q.log()).sum()
        sums["top1"] = sums["top1"] + float(ranking[0] == p.argmax())
        sums["top10"] = sums["top10"] + float(int(p.argmax()) in ranking[:10])
        sums["acceptance"] = sums["acceptance"] + torch.minimum(p[words], q).sum()
    return sums


def compute(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: list[int] | None,
    **options: Any,
) -> tuple[Tensor, TokenScores]:
    """`distribution_loss`, called the way the algorithms call it."""
    caps = {name: options.pop(name) for name in ("scale", "softcap") if name in options}
    whole = OutputHead(weight, bias, **caps)
    if ids is None:
        return distribution_loss(hidden, target, whole, **options)
    head = whole._replace(weight=weight[ids], bias=bias[ids] if bias is not None else None)
    return distribution_loss(hidden, target, head, base_head=whole, vocab_ids=torch.tensor(ids), **options)


@pytest.mark.parametrize("ids", [None, [0, 3, 4, 9], list(range(1, 14)), [7]], ids=["all", "4", "13", "1"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (1.0, 2.0), (0.8, 3.0)])
def test_loss_scores_and_gradient_are_those_of_the_naive_loss(
    ids: list[int] | None, bias: bool, scale: float, softcap: float | None
) -> None:
    random = torch.Generator().manual_seed(3)
    hidden, target = (torch.randn(9, WIDTH, generator=random, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(WORDS, WIDTH, generator=random, dtype=torch.float64)
    shift = torch.randn(WORDS, generator=random, dtype=torch.float64) if bias else None
    exact = hidden.clone().requires_grad_()
    expected = naive(exact, target, weight, shift, ids, scale, softcap)
    (expected["loss"] * 0.7).backward()
    for chunk in (1, 2, 4, 9, 100, None):
        ours = hidden.float().requires_grad_()
        low = target.float(), weight.float(), shift.float() if shift is not None else None
        loss, scores = compute(ours, *low, ids, scale=scale, softcap=softcap, chunk_rows=chunk)
        (loss * 0.7).backward()
        assert loss.item() == pytest.approx(expected["loss"].item(), rel=1e-5, abs=1e-5)
        assert scores.top1.item() == expected["top1"] and scores.top10.item() == expected["top10"]
        assert scores.acceptance.item() == pytest.approx(expected["acceptance"].item(), rel=1e-5)
        assert exact.grad is not None and ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 7), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=25)
def test_chunks_change_nothing(rows: int, chunk: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    hidden, target = torch.randn(rows, WIDTH, generator=random), torch.randn(rows, WIDTH, generator=random)
    weight = torch.randn(WORDS, WIDTH, generator=random)
    whole = compute(hidden, target, weight, None, None)
    parts = compute(hidden, target, weight, None, None, chunk_rows=chunk)
    torch.testing.assert_close(whole[0], parts[0])
    torch.testing.assert_close(whole[1].acceptance, parts[1].acceptance)


def test_the_best_draft_has_the_entropy_as_loss_and_no_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    state, weight = torch.randn(4, WIDTH, generator=random), torch.randn(WORDS, WIDTH, generator=random)
    hidden = state.clone().requires_grad_()
    loss, scores = distribution_loss(hidden, state, OutputHead(weight))
    loss.backward()
    p = torch.softmax(state @ weight.T, -1)
    assert loss.item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-5)
    assert hidden.grad is not None and hidden.grad.abs().max() < 1e-6
    assert scores.top1 == 4 and scores.acceptance.item() == pytest.approx(4.0, rel=1e-5)


def test_scores_carry_no_graph_and_only_the_draft_gets_a_gradient() -> None:
    """Loops add scores up over a whole epoch; a graph in them would keep each batch alive."""
    hidden = torch.randn(3, WIDTH, requires_grad=True)
    target = torch.randn(3, WIDTH, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH, requires_grad=True)
    loss, scores = distribution_loss(hidden, target, OutputHead(weight.detach()))
    assert loss.requires_grad
    assert not any(score.requires_grad for score in (scores.top1, scores.top10, scores.acceptance))
    loss.backward()
    assert hidden.grad is not None and target.grad is None and weight.grad is None


def test_feature_loss_is_smooth_l1_meaned_over_the_width() -> None:
    hidden, target = torch.tensor([[0.0, 3.0], [0.5, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert feature_loss(hidden, target).item() == pytest.approx((3.0 - 0.5) / 2 + 0.5 * 0.25 / 2)


# --- Eagle.loss on batches made by hand ----------------------------------------------------------------------------


def make_draft(vocab: tuple[int, ...] = ()) -> DraftLM:
    return tiny_draft(tiny_base(), vocab=vocab).requires_grad_(True)


def test_sums_are_over_supervised_positions() -> None:
    draft, batch = make_draft(), make_batch(MASK)
    output = Eagle(EagleOptions(feature_loss_weight=0.5, token_loss_weight=2.0)).loss(draft, batch)
    weight, hidden = draft.ends.head.weight, draft(batch.tokens, batch.features)
    states = torch.stack([hidden[b, t] for b in range(2) for t in range(4) if MASK[b][t]])
    targets = torch.stack([batch.targets[b, t] for b in range(2) for t in range(4) if MASK[b][t]])
    expected = naive(states, targets, weight, None, None, 1.0, None)
    smooth = torch.nn.functional.smooth_l1_loss(states, targets, reduction="none").mean(-1).sum()
    assert output.num_supervised == 4
    assert output.sums["token_loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-4)
    assert output.sums["feature_loss"].item() == pytest.approx(smooth.item(), rel=1e-4)
    assert output.sums["acceptance"].item() == pytest.approx(expected["acceptance"].item(), rel=1e-4)
    assert output.total.item() == pytest.approx((2 * expected["loss"] + 0.5 * smooth).item(), rel=1e-4)
    assert not any(value.requires_grad for value in output.sums.values())


@pytest.mark.parametrize("vocab", [(), (2, 3, 5, 7, 11)])
def test_gradient_is_that_of_the_naive_loss(vocab: tuple[int, ...]) -> None:
    draft, batch = make_draft(vocab), make_batch(MASK)
    Eagle(EagleOptions(token_loss_weight=1.0, feature_loss_weight=0.0)).loss(draft, batch).total.backward()
    ours = [parameter.grad.clone() for parameter in draft.parameters() if parameter.grad is not None]
    draft.zero_grad()
    states = draft(batch.tokens, batch.features)[batch.mask]
    ids = list(vocab) or None
    naive(states, batch.targets[batch.mask], draft.ends.head.weight, None, ids, 1.0, None)["loss"].backward()
    exact = [parameter.grad for parameter in draft.parameters()]
    assert len(ours) == len(exact)
    for have, want in zip(ours, exact, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)
    assert draft.ends.head.weight.grad is None and draft.ends.embedding.weight.grad is None


def loss_of(batch: Batch, generator: torch.Generator | None, **options: Any) -> LossOutput:
    return Eagle(EagleOptions(feature_loss_weight=1.0, **options)).loss(make_draft(), batch, generator)


def test_noise_never_reaches_the_targets() -> None:
    """The base's states stay bit for bit what they were, and a draft that ignores its features loses nothing."""
    batch = make_batch(MASK)
    before = batch.targets.clone(), batch.features.clone()
    clean, noisy = loss_of(batch, None), loss_of(batch, torch.Generator().manual_seed(1), noise=5.0)
    assert torch.equal(batch.targets, before[0]) and torch.equal(batch.features, before[1])
    assert clean.total != noisy.total
    blind = make_draft()
    with torch.no_grad():
        blind.head.fc.weight[:, HIDDEN:].zero_()
    eagle = Eagle(EagleOptions(feature_loss_weight=1.0, noise=5.0))
    assert eagle.loss(blind, batch).total == eagle.loss(blind, batch, torch.Generator().manual_seed(1)).total


def test_evaluation_has_no_noise_and_training_noise_is_seeded() -> None:
    batch = make_batch(MASK)
    assert loss_of(batch, None, noise=5.0).total == loss_of(batch, None, noise=0.0).total
    first, same, other = (loss_of(batch, torch.Generator().manual_seed(seed), noise=0.5).total for seed in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize(("reference", "widest"), [(0, 0.1), (8, 0.2)])
def test_noise_has_the_amplitude_of_the_options(reference: int, widest: float) -> None:
    """Uniform in +-noise/2; with n reference tokens it is scaled by n / T of the row, T without its padding."""
    valid = [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    batch = make_batch([[1] * 8] * 2, valid=valid)
    eagle = Eagle(EagleOptions(noise=0.2, noise_reference_tokens=reference))
    noise = eagle._noise(batch.features, batch.valid, torch.Generator().manual_seed(0))
    assert 0.9 * widest < noise[0].abs().max() <= widest
    assert 0.9 * 0.1 < noise[1].abs().max() <= 0.1


def test_positions_that_are_not_supervised_do_not_count() -> None:
    """Nothing behind the last supervised position of a row, and no target of another position, changes the loss."""
    batch = make_batch([[0, 1, 1, 0, 0]])
    tokens, features, targets = batch.tokens.clone(), batch.features.clone(), batch.targets.clone()
    tokens[:, 3:], features[:, 3:] = 0, 9.0
    targets[:, 0], targets[:, 3:] = -9.0, 9.0
    other = Batch(tokens, features, targets, batch.mask, batch.valid, batch.positions)
    first, second = loss_of(batch, None), loss_of(other, None)
    assert first.total.item() == pytest.approx(second.total.item(), rel=1e-6)
    features[:, 1] += 1.0  # but this one is read
    assert loss_of(other, None).total.item() != pytest.approx(second.total.item(), rel=1e-6)


def test_batch_without_supervised_positions_gives_zero_loss_and_zero_gradients() -> None:
    draft = make_draft()
    output = Eagle(EagleOptions(feature_loss_weight=1.0)).loss(draft, make_batch([[0, 0], [0, 0]]))
    output.total.backward()
    assert output.total == 0 and output.num_supervised == 0
    assert all(p.grad is not None and not p.grad.any() for p in draft.parameters())  # every rank has all gradients


def test_rows_add_up() -> None:
    both, rows = make_batch(MASK), range(2)
    alone = [
        Batch(*(getattr(both, n)[r : r + 1] for n in ("tokens", "features", "targets", "mask", "valid", "positions")))
        for r in rows
    ]
    total = sum(loss_of(batch, None).total.item() for batch in alone)
    assert loss_of(both, None).total.item() == pytest.approx(total, rel=1e-5)
