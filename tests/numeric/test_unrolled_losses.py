"""The losses of drafts that are unrolled, against naive ones with ordinary autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hetspec_core.engine.algorithms.eagle3 import Eagle3
from hetspec_core.engine.algorithms.latent import Latent
from hetspec_core.engine.data.batches import Batch
from hetspec_core.engine.modeling.draft_lm import DraftLM, Unroll
from hetspec_core.spec import Eagle3Options, LatentOptions
from tests.fakes.tiny_models import HIDDEN, VOCAB, tiny_base, tiny_draft

REDUCED = (0, 2, 3, 5, 7, 11, 13, 30)
MASK = [[0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 1, 0]]


def make_batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    mask = torch.tensor(MASK).bool()
    rows, width = mask.shape
    states = torch.randn(rows, width + 1, HIDDEN, generator=random)
    return Batch(
        tokens=torch.randint(0, VOCAB, (rows, width), generator=random),
        features=states[:, :-1],
        targets=states[:, 1:],
        mask=mask,
        valid=torch.ones_like(mask),
        positions=torch.arange(width).expand(rows, -1),
        layers={layer: torch.randn(rows, width, HIDDEN, generator=random) for layer in (0, 1)},
    )


def gradients(draft: DraftLM) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in draft.named_parameters() if p.grad is not None}
    draft.zero_grad()
    return found


@pytest.mark.parametrize("known_only", [True, False])
@pytest.mark.parametrize("vocab", [(), REDUCED])
def test_eagle3_is_the_decayed_sum_over_its_steps(vocab: tuple[int, ...], known_only: bool) -> None:
    """Step k at t is judged by the base's distribution at t + k; its own output head learns with it."""
    base, batch, steps = tiny_base(), make_batch(), 3
    draft = tiny_draft(base, algorithm="eagle3", vocab=vocab, hidden=24).requires_grad_(True)
    options = Eagle3Options(ttt_steps=steps, step_decay=0.5, known_targets_only=known_only)
    output = Eagle3(options).loss(draft, batch)
    output.total.backward()
    mine = gradients(draft)

    features = torch.cat([batch.layers[layer] for layer in draft.captured_layers], -1)
    states = draft(batch.tokens, features, unroll=Unroll(steps))
    words = torch.tensor(vocab or range(VOCAB))
    total, right, counted = torch.zeros(()), [0] * steps, [0] * steps
    for step in range(steps):
        log_q = torch.log_softmax(draft.logits(states[step]), -1)
        for row in range(2):
            for t in range(6 - step):
                if not MASK[row][t + step]:
                    continue
                logits = base.logits(batch.targets[row, t + step])
                likeliest = int(logits.argmax())
                counted[step] += 1
                right[step] += int(words[log_q[row, t].argmax()]) == likeliest
                if not known_only or likeliest in words:
                    p = torch.softmax(logits[words], -1)
                    total = total - 0.5**step * (p * log_q[row, t]).sum()
    total.backward()
    exact = gradients(draft)
    torch.testing.assert_close(output.total, total, rtol=1e-4, atol=1e-4)
    assert output.num_supervised == 6 and counted == [6, 5, 4]
    assert output.sums["top1"] == right[0]
    assert output.sums["top1_step3"].item() == pytest.approx(right[2] * 6 / 4)
    assert mine.keys() == exact.keys() == {name for name, _ in draft.named_parameters()}
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, exact[name], rtol=2e-3, atol=2e-4, msg=name)


def test_eagle3_starts_with_the_rows_of_the_bases_head() -> None:
    base = tiny_base()
    assert torch.equal(tiny_draft(base, algorithm="eagle3").head.lm_head.weight, base.ends.head.weight)
    reduced = tiny_draft(base, algorithm="eagle3", vocab=REDUCED)
    assert torch.equal(reduced.head.lm_head.weight, base.ends.head.weight[list(REDUCED)])


def test_latent_supervises_every_refinement_the_last_one_most() -> None:
    base, batch = tiny_base(), make_batch()
    draft = tiny_draft(base, algorithm="latent", refinements=3, hidden=24).requires_grad_(True)
    output = Latent(LatentOptions(deep_supervision=0.5, feature_loss_weight=2.0)).loss(draft, batch)
    states = draft(batch.tokens, batch.features, unroll=Unroll())
    assert len(states) == 3
    total = torch.zeros(())
    for weight, state in zip((0.25, 0.5, 1.0), states, strict=True):
        p = torch.softmax(base.logits(batch.targets[batch.mask]), -1)
        token = -(p * torch.log_softmax(draft.logits(state[batch.mask]), -1)).sum()
        feature = F.smooth_l1_loss(state[batch.mask], batch.targets[batch.mask], reduction="none").mean(-1).sum()
        total = total + weight * (token + 2.0 * feature)
    torch.testing.assert_close(output.total, total, rtol=1e-4, atol=1e-4)
    only_last = Latent(LatentOptions(deep_supervision=0.0)).step_weights(3)
    assert only_last == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("shift", [True, False])
def test_the_recurrence_is_the_one_of_its_docstring(shift: bool) -> None:
    base, batch = tiny_base(), make_batch()
    draft = tiny_draft(base, algorithm="latent", refinements=2, recurrences=3, repeats=2, shift_latent=shift, hidden=24)
    head, positions = draft.head, torch.arange(6)[None]
    embedding, state = base.embed(batch.tokens), batch.features
    for _ in range(2):
        first = latent = head.fc_init(torch.cat([embedding, state], -1))
        for recurrence in range(3):
            if recurrence and shift:
                latent = torch.cat([first[:, :1], latent[:, :-1]], 1)
            latent = head.fc(torch.cat([embedding, state, latent], -1))
            for _ in range(2):
                latent = draft.backbone(latent, positions=positions)
        state = head.up(latent)
    torch.testing.assert_close(draft(batch.tokens, batch.features), state)


@pytest.mark.parametrize(("initial", "noisy"), [("zeros", False), ("uniform", True), ("learned", False)])
def test_only_training_sees_a_random_latent(initial: str, noisy: bool) -> None:
    batch = make_batch()
    draft = tiny_draft(tiny_base(), algorithm="latent", latent_init=initial, noise=1.0, hidden=24)

    def last(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return draft(batch.tokens, batch.features, unroll=Unroll(generator=generator))[-1]

    plain = draft(batch.tokens, batch.features)
    assert torch.equal(last(None), plain)
    assert torch.equal(last(1), last(1)) and torch.equal(last(1), last(2)) != noisy


def test_the_gradient_reaches_back_as_far_as_it_may() -> None:
    batch = make_batch()
    found = []
    options: dict[str, Any] = {"refinements": 1, "recurrences": 3, "latent_init": "zeros", "shift_latent": False}
    for reach in (0, 1, 2, 3):
        draft = tiny_draft(tiny_base(), algorithm="latent", gradient_recurrences=reach, hidden=24, **options)
        draft.requires_grad_(True)(batch.tokens, batch.features).square().sum().backward()
        found.append(gradients(draft)["head.fc.weight"])
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[1], found[2]) and not torch.equal(found[2], found[3])


def test_a_learned_latent_needs_the_whole_gradient() -> None:
    with pytest.raises(ValueError, match="never learn"):
        LatentOptions(recurrences=3, gradient_recurrences=2)
    LatentOptions(recurrences=3, gradient_recurrences=3)
