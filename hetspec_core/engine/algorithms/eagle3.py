"""EAGLE-3: a draft that is shown its own states in training (arXiv 2503.01840, section 3.2, "training-time test").

Step k at t has read the true tokens up to x_{t+1+k} and its own states of the steps before, and guesses x_{t+2+k}: its
distribution is pulled to the base's softmax(W f_{t+1+k}), restricted to the draft's vocabulary. Nothing pulls its state
to a state of the base. The loss is sum_k decay^k loss_k, each a mean over the supervised positions of the whole step.
It is a loss and nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hetspec_core.engine.algorithms.base import Algorithm, LossOutput
from hetspec_core.engine.algorithms.losses import distribution_loss
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import Eagle3Options

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch


class Eagle3(Algorithm):
    """The EAGLE-3 loss.

    Args:
        options: steps of the training-time test, their decay, and what rows outside the draft's vocabulary count.
    """

    def __init__(self, options: Eagle3Options) -> None:
        self.options = options

    @property
    def steps(self) -> int:
        return self.options.ttt_steps

    @property
    def noise(self) -> tuple[float, int]:
        return self.options.noise, 0

    def names(self, draft: DraftLM) -> tuple[str, ...]:
        return (*super().names(draft), *(f"top1_step{step}" for step in range(2, self.steps + 1)))

    def judge(self, draft: DraftLM, batch: Batch, states: tuple[Tensor, ...], *, training: bool) -> LossOutput:
        mask, length = batch.mask, batch.mask.shape[1]
        # Everything that guesses the same token stands in one place: step k at t moves to t + k.
        guesses = torch.stack([F.pad(s, (0, 0, step, 0))[:, :length][mask] for step, s in enumerate(states)])
        place = batch.positions[mask]  # [M]
        reached = torch.stack([place >= step for step in range(len(states))])  # [K, M]: the sequence begins at 0
        loss, scores = distribution_loss(
            draft.readout(guesses),
            batch.targets[mask],
            draft.output_head,
            base_head=draft.base_head,
            vocab_ids=draft.vocab.ids.to(guesses.device) if draft.vocab else None,
            counted=reached,
            step_weights=tuple(self.options.step_decay**step for step in range(len(states))),
            known_only=self.options.known_targets_only,
        )
        supervised = mask.sum()
        share = supervised / scores.counted.clamp(min=1)  # the first places have no later steps
        sums = {
            "token_loss": scores.token_loss[0],
            "top1": scores.top1[0],
            "top10": scores.top10[0],
            "acceptance": scores.acceptance[0],
            **{f"top1_step{step + 1}": scores.top1[step] * share[step] for step in range(1, len(states))},
        }
        return LossOutput(total=loss, num_supervised=supervised, sums=sums)
