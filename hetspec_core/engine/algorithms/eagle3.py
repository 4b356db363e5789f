"""EAGLE-3: input from three of the base's layers, an output head of the draft's own, and a training-time test.

In the training-time test (arXiv 2503.01840, section 3.2), step k at t has read the true tokens up to x_{t+1+k} and the
draft's own states of the steps before, and guesses x_{t+2+k}. Its distribution is fitted to the base's
softmax(W f_{t+1+k}), restricted to the draft's vocabulary; its state has no target. The loss is sum_k decay^k loss_k,
each a mean over the supervised positions of the whole step.

Names of tensors are those of the published checkpoints: `fc`, `fc_norm.i`, `norm`, `lm_head`; the pair layer in the
backbone is their `midlayer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetspec_core.engine.algorithms.losses import Algorithm, LossOutput, distribution_loss
from hetspec_core.engine.modeling.attention import UnrolledKeys
from hetspec_core.engine.modeling.base_lm import BaseOutput, FrozenEnds
from hetspec_core.engine.modeling.draft_lm import DraftHead, DraftLM, HeadSizes, Unroll
from hetspec_core.spec import Eagle3Options

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch
    from hetspec_core.engine.modeling.backbones import HFBackbone


class StateNorm(nn.RMSNorm):
    """RMS norm computed in float32 for states of any type."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        normed = nn.functional.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)
        return normed.to(x.dtype)


class Eagle3Head(DraftHead):
    """FC over captured layers, norm and output head.

    Args:
        hidden_size: Hd, width of the states.
        base_size: H.
        vocab_size: Vd, rows of the output head.
        layers: Hugging Face ids of the captured layers, low to high.
        norm_eps: epsilon of the norms.
        fc_norm: EAGLE-3.1: each captured state is normalised before FC.
        norm_output: EAGLE-3.1: the next step reads the normalised state instead of the raw one.
        norm_before_residual: the residual stream of the pair layer starts from the normalised state.
    """

    reads_pairs: ClassVar[bool] = True
    owns_output_norm: ClassVar[bool] = True

    def __init__(
        self,
        hidden_size: int,
        base_size: int,
        *,
        vocab_size: int,
        layers: tuple[int, ...],
        norm_eps: float = 1e-6,
        fc_norm: bool = False,
        norm_output: bool = False,
        norm_before_residual: bool = False,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size,
            base_size=base_size,
            vocab_size=vocab_size,
            layers=tuple(layers),
            norm_eps=norm_eps,
            fc_norm=fc_norm,
            norm_output=norm_output,
            norm_before_residual=norm_before_residual,
        )
        self.fc = nn.Linear(len(layers) * base_size, hidden_size, bias=False)
        self.fc_norm = nn.ModuleList([StateNorm(base_size, eps=norm_eps) for _ in layers] if fc_norm else [])
        self.embed_proj = nn.Linear(base_size, hidden_size, bias=False) if hidden_size != base_size else nn.Identity()
        self.norm = StateNorm(hidden_size, eps=norm_eps)
        self.lm_head = nn.Linear(hidden_size, vocab_size, bias=False)
        self._layers = tuple(layers)
        self._norm_output = norm_output

    @classmethod
    def build(cls, options: Eagle3Options, sizes: HeadSizes) -> Eagle3Head:
        return cls(
            sizes.hidden_size,
            sizes.base_hidden_size,
            vocab_size=sizes.vocab_size,
            layers=options.captured_layers(sizes.base_layers),
            norm_eps=sizes.norm_eps,
            fc_norm=options.fc_norm,
            norm_output=options.norm_output,
            norm_before_residual=options.norm_before_residual,
        )

    @property
    def captured_layers(self) -> tuple[int, ...]:
        return self._layers

    @property
    def own_output_head(self) -> nn.Linear:
        return self.lm_head

    def base_features(self, output: BaseOutput) -> Tensor:
        """The captured layers side by side: [B, T, K H]."""
        return torch.cat([output.layers[layer] for layer in self._layers], dim=-1)

    def first_state(self, features: Tensor) -> Tensor:
        """g_t = FC([h_low; h_mid; h_high]): [B, T, K H] -> [B, T, Hd]."""
        features = features.to(self.fc.weight.dtype)
        if self.fc_norm:
            parts = features.chunk(len(self._layers), dim=-1)
            features = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        return self.fc(features)

    def step(self, backbone: HFBackbone, embedding: Tensor, state: Tensor, **where: Any) -> Tensor:
        """[B, T, H] embeddings of x_{t+1} and [B, T, Hd] states -> [B, T, Hd]; `where` as in `DraftHead.step`."""
        state = backbone(torch.cat([self.embed_proj(embedding), state], dim=-1), **where)
        return self.norm(state) if self._norm_output else state

    def unroll(
        self, backbone: HFBackbone, embedding: Tensor, features: Tensor, positions: Tensor, how: Unroll
    ) -> tuple[Tensor, ...]:
        """Training-time test: step k at t reads x_{t+1+k} and its own state of step k - 1 at t.

        It attends to the true pairs 0..t and to its own steps at t, as in decoding.

        Returns:
            `how.steps` tensors [B, T, Hd]; number k at t predicts x_{t+2+k}.
        """
        state, keys = self.first_state(features), UnrolledKeys()
        states = []
        for number in range(how.steps):
            state = self.step(backbone, embedding, state, positions=positions + number, unrolled=keys)
            states.append(state)
            embedding = nn.functional.pad(embedding[:, 1:], (0, 0, 0, 1))
        return tuple(states)

    def readout(self, state: Tensor) -> Tensor:
        """[..., Hd] -> [..., Hd] after the norm, which `norm_output` has applied already."""
        return state if self._norm_output else self.norm(state)

    def start_output_head(self, ends: FrozenEnds, ids: Tensor | None) -> None:
        """Copy the base's rows, or those of `ids` [Vd], when they are as wide; they are trained."""
        rows = ends.head.weight if ids is None else ends.head.weight[ids.to(ends.head.weight.device)]
        if rows.shape == self.lm_head.weight.shape:
            with torch.no_grad():
                self.lm_head.weight.copy_(rows)


class Eagle3(Algorithm):
    """The EAGLE-3 loss.

    Args:
        options: steps of the training-time test, their decay, and the treatment of rows outside the draft's vocabulary.
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
        """The loss of K states [B, T, Hd], the k-th of which guesses x_{t+2+k} at t."""
        mask, length = batch.mask, batch.mask.shape[1]
        # Guesses at the same token are at the same position: step k at t moves to t + k.
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
