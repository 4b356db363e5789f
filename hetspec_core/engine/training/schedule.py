"""The learning rate as a pure function of the step. It knows no optimizer and keeps no state."""

from __future__ import annotations

import math

from hetspec_core.spec import OptimizerSpec


def learning_rate(step: int, options: OptimizerSpec, total_steps: int | None) -> float:
    """Learning rate of an optimiser step.

    Linear warm-up to `options.lr` over `warmup_steps`, then constant, or down to `min_lr_ratio` of the peak at the last
    step. Being a pure function of the step, it needs no place in a checkpoint.

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
