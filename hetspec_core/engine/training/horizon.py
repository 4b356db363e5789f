"""How many optimiser steps a run takes: by `max_steps`, by `epochs`, or by the time that the first steps took.

It knows numbers only: no clocks, no model, no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PLANNING_SHARE = 0.05  # of the time budget; long enough to average over batches of different lengths
MIN_MEASURED_STEPS = 3


def steps_of_epochs(batches_per_epoch: list[int], gradient_accumulation: int) -> int:
    """Optimiser steps that see every micro-batch of the epochs at least once (the last step runs on into the next)."""
    return max(1, math.ceil(sum(batches_per_epoch) / gradient_accumulation))


@dataclass(frozen=True)
class StepCosts:
    """What was measured on the first steps, in seconds.

    Attributes:
        step_s: one optimiser step, the first (which warms up kernels and caches) not counted.
        eval_s: one evaluation; 0 when there is none.
        save_s: one checkpoint.
    """

    step_s: float
    eval_s: float
    save_s: float


def enough_measured(steps: int, spent_s: float, budget_s: float) -> bool:
    """Whether a plan can be made: a few steps measured besides the first, and a share of the budget spent."""
    return steps > MIN_MEASURED_STEPS and spent_s >= PLANNING_SHARE * budget_s


def steps_of_budget(
    budget_s: float, spent_s: float, steps_done: int, costs: StepCosts, *, eval_every: int, save_every: int
) -> int:
    """Total optimiser steps that end within the budget, the evaluations and checkpoints on the way included.

    Args:
        budget_s: the whole time.
        spent_s: what is gone of it.
        steps_done: steps taken in that time.
        costs: measured times.
        eval_every, save_every: steps between evaluations and between checkpoints.

    Returns:
        At least `steps_done` + 1: a plan has an end that is still to come.
    """
    last = costs.eval_s + costs.save_s  # after the last step
    per_step = costs.step_s + costs.eval_s / eval_every + costs.save_s / save_every
    return steps_done + max(1, int((budget_s - spent_s - last) / max(per_step, 1e-9)))
