"""Running metrics of the steps since the last report: summed on the device, read in one go.

Reading a number from a GPU waits for all work before it, so nothing here is read per step. It knows loss outputs; it
does not know the loop, nor who reads a report.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

from hetspec_core.engine.algorithms import LossOutput
from hetspec_core.engine.training.feed import StepBatches
from hetspec_core.engine.training.processes import Processes

_LOSS, _SUPERVISED, _GRAD_NORM, _TOKENS, _STEPS = "loss", "supervised", "grad_norm", "tokens", "steps"
_MEAN = "mean/"  # before the names of LossOutput.sums, which are divided by the supervised tokens
_LONGEST, _SHORTEST = "longest", "minus_shortest"


class MetricsWindow:
    """Sums over the steps since the last `read`.

    Args:
        device: where sums are kept.
        processes: who else trains.
    """

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self._device = device
        self._processes = processes
        self._sums: dict[str, Tensor] = {}
        self.clear()

    def add_output(self, output: LossOutput) -> None:
        """Count one micro-batch."""
        self._add(_LOSS, output.total.detach())
        self._add(_SUPERVISED, output.num_supervised)
        for name, value in output.sums.items():
            self._add(f"{_MEAN}{name}", value)

    def add_step(self, grad_norm: Tensor, step: StepBatches) -> None:
        """Count one optimiser step: the gradient's norm (the same on all ranks) and this rank's samples."""
        share = 1.0 / self._processes.world_size
        self._add(_GRAD_NORM, grad_norm * share)
        self._add(_STEPS, torch.full((), share, device=self._device))
        self._add(_TOKENS, torch.full((), float(step.num_tokens), device=self._device))
        if step.longest:
            self._longest = max(self._longest, step.longest)
            self._shortest = min(self._shortest, step.shortest)

    def _add(self, name: str, value: Tensor) -> None:
        value = value.to(self._device, torch.float64)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def read(self) -> dict[str, float]:
        """Means since the last read over all ranks, and begin anew. Waits for the device once.

        Returns:
            loss and the parts of it per supervised token, grad_norm per step, tokens_per_s, the tokens of the longest
            and of the shortest sample, and the raw counts `window_tokens` and `window_supervised`. Empty when no step
            was counted.
        """
        names = list(self._sums)
        *sums, longest, shortest = self._totals().tolist()
        totals = dict(zip(names, sums, strict=True))
        elapsed = time.perf_counter() - self._started_s
        self.clear()
        if not totals.get(_STEPS):
            return {}
        supervised = max(totals[_SUPERVISED], 1.0)
        parts = {name: value / supervised for name, value in totals.items() if name.startswith(_MEAN)}
        return {
            "loss": totals[_LOSS] / supervised,
            **{name.removeprefix(_MEAN): value for name, value in parts.items()},
            "grad_norm": totals[_GRAD_NORM] / totals[_STEPS],
            "tokens_per_s": totals[_TOKENS] / max(elapsed, 1e-9),
            "longest_tokens": longest,
            "shortest_tokens": -shortest,
            "window_tokens": totals[_TOKENS],
            "window_supervised": totals[_SUPERVISED],
        }

    def clear(self) -> None:
        """Forget everything counted and start the clock."""
        self._sums = {}
        self._longest, self._shortest = 0, sys.maxsize
        self.start_clock()

    def start_clock(self) -> None:
        """Count time from now on; what was counted before stays."""
        self._started_s = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Take time that was not training (an evaluation, a checkpoint) out of tokens_per_s."""
        self._started_s += seconds

    def _totals(self) -> Tensor:
        """[n + 2]: all sums over all ranks, the longest sample, and minus the shortest."""
        zero = torch.zeros(1, dtype=torch.float64, device=self._device)
        sums = torch.stack(list(self._sums.values())) if self._sums else zero[:0]
        extremes = torch.tensor([self._longest, -self._shortest], dtype=torch.float64).to(self._device)
        return torch.cat([self._processes.sum(sums), self._processes.max(extremes)])

    def tensors(self) -> dict[str, Tensor]:
        """What was counted over all ranks, for a checkpoint."""
        names = [*self._sums, _LONGEST, _SHORTEST]
        return {name: value.clone() for name, value in zip(names, self._totals().unbind(), strict=True)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what a checkpoint counted (the first rank takes the sums, so that they count once)."""
        self.clear()
        left = dict(tensors)
        self._longest, self._shortest = int(left.pop(_LONGEST)), -int(left.pop(_SHORTEST))
        share = 1.0 if self._processes.is_first else 0.0
        self._sums = {name: tensor.to(self._device, torch.float64) * share for name, tensor in left.items()}
