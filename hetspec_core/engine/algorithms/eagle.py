"""EAGLE-1/2: the draft continues the base's final hidden states (arXiv 2401.15077; the tree of 2406.16858 is not here).

At t the draft reads [E(x_{t+1}); f_t] and gives g_t. Training pulls softmax(W g_t) to the base's softmax(W f_{t+1}),
and, with a weight of its own, g_t to f_{t+1}. The latent recurrence imitates the same states, so this loss is its loss
too, put on the state after every refinement. It is a loss and nothing more: batches, the loop and decoding live
elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hetspec_core.engine.algorithms.base import Algorithm, LossOutput
from hetspec_core.engine.algorithms.losses import distribution_loss, feature_loss
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import EagleOptions, LatentOptions

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch, MaskKind


class Eagle(Algorithm):
    """The EAGLE-1/2 loss.

    Args:
        options: loss weights, noise, and which token must be the assistant's.
    """

    parts: ClassVar[tuple[str, ...]] = ("token_loss", "feature_loss", "top1", "top10", "acceptance")

    def __init__(self, options: EagleOptions | LatentOptions) -> None:
        self.options = options

    @property
    def mask(self) -> MaskKind:
        return self.options.mask

    @property
    def noise(self) -> tuple[float, int]:
        return self.options.noise, self.options.noise_reference_tokens

    def step_weights(self, count: int) -> tuple[float, ...]:
        """Weight of each of `count` guesses at the same state."""
        return (1.0,) * count

    def judge(self, draft: DraftLM, batch: Batch, states: tuple[Tensor, ...], *, training: bool) -> LossOutput:
        guesses = torch.stack([state[batch.mask] for state in states])  # [K, M, H]: only these reach the head
        targets, weights = batch.targets[batch.mask], self.step_weights(len(states))
        token_loss, scores = distribution_loss(
            draft.readout(guesses),
            targets,
            draft.output_head,
            base_head=draft.base_head if draft.vocab else None,
            vocab_ids=draft.vocab.ids.to(guesses.device) if draft.vocab else None,
            step_weights=weights,
        )
        total = self.options.token_loss_weight * token_loss
        sums = {"token_loss": scores.token_loss[-1]}
        if self.options.feature_loss_weight > 0 or not training:
            apart = [feature_loss(guess, targets) for guess in guesses]
            sums["feature_loss"] = apart[-1].detach()
            if self.options.feature_loss_weight > 0:
                weighted = sum(weight * loss for weight, loss in zip(weights, apart, strict=True))
                total = total + self.options.feature_loss_weight * weighted
        sums |= {"top1": scores.top1[-1], "top10": scores.top10[-1], "acceptance": scores.acceptance[-1]}
        return LossOutput(total=total, num_supervised=batch.mask.sum(), sums=sums)
