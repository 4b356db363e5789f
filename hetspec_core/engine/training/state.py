"""What a training run is at a step: counters, and everything that random numbers, optimizer and metrics hold.

Together with the draft's weights this is enough to go on exactly as if nothing had stopped the run. It knows no files.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.training.feed import Position
from hetspec_core.engine.training.metrics import MetricsWindow
from hetspec_core.engine.training.optimizer import load_optimizer_tensors, optimizer_tensors
from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.rng import capture_rng, restore_rng
from hetspec_core.errors import CheckpointError


@dataclass
class TrainingState:
    """Counters of a run.

    Attributes:
        step: optimiser steps taken.
        total_steps: the horizon; None until `max_minutes` is planned.
        epoch, index: position in the data behind the last step.
        tokens, supervised_tokens: trained on, up to the last report, over all ranks.
        wall_s: seconds of training over all attempts.
        best_step: step of the best evaluation, None before the first.
        best_score: its simulated accept length.
        best_loss: its loss, which decides between equal scores.
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

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.index)

    @property
    def finished(self) -> bool:
        return self.total_steps is not None and self.step >= self.total_steps

    def is_better(self, score: float, loss: float) -> bool:
        """Whether an evaluation beats the best one so far. One with a figure that is not finite never does."""
        if not (math.isfinite(score) and math.isfinite(loss)):
            return False
        if self.best_step is None or not (math.isfinite(self.best_score) and math.isfinite(self.best_loss)):
            return True
        return (score, -loss) > (self.best_score, -self.best_loss)

    def record(self) -> dict[str, Any]:
        """The counters as JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingState:
        """Read the counters back.

        Raises:
            CheckpointError: one is missing.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in record]
        if missing:
            raise CheckpointError(f"the checkpoint's record lacks {', '.join(missing)}")
        return cls(**{name: record[name] for name in names})


@dataclass(frozen=True)
class Memory:
    """The parts of a process that remember: optimizer, random generators, the running metrics window."""

    optimizer: torch.optim.Optimizer
    names: dict[nn.Parameter, str]
    noise: torch.Generator
    window: MetricsWindow
    device: torch.device

    def collect(self, processes: Processes) -> dict[str, Tensor]:
        """Everything as named tensors; all ranks call it together, the main rank's answer is the one to store."""
        tensors = {f"optimizer/{name}": t for name, t in optimizer_tensors(self.optimizer, self.names).items()}
        for name, mine in capture_rng(self.device, self.noise).items():
            for rank, state in enumerate(processes.gather(mine)):
                tensors[f"rng/{rank}/{name}"] = state
        return tensors | {f"window/{name}": tensor for name, tensor in self.window.tensors().items()}

    def restore(self, tensors: dict[str, Tensor], processes: Processes) -> None:
        """Put everything back as `collect` found it.

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
