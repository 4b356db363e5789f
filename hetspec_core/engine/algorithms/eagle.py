"""EAGLE-1/2: the draft continues the base's final hidden states (arXiv 2401.15077; the tree of 2406.16858 is not here).

At t the draft reads [E(x_{t+1}); f_t] and gives g_t. Training pulls softmax(W g_t) to the base's softmax(W f_{t+1}),
and, with a weight of its own, g_t to f_{t+1}. It is a loss and nothing more: batches, the loop and decoding live
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hetspec_core.engine.algorithms.losses import distribution_loss, feature_loss
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import EagleOptions

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch


@dataclass(frozen=True)
class LossOutput:
    """Loss of one micro-batch, as sums: the loop divides by the supervised tokens of the whole step.

    Attributes:
        total: weighted sum over supervised positions, with gradient.
        num_supervised: supervised positions in this micro-batch.
        sums: detached sums over supervised positions: token_loss, feature_loss, top1, top10, acceptance.
    """

    total: Tensor
    num_supervised: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


class Eagle:
    """The EAGLE-1/2 loss.

    Args:
        options: loss weights, noise, and which token must be the assistant's.
    """

    layers: tuple[int, ...] = ()  # hidden states needed besides the final ones

    def __init__(self, options: EagleOptions) -> None:
        self.options = options

    @property
    def mask(self) -> str:
        return self.options.mask

    def loss(self, draft: torch.nn.Module, batch: Batch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a micro-batch.

        Args:
            draft: a DraftLM, or a wrapper of one (DDP) whose `module` it is.
            batch: tokens x_{t+1}, features f_t, targets f_{t+1} [B, T, H] and the mask m_t [B, T].
            generator: randomness of the noise; None = evaluation, no noise.
        """
        module: DraftLM = draft.module if hasattr(draft, "module") else draft  # type: ignore[assignment]
        features = batch.features
        if generator is not None and self.options.noise > 0:
            # A new tensor: features and targets are views of the same storage, and the target must stay clean.
            features = features + self._noise(features, batch.valid, generator)
        weight_type = next(module.parameters()).dtype
        hidden = draft(
            batch.tokens, features.to(weight_type)
        )  # [B, T, H]; padding is on the right, so causal is enough
        hidden, targets = hidden[batch.mask], batch.targets[batch.mask]  # [M, H]: only these reach the head
        ends, rows = module.ends, module.draft_head
        token_loss, scores = distribution_loss(
            hidden,
            targets,
            *rows,
            target_weight=ends.head.weight if module.vocab else None,
            target_bias=ends.head.bias if module.vocab else None,
            vocab_ids=module.vocab.ids.to(hidden.device) if module.vocab else None,
            scale=ends.scale,
            softcap=ends.softcap,
        )
        total = self.options.token_loss_weight * token_loss
        sums = {"token_loss": token_loss.detach()}
        if self.options.feature_loss_weight > 0 or generator is None:
            features_apart = feature_loss(hidden, targets)
            sums["feature_loss"] = features_apart.detach()
            if self.options.feature_loss_weight > 0:
                total = total + self.options.feature_loss_weight * features_apart
        sums |= {"top1": scores.top1, "top10": scores.top10, "acceptance": scores.acceptance}
        return LossOutput(total=total, num_supervised=batch.mask.sum(), sums=sums)

    def _noise(self, features: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in +-noise/2, times n/T per row when the options say so (EAGLE's code: n = 512)."""
        noise = torch.rand(features.shape, generator=generator, device=features.device, dtype=torch.float32) - 0.5
        noise = noise * self.options.noise
        if self.options.noise_reference_tokens:
            lengths = valid.sum(-1).clamp(min=1)[:, None, None]
            noise = noise * (self.options.noise_reference_tokens / lengths)
        return noise.to(features.dtype)
