"""State of a training run at a step: counters, optimizer, random generators, and the running metrics.

With it and the draft's weights, a resumed run continues exactly as if it had not been stopped.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.algorithms import LossOutput
from hetspec_core.engine.training.feed import Position, StepBatches
from hetspec_core.engine.training.processes import Processes, full, shard_like
from hetspec_core.errors import CheckpointError

_OPTIMIZER_KEYS = ("exp_avg", "exp_avg_sq", "step")
_LOSS, _SUPERVISED, _GRAD_NORM, _TOKENS, _STEPS = "loss", "supervised", "grad_norm", "tokens", "steps"
_MEAN = "mean/"  # before the names of LossOutput.sums, which are divided by the supervised tokens
_LONGEST, _SHORTEST = "longest", "minus_shortest"


@dataclass
class TrainingState:
    """Counters of a run.

    Attributes:
        step: optimiser steps taken.
        total_steps: the horizon; None until `max_minutes` is planned.
        epoch, index: position in the data after the last step.
        tokens, supervised_tokens: trained on, up to the last report, over all ranks.
        wall_s: seconds of training over all attempts.
        best_step: step of the best evaluation, None before the first.
        best_score: its simulated accept length.
        best_loss: its loss, which decides between equal scores.
        best_rates: its simulated rates of acceptance by depth; empty in records of older versions.
    """

    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    index: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    wall_s: float = 0.0
    best_step: int | None = None
    best_score: float = 0.0
    best_loss: float = 0.0
    best_rates: list[float] = field(default_factory=list)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.index)

    @property
    def finished(self) -> bool:
        return self.total_steps is not None and self.step >= self.total_steps

    def is_better(self, score: float, loss: float) -> bool:
        """Whether an evaluation is better than the best one so far; one with a figure that is not finite never is."""
        if not (math.isfinite(score) and math.isfinite(loss)):
            return False
        if self.best_step is None or not (math.isfinite(self.best_score) and math.isfinite(self.best_loss)):
            return True
        return (score, -loss) > (self.best_score, -self.best_loss)

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingState:
        """Read the counters back.

        Raises:
            CheckpointError: one is missing.
        """
        names = [each.name for each in fields(cls)]
        missing = [name for name in names if name not in record and name != "best_rates"]
        if missing:
            raise CheckpointError(f"the checkpoint's record lacks {', '.join(missing)}")
        return cls(**{name: record[name] for name in names if name in record})


class MetricsWindow:
    """Sums over the steps since the last `read`, kept on a device."""

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self._device = device
        self._processes = processes
        self._sums: dict[str, Tensor] = {}
        self.clear()

    def add_output(self, output: LossOutput) -> None:
        """Count one micro-batch, whose sums are [] tensors."""
        self._add(_LOSS, output.total.detach())
        self._add(_SUPERVISED, output.num_supervised)
        for name, value in output.sums.items():
            self._add(f"{_MEAN}{name}", value)

    def add_step(self, grad_norm: Tensor, step: StepBatches) -> None:
        """Count one optimiser step: the [] norm of the gradient (the same on all ranks) and this rank's samples."""
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
        """Return the means over all ranks since the last read, and clear the sums. Waits for the device once.

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
        """Reset all sums and start the clock."""
        self._sums = {}
        self._longest, self._shortest = 0, sys.maxsize
        self.start_clock()

    def start_clock(self) -> None:
        """Measure time from now on; the sums are kept."""
        self._started_s = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Subtract time that was not training (an evaluation, a checkpoint) from the time of tokens_per_s."""
        self._started_s += seconds

    def _totals(self) -> Tensor:
        """[n + 2]: all sums over all ranks, the longest sample, and minus the shortest."""
        zero = torch.zeros(1, dtype=torch.float64, device=self._device)
        sums = torch.stack(list(self._sums.values())) if self._sums else zero[:0]
        extremes = torch.tensor([self._longest, -self._shortest], dtype=torch.float64).to(self._device)
        return torch.cat([self._processes.sum(sums), self._processes.max(extremes)])

    def tensors(self) -> dict[str, Tensor]:
        """The sums over all ranks, as [] tensors for a checkpoint."""
        names = [*self._sums, _LONGEST, _SHORTEST]
        return {name: value.clone() for name, value in zip(names, self._totals().unbind(), strict=True)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue from the [] tensors of a checkpoint; rank 0 takes the sums, so that they count once."""
        self.clear()
        left = dict(tensors)
        self._longest, self._shortest = int(left.pop(_LONGEST)), -int(left.pop(_SHORTEST))
        share = 1.0 if self._processes.is_first else 0.0
        self._sums = {name: tensor.to(self._device, torch.float64) * share for name, tensor in left.items()}


@dataclass(frozen=True)
class ResumableState:
    """State of a process without weights and counters: optimizer, random generators, metrics window.

    Attributes:
        optimizer: with its moments.
        names: name of every trained parameter.
        noise: the loop's own generator.
        window: running metrics.
        device: where the draft is.
    """

    optimizer: torch.optim.Optimizer
    names: dict[nn.Parameter, str]
    noise: torch.Generator
    window: MetricsWindow
    device: torch.device

    def collect(self, processes: Processes) -> dict[str, Tensor]:
        """Everything as named tensors; all ranks must call it, and the main rank stores its result."""
        tensors = {f"optimizer/{name}": t for name, t in optimizer_tensors(self.optimizer, self.names).items()}
        for name, mine in capture_rng(self.device, self.noise).items():
            for rank, state in enumerate(processes.gather(mine)):
                tensors[f"rng/{rank}/{name}"] = state
        return tensors | {f"window/{name}": tensor for name, tensor in self.window.tensors().items()}

    def restore(self, tensors: dict[str, Tensor], processes: Processes) -> None:
        """Restore everything from tensors of `collect`.

        Raises:
            CheckpointError: the tensors belong to another draft, or to another number of processes.
        """
        states = _below(tensors, f"rng/{processes.rank}/")
        if not states or f"rng/{processes.world_size}/torch" in tensors:
            raise CheckpointError(
                f"the checkpoint was written by another number of processes than the {processes.world_size} now",
                hint="resume with as many devices as before, or start a new run from it with --from",
            )
        load_optimizer_tensors(self.optimizer, self.names, _below(tensors, "optimizer/"))
        self.window.restore(_below(tensors, "window/"))
        restore_rng(states, self.device, self.noise)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step` per parameter.

    The moments have the shape of their parameter [...], the step is []. Shards are gathered: every rank must call it.
    """
    return {
        f"{name}/{key}": full(optimizer.state[parameter][key].detach())
        for parameter, name in names.items()
        for key in _OPTIMIZER_KEYS
        if key in optimizer.state.get(parameter, {})
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]
) -> None:
    """Restore the result of `optimizer_tensors`, on the devices of the parameters.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {f"{names[parameter]}/{key}" for parameter in parameters for key in _OPTIMIZER_KEYS}
    problems = [f"{name} is missing" for name in sorted(wanted - tensors.keys())]
    problems += [f"{name} has no place" for name in sorted(tensors.keys() - wanted)]
    for parameter in parameters:
        for key in ("exp_avg", "exp_avg_sq"):
            found = tensors.get(f"{names[parameter]}/{key}")
            if found is not None and found.shape != parameter.shape:
                problems.append(f"{names[parameter]}/{key} has shape {list(found.shape)}, not {list(parameter.shape)}")
    if problems:
        raise CheckpointError(
            f"the optimizer state does not fit the draft: {'; '.join(problems[:4])}"
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else ""),
            hint="the checkpoint belongs to a draft of another shape; start a new run from it with --from",
        )
    whole = optimizer.state_dict()
    whole["state"] = {
        index: {
            key: tensor if key == "step" else shard_like(tensor, parameter)
            for key in _OPTIMIZER_KEYS
            for tensor in [tensors[f"{names[parameter]}/{key}"]]
        }
        for index, parameter in enumerate(parameters)
    }
    optimizer.load_state_dict(whole)


def capture_rng(device: torch.device, noise: torch.Generator) -> dict[str, Tensor]:
    """The states of torch's random number generators, of the same shapes in every process so that they can be gathered.

    Training draws from no other generator: the order of the data depends on seed and epoch alone.

    Returns:
        `torch`, `noise` and, on a GPU, `cuda`: [S] uint8 each, on the CPU.
    """
    states = {"torch": torch.get_rng_state(), "noise": noise.get_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return {name: tensor.detach().cpu().clone() for name, tensor in states.items()}


def restore_rng(states: dict[str, Tensor], device: torch.device, noise: torch.Generator) -> None:
    """Set the generators to [S] states of `capture_rng`; states of other generators are ignored."""
    torch.set_rng_state(states["torch"])
    noise.set_state(states["noise"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
