"""The number of optimiser steps of a run, their learning rates, and the time that each part of it takes.

The number of steps comes from `max_steps`, from `epochs`, or from the time that the first steps took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.state import ResumableState, TrainingState
from hetspec_core.spec import OptimizerSpec, TrainingSpec

PLANNING_SHARE = 0.05  # of the time budget; long enough to average over batches of different lengths
MIN_MEASURED_STEPS = 3


def steps_of_epochs(batches_per_epoch: list[int], gradient_accumulation: int) -> int:
    """Optimiser steps that see every micro-batch of the epochs at least once (the last step runs on into the next)."""
    return max(1, math.ceil(sum(batches_per_epoch) / gradient_accumulation))


@dataclass(frozen=True)
class StepCosts:
    """Measurements of the first steps, in seconds.

    Attributes:
        step_s: one optimiser step, the first (which warms up kernels and caches) not counted.
        eval_s: one evaluation; 0 when there is none.
        save_s: one checkpoint.
    """

    step_s: float
    eval_s: float
    save_s: float


def enough_measured(steps: int, spent_s: float, budget_s: float) -> bool:
    """Whether a plan can be made: a few steps after the first are measured, and a share of the budget is spent."""
    return steps > MIN_MEASURED_STEPS and spent_s >= PLANNING_SHARE * budget_s


def steps_of_budget(
    budget_s: float, spent_s: float, steps_done: int, costs: StepCosts, *, eval_every: int, save_every: int
) -> int:
    """Total optimiser steps that end within the budget, evaluations and checkpoints included.

    Args:
        budget_s: the whole time.
        spent_s: the part of it that is spent.
        steps_done: steps taken in that time.
        costs: measured times.
        eval_every, save_every: steps between evaluations and between checkpoints.

    Returns:
        At least `steps_done` + 1, because a plan ends in the future.
    """
    last = costs.eval_s + costs.save_s  # after the last step
    per_step = costs.step_s + costs.eval_s / eval_every + costs.save_s / save_every
    return steps_done + max(1, int((budget_s - spent_s - last) / max(per_step, 1e-9)))


def learning_rate(step: int, options: OptimizerSpec, total_steps: int | None) -> float:
    """Learning rate of an optimiser step.

    Linear warm-up to `options.lr` over `warmup_steps`, then constant, or down to `min_lr_ratio` of the peak at the last
    step. It is a pure function of the step, so a checkpoint does not store it.

    Args:
        step: number of the step, from 1.
        options: peak, warm-up, shape and floor.
        total_steps: the horizon; None while it is not planned yet (`max_minutes`), then the peak is held.
    """
    if step <= options.warmup_steps:
        return options.lr * step / options.warmup_steps
    if options.schedule == "constant" or total_steps is None:
        return options.lr
    steps_after_warmup = max(1, total_steps - options.warmup_steps)
    progress = min(1.0, (step - options.warmup_steps) / steps_after_warmup)
    shape = 1.0 - progress if options.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return options.lr * (options.min_lr_ratio + (1.0 - options.min_lr_ratio) * shape)


class TrainingClock:
    """Seconds of training in all, and of one step, evaluation and checkpoint.

    Args:
        spec: the limits of a plan.
        state: its `wall_s` is updated, its `total_steps` is planned.
        processes: ranks that must agree on a plan.
        memory: its metrics window leaves out the time of evaluations and checkpoints.
    """

    def __init__(self, spec: TrainingSpec, state: TrainingState, processes: Processes, memory: ResumableState) -> None:
        self._spec, self._state, self._processes, self._memory = spec, state, processes, memory
        self._last_s = time.perf_counter()
        self._first_step_ended_s: float | None = None
        self._steps = 0
        self._apart_s = {"eval": 0.0, "save": 0.0}  # not part of a step's time
        self._cost_s = {"eval": 0.0, "save": 0.0}
        self.saved_step: int | None = state.step

    def stop(self) -> None:
        """Bring the run's `wall_s` up to now."""
        now = time.perf_counter()
        self._state.wall_s += now - self._last_s
        self._last_s = now

    def count_step(self) -> None:
        self._steps += 1
        if self._first_step_ended_s is None:
            self._wait_for_device()
            self._first_step_ended_s = time.perf_counter()

    def may_plan(self) -> bool:
        """Whether to plan `max_minutes` now: enough steps are measured, or `max_steps` is almost reached.

        The main rank decides for all.
        """
        self.stop()
        spec, state = self._spec, self._state
        ready = enough_measured(self._steps, state.wall_s, (spec.max_minutes or 0.0) * 60)
        ready = ready or (spec.max_steps is not None and state.step + 1 >= spec.max_steps)
        return bool(self._processes.agree(float(ready)))

    def plan(self) -> str:
        """Fix the horizon from the measurements, so that the schedule is a pure function of the step from now on.

        Returns:
            The plan as a sentence.
        """
        spec, state = self._spec, self._state
        self._wait_for_device()
        self.stop()
        measured_s = time.perf_counter() - (self._first_step_ended_s or 0.0) - sum(self._apart_s.values())
        costs = StepCosts(measured_s / max(1, self._steps - 1), self._cost_s["eval"], self._cost_s["save"])
        budget_s = (spec.max_minutes or 0.0) * 60
        total = steps_of_budget(
            budget_s, state.wall_s, state.step, costs, eval_every=spec.eval_every, save_every=spec.save_every
        )
        total = round(self._processes.agree(total))
        limit = spec.max_steps or total
        state.total_steps = min(max(state.step + 1, total), limit)
        return (
            f"planned {state.total_steps} steps to end within {spec.max_minutes:g} minutes: "
            f"{costs.step_s:.3g} s a step (measured on {self._steps - 1}), {costs.eval_s:.3g} s an evaluation, "
            f"{costs.save_s:.3g} s a checkpoint"
        )

    @contextmanager
    def measure(self, what: Literal["eval", "save"]) -> Iterator[None]:
        """Time an evaluation or a checkpoint, and keep it out of the step times."""
        self._wait_for_device()
        since_s = time.perf_counter()
        try:
            yield
        finally:
            self._wait_for_device()
            spent_s = time.perf_counter() - since_s
            self._cost_s[what] = spent_s
            self._apart_s[what] += spent_s
            self._memory.window.leave_out(spent_s)
            self.stop()

    def _wait_for_device(self) -> None:
        if self._memory.device.type == "cuda":
            torch.cuda.synchronize(self._memory.device)
