"""Choosing tokens from the base's distribution: greedy, or seeded sampling with temperature, top-k and top-p.

Randomness belongs to a place in the answer, not to a call: the token at position t of row r is chosen with the uniform
number u[r, t]. So the answer for a seed does not depend on the draft, the tree, or how many tokens a step commits.
It knows logits and positions only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetspec_core.spec import SamplingSpec

_SMALLEST = 1e-30  # far from float32's subnormal numbers, which may be flushed to 0


def process_logits(logits: Tensor, sampling: SamplingSpec) -> Tensor:
    """Probabilities [..., V] float32 after temperature, top-k and top-p (in this order). Not for greedy settings."""
    logits = logits.float()
    # Relative to the likeliest one first: divided by a small temperature alone, several logits would be infinite.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(sampling.temperature, _SMALLEST)
    if 0 < sampling.top_k < logits.shape[-1]:
        floor = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        above = ordered.cumsum(-1) - ordered  # mass of the likelier ones
        ordered = ordered.masked_fill(above >= sampling.top_p, 0.0)  # the first token always stays
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling: [..., V] probabilities and [...] uniforms in [0, 1) -> [...] token ids."""
    cumulative = probabilities.double().cumsum(-1)
    target = uniform.double()[..., None] * cumulative[..., -1:]
    index = torch.searchsorted(cumulative, target, right=True)[..., 0]
    # Rounding may point behind the last token that has mass.
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).to(torch.int8).argmax(-1)
    return torch.minimum(index, last)


class Sampler:
    """Chooses tokens for a batch of rows.

    Args:
        sampling: temperature, top-k, top-p and seed; a temperature below 1e-6 is greedy.
        row_seeds: one number per row, so that a row's randomness does not depend on its neighbours.
        max_positions: positions of an answer that can be asked for.
        device: of the logits.
    """

    def __init__(
        self, sampling: SamplingSpec, row_seeds: list[int], max_positions: int, device: torch.device | str
    ) -> None:
        self.sampling = sampling
        self._max_positions = max_positions
        self._device = device
        self._uniforms: Tensor | None = None
        if not sampling.greedy:
            self._uniforms = torch.stack([self._draw(seed) for seed in row_seeds]).to(device)

    def _draw(self, row_seed: int) -> Tensor:
        generator = torch.Generator().manual_seed((self.sampling.seed * 1_000_003 + row_seed) % (1 << 63))
        return torch.rand(self._max_positions, generator=generator, dtype=torch.float64)

    def reseed(self, seed: int, row_seeds: list[int]) -> None:
        """Answer other prompts with another seed; the numbers are changed in place."""
        self.sampling = self.sampling.model_copy(update={"seed": seed})
        for row, row_seed in enumerate(row_seeds):
            self.replace_row(row, row_seed)

    def replace_row(self, row: int, row_seed: int) -> None:
        """Row `row` now answers another prompt."""
        if self._uniforms is not None:
            self._uniforms[row] = self._draw(row_seed).to(self._device)

    def move_row(self, source: int, target: int) -> None:
        """Row `target` goes on as row `source`; rows from `source` on are given up."""
        if self._uniforms is not None:
            self._uniforms[target] = self._uniforms[source]
            self._uniforms = self._uniforms[:source]

    def choose(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, T] for logits [B, T, V]; positions [B, T] say which token of the answer each one is."""
        if self._uniforms is None:
            return logits.argmax(-1)
        uniform = self._uniforms.gather(1, positions.clamp(max=self._max_positions - 1))
        return pick(process_logits(logits, self.sampling), uniform)
