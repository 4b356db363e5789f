"""The training loop: what happens in which order, from the first step to the last checkpoint.

It wires feed, loss, optimizer, metrics, evaluation and checkpoints; each of them is a module of its own. It does not
know where data and models come from: the stage puts a `Training` together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from hetspec_core.engine.algorithms import Algorithm
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.machine import peak_memory_bytes
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints, publish_draft
from hetspec_core.engine.training.evaluation import SCORE, HeldOut
from hetspec_core.engine.training.feed import BatchFeed, Position, StepBatches
from hetspec_core.engine.training.horizon import StepCosts, enough_measured, steps_of_budget
from hetspec_core.engine.training.metrics import MetricsWindow
from hetspec_core.engine.training.optimizer import clip_gradients, set_learning_rate
from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.samples import describe
from hetspec_core.engine.training.schedule import learning_rate
from hetspec_core.engine.training.sharding import gradients_kept_back, own_part, prepare, whole
from hetspec_core.engine.training.state import Memory, TrainingState
from hetspec_core.errors import Cancelled, CheckpointError, RunError
from hetspec_core.spec import TrainingSpec

_DIVERGED_HINT = "start a new run with a lower training.optimizer.lr; --from and this run keeps what was learnt"


@dataclass
class Training:
    """Everything that a training run is made of.

    Attributes:
        spec: how long, how often, how fast.
        context: where to report to.
        accelerator: devices, precision, distribution, trackers.
        processes: the ranks.
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

    spec: TrainingSpec
    context: RunContext
    accelerator: Accelerator
    processes: Processes
    draft: DraftLM
    algorithm: Algorithm
    feed: BatchFeed
    held_out: HeldOut | None
    checkpoints: TrainingCheckpoints
    memory: Memory
    state: TrainingState
    write_draft: Callable[[Path], None]
    data_hash: str
    sound_until: Position = field(default_factory=Position)

    @property
    def window(self) -> MetricsWindow:
        return self.memory.window


def train(run: Training) -> None:
    """Train until the horizon; ends with an evaluation, a checkpoint, and the best draft in the run folder.

    Raises:
        Cancelled: somebody asked to stop; a checkpoint of the last step was written first.
        ResourceError: the disk is full; the checkpoints before are intact.
        RunError: the loss is no longer finite; a stored sample whose states are not is named.
    """
    spec, state = run.spec, run.state
    run.sound_until = state.position
    model = prepare(run.accelerator, run.draft)
    run.draft.train()
    run.window.start_clock()
    clock = _Clock(run)
    while not state.finished:
        step = run.feed.next_step()
        state.step += 1
        state.epoch, state.index = step.after.epoch, step.after.index
        rate = learning_rate(state.step, spec.optimizer, state.total_steps)
        set_learning_rate(run.memory.optimizer, rate)
        accumulate_gradients(model, step, run.algorithm, run.accelerator, run.processes, run.memory.noise, run.window)
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
            clock.plan()
            _save(run, clock)  # the plan must outlive this process: the schedule hangs on it
        if run.processes.is_main:
            run.context.progress("train", state.step, state.total_steps, "steps")
        _stop_if_asked(run, clock)
    _publish(run)


def accumulate_gradients(
    model: nn.Module,
    step: StepBatches,
    algorithm: Algorithm,
    accelerator: Accelerator,
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
        with gradients_kept_back(accelerator, model, until_last=number < len(step.batches)):
            output = algorithm.loss(model, batch, noise)
            accelerator.backward(output.total * share)
        window.add_output(output)


def resume(run: Training, checkpoint: TrainingCheckpoint) -> None:
    """Put back what a checkpoint holds besides the draft's weights and the counters.

    Raises:
        CheckpointError: it belongs to another draft, another number of processes, or other data.
    """
    if checkpoint.record.get("data_hash") != run.data_hash:
        raise CheckpointError(
            f"the training data is not the one that {checkpoint.path} was trained on",
            hint="give back the datasets as they were, or start a new run with --from and this run",
        )
    run.memory.restore(checkpoint.tensors, run.processes)


def _report(run: Training, rate: float, clock: _Clock) -> None:
    """Read the window (the one place where training waits for the device) and report it."""
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
    """Why figures are no longer finite: a stored sample that was trained on since they were, or else the training."""
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


def _evaluate(run: Training, clock: _Clock) -> None:
    if run.held_out is None:
        return
    with clock.measure("eval"), whole(run.draft):
        values = run.held_out.measure(run.draft, run.algorithm, run.processes)
    state = run.state
    if run.processes.is_main and not (math.isfinite(values[SCORE]) and math.isfinite(values["loss"])):
        run.context.log(
            f"the evaluation at step {state.step} gave a loss of {values['loss']} and an accept length of "
            f"{values[SCORE]}; this checkpoint is not taken for the best",
            level="warning",
        )
    if state.is_better(values[SCORE], values["loss"]):
        state.best_step, state.best_score, state.best_loss = state.step, values[SCORE], values["loss"]
    _emit(run, {f"eval/{name}": value for name, value in values.items()})


def _emit(run: Training, values: dict[str, float]) -> None:
    if not run.processes.is_main:
        return
    state = run.state
    run.context.metric(state.step, dict(values), tokens=state.tokens, wall_s=state.wall_s)
    if run.spec.report_to:
        run.accelerator.log(values, step=state.step)


def _save(run: Training, clock: _Clock) -> None:
    """Write a checkpoint of this step, report it, and clear away superseded ones."""
    state = run.state
    with clock.measure("save"):
        sound = all(bool(own_part(parameter).isfinite().all()) for parameter in run.draft.trainable_parameters())
        if run.processes.any(not sound):
            raise _not_finite(
                run, f"the draft's weights are not finite at step {state.step}; the checkpoints before it are kept"
            )
        tensors = run.memory.collect(run.processes)
        with whole(run.draft):
            if run.processes.is_main:
                record = {"state": state.record(), "data_hash": run.data_hash, "world_size": run.processes.world_size}
                run.context.journal.sync()  # a run that goes on from here does not say again what it measured before
                path = run.checkpoints.save(state.step, write_draft=run.write_draft, tensors=tensors, record=record)
                best = state.best_step == state.step
                scores = {SCORE: state.best_score, "loss": state.best_loss} if best else {}
                run.context.checkpoint(path, state.step, dict(scores), best)
                run.checkpoints.prune(state.best_step)
            run.processes.wait()
    clock.saved_step = state.step


def _stop_if_asked(run: Training, clock: _Clock) -> None:
    """Leave a checkpoint behind and stop, if any rank was asked to."""
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
            run.context.log(f"the newest draft is taken for the best one: {error.message}", level="warning")
            step = state.step
        publish_draft(run.checkpoints.path(step), run.context.paths.draft)
    run.processes.wait()


class _Clock:
    """Where the time goes: seconds of training in all, and what one step, evaluation and checkpoint cost."""

    def __init__(self, run: Training) -> None:
        self._run = run
        self._last_s = time.perf_counter()
        self._first_step_ended_s: float | None = None
        self._steps = 0
        self._apart_s = {"eval": 0.0, "save": 0.0}  # not part of a step's time
        self._cost_s = {"eval": 0.0, "save": 0.0}
        self.saved_step: int | None = run.state.step

    def stop(self) -> None:
        """Bring the run's `wall_s` up to now."""
        now = time.perf_counter()
        self._run.state.wall_s += now - self._last_s
        self._last_s = now

    def count_step(self) -> None:
        self._steps += 1
        if self._first_step_ended_s is None:
            self._wait_for_device()
            self._first_step_ended_s = time.perf_counter()

    def may_plan(self) -> bool:
        """Whether it is time to plan `max_minutes`: enough steps are measured, or `max_steps` is all but reached.

        The main rank decides for all.
        """
        self.stop()
        spec, state = self._run.spec, self._run.state
        ready = enough_measured(self._steps, state.wall_s, (spec.max_minutes or 0.0) * 60)
        ready = ready or (spec.max_steps is not None and state.step + 1 >= spec.max_steps)
        return bool(self._run.processes.agree(float(ready)))

    def plan(self) -> None:
        """Fix the horizon from what was measured; from here on the schedule is a pure function of the step."""
        run, spec, state = self._run, self._run.spec, self._run.state
        self._wait_for_device()
        self.stop()
        measured_s = time.perf_counter() - (self._first_step_ended_s or 0.0) - sum(self._apart_s.values())
        costs = StepCosts(measured_s / max(1, self._steps - 1), self._cost_s["eval"], self._cost_s["save"])
        budget_s = (spec.max_minutes or 0.0) * 60
        total = steps_of_budget(
            budget_s, state.wall_s, state.step, costs, eval_every=spec.eval_every, save_every=spec.save_every
        )
        total = round(run.processes.agree(total))
        limit = spec.max_steps or total
        state.total_steps = min(max(state.step + 1, total), limit)
        if run.processes.is_main:
            run.context.log(
                f"planned {state.total_steps} steps to end within {spec.max_minutes:g} minutes: "
                f"{costs.step_s:.3g} s a step (measured on {self._steps - 1}), {costs.eval_s:.3g} s an evaluation, "
                f"{costs.save_s:.3g} s a checkpoint"
            )

    def measure(self, what: str) -> _Apart:
        """A context that times an evaluation or a checkpoint."""
        return _Apart(self, what)

    def _wait_for_device(self) -> None:
        if self._run.memory.device.type == "cuda":
            torch.cuda.synchronize(self._run.memory.device)

    def _enter(self) -> float:
        self._wait_for_device()
        return time.perf_counter()

    def _leave(self, what: str, since_s: float) -> None:
        self._wait_for_device()
        spent_s = time.perf_counter() - since_s
        self._cost_s[what] = spent_s
        self._apart_s[what] += spent_s
        self._run.window.leave_out(spent_s)
        self.stop()


class _Apart:
    """Times one act and keeps it out of the step times."""

    def __init__(self, clock: _Clock, what: str) -> None:
        self._clock, self._what, self._since_s = clock, what, 0.0

    def __enter__(self) -> None:
        self._since_s = self._clock._enter()

    def __exit__(self, *_: object) -> None:
        self._clock._leave(self._what, self._since_s)
