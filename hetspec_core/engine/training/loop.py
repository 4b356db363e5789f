"""The training loop, from the first step to the last checkpoint.

It connects feed, loss, optimizer, metrics, evaluation and checkpoints; the stage builds the `Training`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hetspec_core.engine.algorithms import Algorithm
from hetspec_core.engine.context import RunContext, peak_memory_bytes
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, publish_draft
from hetspec_core.engine.training.evaluation import SCORE, HeldOut, rates_by_depth
from hetspec_core.engine.training.feed import BatchFeed, Position, StepBatches
from hetspec_core.engine.training.horizon import TrainingClock, learning_rate
from hetspec_core.engine.training.processes import Processes, full, local_shard, no_grad_sync, prepare, unsharded
from hetspec_core.engine.training.samples import describe
from hetspec_core.engine.training.state import MetricsWindow, ResumableState, TrainingState
from hetspec_core.errors import Cancelled, CheckpointError, RunError
from hetspec_core.events import LogLevel
from hetspec_core.spec import OptimizerSpec, TrainingSpec

_DIVERGED_HINT = "start a new run with a lower training.optimizer.lr; --from and this run keeps what was learnt"


@dataclass
class Training:
    """The parts of a training run.

    Attributes:
        context: the run's spec, and the receiver of reports.
        processes: the ranks, with their accelerator.
        draft: float32 weights on the device, bound to its base.
        algorithm: the loss.
        feed: micro-batches from `state.position` on.
        held_out: what to evaluate on, or None.
        checkpoints: the run's checkpoints.
        memory: optimizer, random generators, metrics window.
        state: counters; those of the checkpoint when resuming.
        write_draft: writes the draft directory at a path.
        data_hash: identity of the training data, recorded in checkpoints.
        sound_until: position in the data up to which the loss is known to be finite.
    """

    context: RunContext
    processes: Processes
    draft: DraftLM
    algorithm: Algorithm
    feed: BatchFeed
    held_out: HeldOut | None
    checkpoints: TrainingCheckpoints
    memory: ResumableState
    state: TrainingState
    write_draft: Callable[[Path], None]
    data_hash: str
    sound_until: Position = field(default_factory=Position)

    @property
    def spec(self) -> TrainingSpec:
        return self.context.spec.training

    @property
    def window(self) -> MetricsWindow:
        return self.memory.window

    def log(self, message: str, level: LogLevel = "warning") -> None:
        """Log a sentence once, not once per rank."""
        if self.processes.is_main:
            self.context.log(message, level=level)


def train(run: Training) -> None:
    """Train until the horizon; the end is an evaluation, a checkpoint, and the best draft in the run folder.

    Raises:
        Cancelled: the run was asked to stop; a checkpoint of the last step was written first.
        ResourceError: the disk is full; the checkpoints before are intact.
        RunError: the loss is no longer finite; a stored sample whose states are not is named.
    """
    spec, state = run.spec, run.state
    run.sound_until = state.position
    model = prepare(run.processes.accelerator, run.draft)
    run.draft.train()
    run.window.start_clock()
    clock = TrainingClock(spec, state, run.processes, run.memory)
    while not state.finished:
        step = run.feed.next_step()
        state.step += 1
        state.epoch, state.index = step.after.epoch, step.after.index
        rate = learning_rate(state.step, spec.optimizer, state.total_steps)
        set_learning_rate(run.memory.optimizer, rate)
        accumulate_gradients(model, step, run.algorithm, run.processes, run.memory.noise, run.window)
        norm = clip_gradients(run.draft.trainable_parameters(), spec.optimizer.clip_norm)
        run.memory.optimizer.step()
        run.memory.optimizer.zero_grad(set_to_none=True)
        run.window.add_step(norm, step)

        clock.count_step()
        planned = state.total_steps is None and clock.may_plan()
        if state.step % spec.log_every == 0 or state.finished:
            _report(run, rate, clock)
        if state.step % spec.eval_every == 0 or state.finished or planned:
            _evaluate(run, clock)
        if state.step % spec.save_every == 0 or state.finished or planned or state.best_step == state.step:
            _save(run, clock)
        if planned:
            run.log(clock.plan(), level="info")
            _save(run, clock)  # the schedule depends on the plan, so a resumed run must have the same one
        if run.processes.is_main:
            run.context.progress("train", state.step, state.total_steps, "steps")
        _stop_if_asked(run, clock)
    _publish(run)


def build_optimizer(
    parameters: Iterable[nn.Parameter], options: OptimizerSpec, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; only matrices decay. Fused where the device has such a kernel.

    Args:
        parameters: all of the draft's.
        options: betas and decay; the learning rate is set before every step.
        device: where the parameters are.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=options.betas,
        fused=device.type in ("cuda", "cpu"),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm` (0 = leave them).

    Returns:
        The norm before clipping, a scalar on the device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = full(torch.nn.utils.get_total_norm(gradients))
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def accumulate_gradients(
    model: nn.Module,
    step: StepBatches,
    algorithm: Algorithm,
    processes: Processes,
    noise: torch.Generator | None,
    window: MetricsWindow,
) -> None:
    """Leave in `.grad` the gradient of the mean loss over all supervised tokens of the step.

    The step is all micro-batches of all ranks. Each micro-batch's loss is a sum, divided by the number of supervised
    tokens of the whole step, so the result does not depend on how the step is cut into micro-batches and ranks. DDP
    averages over ranks where a sum is wanted, hence the factor.
    """
    supervised = processes.sum(torch.stack([batch.num_supervised for batch in step.batches]).sum())
    share = processes.world_size / supervised.clamp(min=1)
    for number, batch in enumerate(step.batches, 1):
        with no_grad_sync(processes.accelerator, model, until_last=number < len(step.batches)):
            output = algorithm.loss(model, batch, noise)
            processes.accelerator.backward(output.total * share)
        window.add_output(output)


def resume(run: Training, checkpoint: TrainingCheckpoint) -> None:
    """Restore everything in a checkpoint except the draft's weights and the counters.

    Raises:
        CheckpointError: it belongs to another draft, another number of processes, or other data.
    """
    if checkpoint.record.get("data_hash") != run.data_hash:
        raise CheckpointError(
            f"the training data is not the one that {checkpoint.path} was trained on",
            hint="give back the datasets as they were, or start a new run with --from and this run",
        )
    run.memory.restore(checkpoint.tensors, run.processes)


def _report(run: Training, rate: float, clock: TrainingClock) -> None:
    """Read the window (only here training waits for the device) and report it."""
    values = run.window.read()
    if not values:
        return
    state = run.state
    state.tokens += round(values.pop("window_tokens"))
    state.supervised_tokens += round(values.pop("window_supervised"))
    clock.stop()
    if not math.isfinite(values["loss"]):
        raise _not_finite(run, f"the loss is not finite at step {state.step}")
    run.sound_until = state.position
    values |= {"lr": rate, "supervised_tokens": state.supervised_tokens}
    peak = peak_memory_bytes(run.memory.device)
    values["peak_memory_mb"] = peak.get("gpu", peak["process"]) / 2**20
    _emit(run, values)


def _not_finite(run: Training, seen: str) -> RunError:
    """The error for figures that are not finite: names a stored sample of the steps since the last finite ones."""
    found = ""
    for index in run.feed.samples_between(run.sound_until, run.state.position):
        if where := run.feed.store[index].not_finite():
            found = f"sample {run.feed.store.ids[index]} of {describe(run.feed.store)} ({where})"
            break
    if not run.processes.any(bool(found)):
        return RunError(seen, hint=_DIVERGED_HINT)
    sample = found or "a sample that another process of the run was given"
    return RunError(
        f"{seen}: the stored states of {sample} are not finite",
        hint="the learning rate (training.optimizer.lr) is not the cause. `dataset verify` names all such samples; "
        "generate the dataset again, or write it anew with `dataset merge`: both leave them out",
    )


def _evaluate(run: Training, clock: TrainingClock) -> None:
    if run.held_out is None:
        return
    with clock.measure("eval"), unsharded(run.draft):
        values = run.held_out.measure(run.draft, run.algorithm, run.processes)
    state = run.state
    if not (math.isfinite(values[SCORE]) and math.isfinite(values["loss"])):
        run.log(
            f"the evaluation at step {state.step} gave a loss of {values['loss']} and an accept length of "
            f"{values[SCORE]}; this checkpoint is not taken for the best"
        )
    if state.is_better(values[SCORE], values["loss"]):
        state.best_step, state.best_score, state.best_loss = state.step, values[SCORE], values["loss"]
        state.best_rates = rates_by_depth(values)
    _emit(run, {f"eval/{name}": value for name, value in values.items()})


def _emit(run: Training, values: dict[str, float]) -> None:
    if not run.processes.is_main:
        return
    state = run.state
    run.context.metric(state.step, dict(values), tokens=state.tokens, wall_s=state.wall_s)
    if run.spec.report_to:
        run.processes.accelerator.log(values, step=state.step)


def _save(run: Training, clock: TrainingClock) -> None:
    """Write a checkpoint of this step, report it, and remove superseded ones."""
    state = run.state
    with clock.measure("save"):
        sound = all(bool(local_shard(parameter).isfinite().all()) for parameter in run.draft.trainable_parameters())
        if run.processes.any(not sound):
            raise _not_finite(
                run, f"the draft's weights are not finite at step {state.step}; the checkpoints before it are kept"
            )
        tensors = run.memory.collect(run.processes)
        with unsharded(run.draft):
            if run.processes.is_main:
                record = {"state": state.record(), "data_hash": run.data_hash, "world_size": run.processes.world_size}
                run.context.journal.sync()  # a run that resumes here does not write the metrics before it again
                path = run.checkpoints.save(state.step, write_draft=run.write_draft, tensors=tensors, record=record)
                best = state.best_step == state.step
                scores = {SCORE: state.best_score, "loss": state.best_loss} if best else {}
                run.context.checkpoint(path, state.step, dict(scores), best)
                run.checkpoints.prune(state.best_step)
            run.processes.wait()
    clock.saved_step = state.step


def _stop_if_asked(run: Training, clock: TrainingClock) -> None:
    """Write a checkpoint and stop, if any rank was asked to."""
    if run.processes.world_size > 1 and run.state.step % run.spec.log_every:
        return  # asking all ranks waits for the device
    cancelled: Cancelled | None = None
    try:
        run.context.check_cancelled()
    except Cancelled as error:
        cancelled = error
    if not run.processes.any(cancelled is not None):
        return
    if clock.saved_step != run.state.step:
        _save(run, clock)
    raise cancelled or Cancelled("another process of the run was asked to stop")


def _publish(run: Training) -> None:
    """Make the best draft (the newest, when nothing was evaluated) the draft of the run."""
    state = run.state
    if run.processes.is_main:
        step = state.best_step or state.step
        try:
            run.checkpoints.check(step)
        except CheckpointError as error:
            run.log(f"the newest draft is taken for the best one: {error.message}")
            step = state.step
        publish_draft(run.checkpoints.path(step), run.context.paths.draft)
    run.processes.wait()
