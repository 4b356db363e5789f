"""EAGLE-1/2: the draft continues the base's final hidden states (arXiv 2401.15077).

At t the draft reads [E(x_{t+1}); f_t] through one fusion layer (figure 6) and returns g_t. Training fits softmax(W g_t)
to the base's softmax(W f_{t+1}) and, with a weight of its own, g_t to f_{t+1}. A backbone of another width than the
base's is placed between two projections: states stay in the base's space, for the base's output head.

The latent recurrence has the same targets and this loss, on the state after every refinement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from hetspec_core.engine.algorithms.losses import Algorithm, LossOutput, distribution_loss, feature_loss
from hetspec_core.engine.modeling.draft_lm import DraftHead, DraftLM, HeadSizes
from hetspec_core.spec import EagleOptions, LatentOptions

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch, MaskKind
    from hetspec_core.engine.modeling.backbones import HFBackbone


class FusionHead(DraftHead):
    """FC([embedding; state]) before the backbone, and a projection to the base's width after it.

    Args:
        hidden_size: Hd.
        base_size: H, width of the states.
        bias: whether FC has a bias.
    """

    def __init__(self, hidden_size: int, base_size: int, *, bias: bool = True) -> None:
        super().__init__(hidden_size=hidden_size, base_size=base_size, bias=bias)
        self.fc = nn.Linear(2 * base_size, hidden_size, bias=bias)
        self.up = nn.Linear(hidden_size, base_size, bias=False) if hidden_size != base_size else nn.Identity()

    @classmethod
    def build(cls, options: EagleOptions, sizes: HeadSizes) -> FusionHead:
        return cls(sizes.hidden_size, sizes.base_hidden_size, bias=options.fusion_bias)

    def forward(self, embedding: Tensor, state: Tensor) -> Tensor:
        """[B, T, H] embeddings of x_{t+1} and [B, T, H] states of x_t -> [B, T, Hd]."""
        return self.fc(torch.cat([embedding, state], dim=-1))

    def step(self, backbone: HFBackbone, embedding: Tensor, state: Tensor, **where: Any) -> Tensor:
        """[B, T, H] embeddings of x_{t+1} and [B, T, H] states -> [B, T, H]; `where` as in `DraftHead.step`."""
        return self.up(backbone(self(embedding, state), **where))

    def pass_feature_through(self) -> None:
        """Start as the identity on the feature; needs a backbone as wide as the base."""
        if self.fc.in_features != 2 * self.fc.out_features:
            super().pass_feature_through()
        with torch.no_grad():
            self.fc.weight.zero_()
            width = self.fc.out_features
            self.fc.weight[:, width:].copy_(torch.eye(width))
            if self.fc.bias is not None:
                self.fc.bias.zero_()


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
        """The loss of K states [B, T, H] that all guess f_{t+1}; metrics are those of the last one."""
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
