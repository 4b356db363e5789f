"""What every algorithm is: a loss for a draft. They know models and batches, not the loop and not decoding.

A loss runs the draft over a batch as its head says (`DraftHead.unroll`), and judges the states that come back. What all
of them share is here: noise on the input features, and the balance of experts where a draft has any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hetspec_core.engine.modeling.base_lm import BaseOutput
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.experts import METRICS, watch
from hetspec_core.engine.modeling.heads.base import Unroll

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch, MaskKind

_BALANCE = "router_loss"


@dataclass(frozen=True)
class LossOutput:
    """Loss of one micro-batch, as sums: the loop divides by the supervised tokens of the whole step.

    Attributes:
        total: weighted sum over supervised positions, with gradient.
        num_supervised: supervised positions in this micro-batch.
        sums: detached sums over supervised positions, by the names of `Algorithm.names`.
    """

    total: Tensor
    num_supervised: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


class Algorithm(ABC):
    """Base class of algorithms; a card names one, and it is built from its checked options.

    Attributes:
        parts: names of the sums that `judge` gives.
    """

    parts: ClassVar[tuple[str, ...]] = ("token_loss", "top1", "top10", "acceptance")

    @property
    def mask(self) -> MaskKind:
        """Which token of a position must be the assistant's; see `engine.data.batches`."""
        return "predicted"

    @property
    def steps(self) -> int:
        """Steps of its own that a draft is shown in training, the first included."""
        return 1

    @property
    def noise(self) -> tuple[float, int]:
        """Amplitude of the uniform noise on input features, and n of its scaling by n / T (0 = not scaled)."""
        return 0.0, 0

    @abstractmethod
    def judge(self, draft: DraftLM, batch: Batch, states: tuple[Tensor, ...], *, training: bool) -> LossOutput:
        """The loss of the states that the draft's head unrolled."""

    def names(self, draft: DraftLM) -> tuple[str, ...]:
        """Names of all sums that `loss` gives for this draft when it is measured."""
        return (*self.parts, *((_BALANCE, *METRICS) if draft.backbone.experts else ()))

    def loss(self, draft: torch.nn.Module, batch: Batch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a micro-batch.

        Args:
            draft: a DraftLM, or a wrapper of one (DDP) whose `module` it is.
            batch: tokens x_{t+1}, features f_t, targets f_{t+1} [B, T, H] and the mask m_t [B, T].
            generator: randomness of training; None = evaluation, without noise.
        """
        module: DraftLM = draft.module if hasattr(draft, "module") else draft  # type: ignore[assignment]
        features = module.base_features(BaseOutput(batch.features, batch.layers))
        if generator is not None and self.noise[0] > 0:
            # A new tensor: features and targets are views of the same storage, and the target must stay clean.
            features = features + self._noise(features, batch.valid, generator)
        with watch(module.backbone.experts) as routing:
            states = draft(
                batch.tokens, features.to(next(module.parameters()).dtype), unroll=Unroll(self.steps, generator)
            )  # padding is on the right, so causal is enough
        output = self.judge(module, batch, states, training=generator is not None)
        balance = routing.loss(batch.valid)
        if balance is None:
            return output
        sums = {_BALANCE: balance.detach(), **routing.metrics(batch.valid)}
        return LossOutput(
            total=output.total + balance * output.num_supervised,  # per supervised token, as all else
            num_supervised=output.num_supervised,
            sums=output.sums | {name: value * output.num_supervised for name, value in sums.items()},
        )

    def _noise(self, features: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in +-amplitude/2, times n/T per row when the options say so (EAGLE's code: n = 512)."""
        amplitude, reference = self.noise
        noise = torch.rand(features.shape, generator=generator, device=features.device, dtype=torch.float32) - 0.5
        noise = noise * amplitude
        if reference:
            lengths = valid.sum(-1).clamp(min=1)[:, None, None]
            noise = noise * (reference / lengths)
        return noise.to(features.dtype)
