"""Stage train: builds the parts of a training from the spec and runs the loop of `training.loop`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.context import RunContext, has_fast_bfloat16, peak_memory_bytes
from hetspec_core.engine.data.chat import tokenizer_hash
from hetspec_core.engine.data.eagle_files import EagleFiles
from hetspec_core.engine.data.hidden_states import SampleStore, open_samples
from hetspec_core.engine.modeling.base_lm import BaseLM, load_frozen_ends
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import ACCEPTANCE_RATES, save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.token_counts import TokenCounts, choose_vocabulary
from hetspec_core.engine.run_folder import find_product
from hetspec_core.engine.stages.inputs import check_tokenizer
from hetspec_core.engine.training.checkpoints import TrainingCheckpoint, TrainingCheckpoints
from hetspec_core.engine.training.evaluation import SCORE, HeldOut
from hetspec_core.engine.training.feed import BatchFeed
from hetspec_core.engine.training.horizon import steps_of_epochs
from hetspec_core.engine.training.loop import Training, build_optimizer, resume, train
from hetspec_core.engine.training.processes import (
    Processes,
    check_trackers,
    finish_trackers,
    local_shard,
    shard,
    start_trackers,
)
from hetspec_core.engine.training.samples import (
    TrainingData,
    check_fits,
    check_ids,
    check_layers,
    count_assistant_tokens,
    finite_samples,
    select_samples,
    share_outside,
)
from hetspec_core.engine.training.state import MetricsWindow, ResumableState, TrainingState
from hetspec_core.errors import CheckpointError, SpecError
from hetspec_core.events import LogLevel
from hetspec_core.spec import DraftSpec, RunSpec


def run(context: RunContext) -> None:
    """Train the spec's draft, from the newest whole checkpoint of this run or from the beginning.

    Raises:
        SpecError: the spec has no draft or no dataset.
        NotFoundError: a dataset, an initial draft or a tracker does not exist.
        DataError: the datasets are empty, supervise nothing, or are of another base.
        CorruptFileError: a shard is damaged.
        ModelError: base and draft do not fit.
        CheckpointError: there are checkpoints, and none can be used.
        Cancelled, ResourceError, RunError: as `train`.
    """
    spec = context.spec
    draft_spec = _check_spec(spec)
    accelerator, precision = _open_accelerator(context)
    processes = Processes(accelerator)
    say = partial(_say, context, processes)
    checkpoints = TrainingCheckpoints(
        context.paths.checkpoints, limit=spec.training.save_total_limit, make_parents=False
    )
    checkpoint = _newest_of_all(checkpoints, processes, say)
    store = open_samples([find_product(word, "hidden_states") for word in spec.training.datasets])
    held_out = spec.training.eval_dataset
    eval_store = open_samples([find_product(held_out, "hidden_states")]) if held_out else None
    _warn_of_files(store, eval_store, say)
    data = select_samples(store, eval_store, spec.training, say)

    set_seed(spec.training.seed, device_specific=True)
    base = _load_ends(context, processes, draft_spec, precision, fresh=checkpoint is None)
    for each in {id(each): each for each in (data.store, data.eval_store)}.values():
        check_fits(each, base, allow_other_base=spec.training.allow_other_base, warn=say)
    check_ids(data.store, data.samples, base)
    check_ids(data.eval_store, data.held_out, base)
    data = replace(data, held_out=finite_samples(data.eval_store, data.held_out, say))
    draft = _make_draft(context, draft_spec, base, data, checkpoint, say)
    for each in (data.store, data.eval_store):
        check_layers(each, draft.captured_layers)
    outside = _outside_vocabulary(draft, data, spec.training.max_length) if processes.is_main else {}
    if spec.training.strategy == "fsdp" and processes.world_size > 1:
        shard(draft, processes.device, processes.world_size)
    training = _assemble(context, processes, base, draft, data, checkpoints, checkpoint, outside)
    if checkpoint is not None:
        resume(training, checkpoint)
        say(f"resumed from {checkpoint.path.name}", level="info")
    if processes.is_main:
        _record(context, training, data, precision, outside)
    start_trackers(accelerator, spec, context.paths.folder)
    try:
        train(training)
    except BaseException:
        finish_trackers(accelerator)  # only these: leaving an NCCL group waits for ranks that wait for this one
        raise
    finally:
        training.feed.close()
    accelerator.end_training()
    if processes.is_main:
        _finish(context, training)


def _say(context: RunContext, processes: Processes, message: str, level: LogLevel = "warning") -> None:
    """Log a sentence once, not once per rank."""
    if processes.is_main:
        context.log(message, level=level)


def _warn_of_files(store: SampleStore, eval_store: SampleStore | None, say: Callable[[str], None]) -> None:
    """Warn of EAGLE files that were left out because their states are not finite."""
    for each in (store, eval_store):
        broken = each.not_finite if isinstance(each, EagleFiles) else {}
        if broken:
            name, where = next(iter(broken.items()))
            say(f"{len(broken)} files have states that are not finite and are left out, the first is {name} ({where})")


def _newest_of_all(
    checkpoints: TrainingCheckpoints, processes: Processes, say: Callable[[str], None]
) -> TrainingCheckpoint | None:
    """The newest whole checkpoint that every rank has; each machine has its own run folder."""
    newest = checkpoints.load_newest(lambda error: say(f"checkpoint skipped: {error.message}"))
    mine = newest.step if newest else 0
    highest, lowest = (round(float(value)) for value in processes.max(torch.tensor([float(mine), -float(mine)])))
    lowest = -lowest
    if lowest == highest:
        return newest
    if lowest == 0:
        raise CheckpointError(
            f"the machines that train together cannot go on: this one has checkpoints up to step {mine}, another up to "
            f"step {lowest if mine == highest else highest}",
            hint=f"copy a folder of {checkpoints.folder} from a machine that has one, or start new runs on all of them",
        )
    return newest if mine == lowest else checkpoints.load(lowest)


def _check_spec(spec: RunSpec) -> DraftSpec:
    check_trackers(spec.training.report_to)
    if spec.draft is None:
        raise SpecError("there is no draft to train", hint="take a recipe that has a draft")
    if not spec.training.datasets:
        raise SpecError("there is no dataset to train on", hint="name one: --dataset RUN_OR_DIR")
    return spec.draft


def _open_accelerator(context: RunContext) -> tuple[Accelerator, torch.dtype]:
    """The accelerator of this process and its number type."""
    training, device = context.spec.training, context.device
    precision = training.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        log_with=list(training.report_to) or None,
        project_dir=context.paths.folder / "trackers",
    )
    wanted = context.spec.resources.num_gpus
    if device.type == "cuda" and wanted > accelerator.num_processes:
        context.log(f"{wanted} GPUs are asked for, {accelerator.num_processes} is used", level="warning")
    return accelerator, torch.bfloat16 if precision == "bfloat16" else torch.float32


def _load_ends(
    context: RunContext,
    processes: Processes,
    draft: DraftSpec,
    dtype: torch.dtype,
    *,
    fresh: bool,
) -> BaseLM:
    """The base's embedding and head on the device, and its last layers where a new draft is initialised from them."""
    copies = fresh and draft.checkpoint is None and draft.init == "base_last_layers"
    layers = draft.architecture.num_hidden_layers if copies else 0
    if processes.is_main:
        context.prepare("load base")
    base, _ = load_frozen_ends(context.spec.base, device=processes.device, dtype=dtype, last_layers=layers)
    if processes.is_main:
        context.prepare("load base", 1)
    return base


def _make_draft(
    context: RunContext,
    spec: DraftSpec,
    base: BaseLM,
    data: TrainingData,
    checkpoint: TrainingCheckpoint | None,
    say: Callable[[str], None],
) -> DraftLM:
    """The draft to train, in float32 on the base's device: resumed, loaded from another run, or new.

    It gets the token counts of the samples that this run trains on.
    """
    limit = context.spec.training.max_length
    occurrences = count_assistant_tokens(data.store, data.samples, vocab_size=base.vocab_size, max_length=limit)
    counts = TokenCounts(occurrences, f"answers of {len(data.samples):,} samples")
    source = checkpoint.draft if checkpoint else find_product(spec.checkpoint, "draft") if spec.checkpoint else None
    if source is not None:
        draft = load_draft(source, base, dtype=torch.float32)
        check_tokenizer(source, base, draft, say)
        if spec.vocab_size is not None and spec.vocab_size != draft.vocab_size:
            say(f"draft.vocab_size is {spec.vocab_size}; the draft in {source} keeps its {draft.vocab_size}")
        draft.token_counts = counts
        return draft
    training, ids = context.spec.training, None
    if spec.vocab_size is not None and spec.vocab_size != base.vocab_size:
        ids = choose_vocabulary(occurrences, spec.vocab_size, {*base.stop_ids, *base.tokenizer.all_special_ids})
    draft = build_draft(spec, context.spec.algorithm, base, seed=training.seed, vocab=ids)
    draft.token_counts = counts
    return draft.to(base.device, torch.float32)


def _outside_vocabulary(draft: DraftLM, data: TrainingData, max_length: int) -> dict[str, float]:
    """Shares of the assistant's tokens that a reduced vocabulary lacks; empty for a full one."""
    if draft.vocab is None:
        return {}
    sides = {
        "out_of_vocabulary": (data.store, data.samples),
        "eval/out_of_vocabulary": (data.eval_store, data.held_out),
    }
    size = draft.vocab.base_vocab_size
    return {
        name: share_outside(
            count_assistant_tokens(store, samples, vocab_size=size, max_length=max_length), draft.vocab.ids
        )
        for name, (store, samples) in sides.items()
        if samples
    }


def _assemble(
    context: RunContext,
    processes: Processes,
    base: BaseLM,
    draft: DraftLM,
    data: TrainingData,
    checkpoints: TrainingCheckpoints,
    checkpoint: TrainingCheckpoint | None,
    outside: dict[str, float],
) -> Training:
    spec, device = context.spec.training, processes.device
    algorithm = build_algorithm(context.spec.algorithm)
    state = TrainingState.from_record(checkpoint.record.get("state", {})) if checkpoint else TrainingState()
    feed = BatchFeed(
        data.store,
        data.samples,
        spec,
        mask_kind=algorithm.mask,
        layers=draft.captured_layers,
        device=device,
        world_size=processes.world_size,
        rank=processes.rank,
        position=state.position,
    )
    if checkpoint is None and spec.max_minutes is None:
        state.total_steps = _horizon(context, feed)
    memory = ResumableState(
        optimizer=build_optimizer(draft.parameters(), spec.optimizer, device),
        names={parameter: name for name, parameter in draft.named_parameters() if parameter.requires_grad},
        noise=torch.Generator(device).manual_seed(spec.seed + processes.rank),
        window=MetricsWindow(device, processes),
        device=device,
    )
    held_out = HeldOut(
        data.eval_store,
        data.held_out,
        spec,
        device=device,
        depth=context.spec.decoding.tree.depth,
        layers=draft.captured_layers,
    )
    return Training(
        context=context,
        processes=processes,
        draft=draft,
        algorithm=algorithm,
        feed=feed,
        held_out=held_out if data.held_out else None,
        checkpoints=checkpoints,
        memory=memory,
        state=state,
        write_draft=_draft_writer(context, base, draft, state, outside, data.store.identity.template_hash),
        data_hash=data.identity(spec),
    )


def _horizon(context: RunContext, feed: BatchFeed) -> int:
    """Optimiser steps of a run that is not planned by time."""
    spec = context.spec.training
    epochs = [] if spec.max_steps else [len(feed.plan(epoch)) for epoch in range(spec.epochs)]
    total = spec.max_steps or steps_of_epochs(epochs, spec.gradient_accumulation)
    if total <= spec.optimizer.warmup_steps:
        context.log(f"all {total} steps are in the warm-up of {spec.optimizer.warmup_steps}", level="warning")
    return total


def _draft_writer(
    context: RunContext,
    base: BaseLM,
    draft: DraftLM,
    state: TrainingState,
    outside: dict[str, float],
    template: str,
) -> Callable[[Path], None]:
    spec = context.spec
    tokenizer = tokenizer_hash(base.tokenizer)

    def write(folder: Path) -> None:
        facts: dict[str, Any] = {
            "base": base.name,
            "base_fingerprint": base.fingerprint,
            "tokenizer_hash": tokenizer,
            **({"template_hash": template} if template else {}),
            "recipe": spec.recipe,
            "run_id": context.paths.run_id,
            **outside,
            "step": state.step,
            "supervised_tokens": state.supervised_tokens,
        }
        if state.best_step == state.step:
            facts |= {SCORE: state.best_score, ACCEPTANCE_RATES: state.best_rates}
        save_draft(draft, folder, algorithm=spec.algorithm, facts=facts)

    return write


def _record(
    context: RunContext, training: Training, data: TrainingData, precision: torch.dtype, outside: dict[str, float]
) -> None:
    """Write to resolved.json what the spec resolved to on this machine."""
    draft = training.draft
    if outside and training.state.step == 0:
        context.metric(0, dict(outside))
    context.record(
        training={
            "processes": training.processes.world_size,
            "strategy": context.spec.training.strategy,
            "precision": str(precision).removeprefix("torch."),
            "draft_parameters": draft.num_parameters,
            "draft_parameters_per_rank": sum(local_shard(parameter).numel() for parameter in draft.parameters()),
            "draft_active_parameters": draft.num_active_parameters,
            "draft_vocab_size": draft.vocab_size,
            "samples": len(data.samples),
            "held_out_samples": len(data.held_out),
            "supervised_tokens_per_epoch": sum(data.store.supervised[index] for index in data.samples),
            "micro_batches_per_epoch": len(training.feed.plan(training.state.epoch)),
            "total_steps": training.state.total_steps,
            "data_hash": training.data_hash,
            **outside,
        }
    )


def _finish(context: RunContext, training: Training) -> None:
    state = training.state
    summary: dict[str, Any] = {
        "step": state.step,
        "best_step": state.best_step or state.step,
        SCORE: state.best_score if state.best_step else None,
        "tokens": state.tokens,
        "supervised_tokens": state.supervised_tokens,
        "wall_s": state.wall_s,
        "draft_parameters": training.draft.num_parameters,
        "draft_active_parameters": training.draft.num_active_parameters,
    }
    context.artifact("draft", context.paths.draft, summary)
    summary |= {"draft": str(context.paths.draft), "peak_memory_bytes": peak_memory_bytes(context.device)}
    context.result("train", summary)
