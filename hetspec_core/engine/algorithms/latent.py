"""The latent recurrence: a narrow draft that runs over its own state several times for one token.

    for i in 1..H:                       refine the state s (s starts as the base's feature)
        z = zeros | noise | FC_init([E; s])
        for j in 1..L:                   recur on the latent z
            if j > 1 and shift: z_t <- z_{t-1}
            y = FC([E; s; z])
            for k in 1..R: y = backbone(y)
            z = y
        s = up(z)

Every one of the H L R passes attends to the keys of the same pass at other positions, so in decoding each pass has
layers of its own in the cache. A shifted latent is read from the cache too: from the last slot that a token sees before
its own, which is its parent in the tree, or the token before it. The loss is that of EAGLE-1/2 on the state after every
refinement; the last one has the largest weight.
(After the algorithm "Experimental" of specforge_het; recurrent depth: arXiv 2502.05171, latents: arXiv 2510.04871.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.algorithms.eagle import Eagle
from hetspec_core.engine.modeling.draft_lm import DraftHead, HeadSizes, Unroll
from hetspec_core.spec import LatentOptions

if TYPE_CHECKING:
    from hetspec_core.engine.modeling.backbones import HFBackbone


class LatentHead(DraftHead):
    """Projections around a backbone that runs several times.

    Args:
        hidden_size: Hd, width of backbone and latent.
        base_size: H, width of embeddings and states.
        refinements: H of the scheme above.
        recurrences: L.
        repeats: R.
        initial: first latent: zeros, uniform (noise in training, otherwise zeros) or learned.
        amplitude: width of the uniform noise.
        shift: whether a latent moves by one token between recurrences.
        gradient_recurrences: recurrences of a refinement that have a gradient; 0 = all.
    """

    def __init__(
        self,
        hidden_size: int,
        base_size: int,
        *,
        refinements: int,
        recurrences: int,
        repeats: int,
        initial: str,
        amplitude: float,
        shift: bool,
        gradient_recurrences: int,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size,
            base_size=base_size,
            refinements=refinements,
            recurrences=recurrences,
            repeats=repeats,
            initial=initial,
            amplitude=amplitude,
            shift=shift,
            gradient_recurrences=gradient_recurrences,
        )
        self.fc = nn.Linear(2 * base_size + hidden_size, hidden_size)
        self.up = nn.Linear(hidden_size, base_size, bias=False)
        self.fc_init = nn.Linear(2 * base_size, hidden_size) if initial == "learned" else None
        self._refinements, self._recurrences, self._repeats = refinements, recurrences, repeats
        self._amplitude = amplitude if initial == "uniform" else 0.0
        self._shift = shift
        self._gradient_recurrences = gradient_recurrences or recurrences

    @classmethod
    def build(cls, options: LatentOptions, sizes: HeadSizes) -> LatentHead:
        return cls(
            sizes.hidden_size,
            sizes.base_hidden_size,
            refinements=options.refinements,
            recurrences=options.recurrences,
            repeats=options.repeats,
            initial=options.latent_init,
            amplitude=options.noise,
            shift=options.shift_latent,
            gradient_recurrences=options.gradient_recurrences,
        )

    @property
    def passes(self) -> int:
        return self._refinements * self._recurrences * self._repeats

    def step(
        self,
        backbone: HFBackbone,
        embedding: Tensor,
        state: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: Any | None = None,
    ) -> Tensor:
        """The state after the last refinement.

        Args:
            backbone: run H L R times.
            embedding: [B, T, H] of x_{t+1}.
            state: [B, T, H].
            positions: [B or 1, T].
            mask: [B or 1, 1, T, S] bool, or None = causal.
            cache: keys, values and shifted latents of every pass, or None.

        Returns:
            [B, T, H].
        """
        return self._states(backbone, embedding, state, positions=positions, mask=mask, cache=cache)[-1]

    def unroll(
        self, backbone: HFBackbone, embedding: Tensor, features: Tensor, positions: Tensor, how: Unroll
    ) -> tuple[Tensor, ...]:
        """The state after every refinement, each a guess at f_{t+1}: H tensors [B, T, H]."""
        return self._states(backbone, embedding, features, positions=positions, generator=how.generator)

    def _states(
        self,
        backbone: HFBackbone,
        embedding: Tensor,
        state: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: Any | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        depth = len(backbone.layers)
        offset = 0  # of the next pass's layers in the cache
        kept = self._refinements * self._recurrences * self._repeats * depth  # behind them: the latents
        for _ in range(self._refinements):
            start = latent = self._first_latent(embedding, state, generator)
            for recurrence in range(self._recurrences):
                if recurrence and self._shift:
                    latent = _of_the_parent(latent, start, mask, cache, kept)
                    kept += 1
                if recurrence and self._recurrences - recurrence >= self._gradient_recurrences:
                    latent = latent.detach()
                latent = self.fc(torch.cat([embedding, state, latent], dim=-1))
                for _ in range(self._repeats):
                    latent = backbone(latent, positions=positions, mask=mask, cache=cache, layer_offset=offset)
                    offset += depth
            state = self.up(latent)
            found.append(state)
        return tuple(found)

    def _first_latent(self, embedding: Tensor, state: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.fc_init is not None:
            return self.fc_init(torch.cat([embedding, state], dim=-1))
        latent = embedding.new_zeros(*embedding.shape[:-1], self.fc.out_features)
        if generator is not None and self._amplitude > 0:
            noise = torch.rand(latent.shape, generator=generator, device=latent.device, dtype=torch.float32) - 0.5
            latent = latent + (noise * self._amplitude).to(latent.dtype)
        return latent


def _of_the_parent(latent: Tensor, start: Tensor, mask: Tensor | None, cache: Any | None, layer: int) -> Tensor:
    """The latents of the tokens before: [B, T, Hd]; a token without one keeps its first latent.

    Args:
        latent: [B, T, Hd] of these tokens.
        start: [B, T, Hd] their first latents.
        mask: [B or 1, 1, T, S] slots that each token sees, its own last; None = these tokens are a whole sequence.
        cache: keeps the latents, or None.
        layer: their layer in the cache.
    """
    stored = latent
    if cache is not None:
        # As keys of one head; there are no values to go with them.
        stored = cache.update(latent[:, None], latent[:, None, :, :0], layer)[0][:, 0]  # [B, S, Hd]
    if mask is None:
        return torch.cat([start[:, :1], latent[:, :-1]], dim=1)
    order = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    seen = torch.where(mask[:, 0], order, 0)  # [B or 1, T, S] slot + 1 where it is seen
    if seen.shape[-1] == 1:
        return start
    parent = seen.topk(2, dim=-1).values[..., 1].expand(latent.shape[:2]) - 1  # -1: there is none
    before = stored.gather(1, parent.clamp(min=0)[..., None].expand(-1, -1, stored.shape[-1]))
    return torch.where(parent[..., None] >= 0, before, start)


class Latent(Eagle):
    """Deep supervision: the state after refinement i of H weighs `deep_supervision` ** (H - i)."""

    options: LatentOptions

    def step_weights(self, count: int) -> tuple[float, ...]:
        return tuple(self.options.deep_supervision**before for before in reversed(range(count)))
