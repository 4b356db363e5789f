"""What a run asks of the GPUs and the processor of this machine, who has them, and what runs wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.errors import HetSpecError, ResourceError, RunError
from hetspec_core.jobs import (
    PARENT_ENDED,
    Executor,
    GpuRequest,
    GpuStatus,
    Queue,
    Waiting,
    WorkerPlan,
    gpu_status,
    outcome,
    read_inventory,
    slot_count,
    slot_status,
    visible_here,
)
from hetspec_core.paths import RunPaths
from hetspec_core.process import run_variables
from hetspec_core.runs import RunRow
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import read_spec


@dataclass(frozen=True)
class GpuReport:
    """All GPUs with their leases, or the reason why there are none."""

    gpus: tuple[GpuStatus, ...]
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"gpus": [status.to_json() for status in self.gpus], "reason": self.reason}


def read_gpus(data: Path) -> GpuReport:
    """The GPUs of this machine now, and the leases below a data root."""
    inventory = read_inventory()
    return GpuReport(tuple(gpu_status(data, inventory)), inventory.reason)


def waiting_run(
    executor: Executor, paths: RunPaths, attempt: int, folder: Path | None, after: tuple[str, ...] = ()
) -> Waiting | None:
    """The entry in the queue for an attempt that waits for the runs `after`; None for one that waits for none and needs
    neither a GPU that is known of nor a processor slot.

    Raises:
        ResourceError: this machine has fewer GPUs of that kind than it asks for, or as `plan_workers`.
        UsageError: HETSPEC_CPU_SLOTS is not a number.
    """
    spec = _spec_of(paths)
    if spec is None:
        return None
    request = gpu_request(spec)
    slots = processor_slots(spec) if request is None else 0
    if request is None and not slots and not after:
        return None
    return Waiting(
        run_id=paths.run_id,
        attempt=attempt,
        request=request or GpuRequest(count=0, cpu_slots=slots),
        priority=spec.resources.priority,
        since=time.time(),
        module=executor.module,
        environment=dict(executor.environment),
        folder=None if folder is None else str(folder),
        workers=plan_workers(spec, 0 if request is None else request.count),
        after=after,
        submitted=run_variables(),
        executor=executor.name,
    )


def gpu_request(spec: RunSpec) -> GpuRequest | None:
    """Which GPUs a run asks for; None when it asks for none, or this machine has none that is known of.

    Raises:
        ResourceError: it asks for more than this machine has.
    """
    wanted = spec.resources
    if wanted.device == "cpu" or wanted.num_gpus == 0 or by_another(spec):
        return None
    inventory = read_inventory()
    visible = visible_here(inventory)
    if not inventory.gpus or visible == ():
        return None
    request = GpuRequest(
        count=max(wanted.num_gpus, len(wanted.gpus), spec.sglang.num_gpus if starts_sglang(spec) else 1),
        names=wanted.gpus or visible or (),
        min_free_mib=round(wanted.min_free_gib * 1024),
        force=wanted.share_busy,
    )
    fitting = [
        gpu
        for gpu in inventory.gpus
        if request.accepts(GpuStatus(gpu, "free")) and gpu.memory_mib >= request.min_free_mib
    ]
    if len(fitting) < request.count:
        raise ResourceError(
            f"the run asks for {request.count} GPUs, and this machine has {len(fitting)} that would do",
            hint="see `hetspec-core gpus`, and num_gpus, gpus and min_free_gib of the run's resources",
        )
    return request


COMPUTING = frozenset({"dataset", "train", "bench", "tune"})
"""Stages that keep a processor busy until they end. The others answer a user or serve."""


def processor_slots(spec: RunSpec) -> int:
    """How many processor slots a run takes that leases no GPU.

    A run on a running server computes elsewhere. The nodes of one training wait for each other, so none may wait for a
    slot.

    Raises:
        UsageError: HETSPEC_CPU_SLOTS is not a number.
    """
    count, wanted = slot_count(), spec.resources.cpu_slots
    if by_another(spec) or spec.resources.num_nodes > 1:
        return 0
    if wanted is None:
        wanted = 1 if spec.stage in COMPUTING else 0
    return min(wanted, count)


def waiting_reasons(queue: Queue) -> dict[str, str]:
    """Run id -> what the run waits for, for all runs in the queue."""
    entries = queue.entries()
    holders = [slot.run_id for slot in slot_status(queue.data) if slot.run_id] if entries else []
    return {entry.run_id: _reason(queue.data, entry, holders) for entry in entries}


def _reason(data: Path, entry: Waiting, holders: Sequence[str]) -> str:
    if original := entry.original(data):
        return f"waits in {original}; this is a copy"
    for parent in entry.after:
        if outcome(data, parent) != "succeeded":
            return f"waits for run {parent}"
    request = entry.request
    if request.count:
        return "waits for GPUs" + (f" ({request.count})" if request.count > 1 else "")
    if request.cpu_slots and holders:
        return f"waits for the processor, which run {holders[0]} has"
    return "waits for its turn"


def starts_sglang(spec: RunSpec) -> bool:
    """Whether the run starts SGLang servers, or its engine, on the GPUs that it leases."""
    return (spec.stage == "serve" or spec.backend == "sglang") and not by_another(spec)


def by_another(spec: RunSpec) -> bool:
    """Whether the models are on a running server, which has its own GPUs."""
    return spec.stage != "serve" and spec.backend == "sglang" and bool(spec.sglang.url)


def workers_on_processor(paths: RunPaths) -> WorkerPlan:
    """The workers of a run that leases no GPU."""
    spec = _spec_of(paths)
    return WorkerPlan() if spec is None else plan_workers(spec, 0)


def plan_workers(spec: RunSpec, gpus: int) -> WorkerPlan:
    """How many workers a run has, and how they share its work.

    Args:
        spec: the run.
        gpus: number of GPUs that it leases, with one worker each; 0 = as many workers as the spec asks for.

    Raises:
        ResourceError: it asks for different numbers of workers and GPUs, or for several nodes in stage dataset.
    """
    wanted = spec.resources
    size = gpus or wanted.num_workers or 1
    if spec.stage not in ("dataset", "train"):
        return WorkerPlan()
    if gpus and wanted.num_workers not in (None, gpus):
        raise ResourceError(
            f"the run asks for {wanted.num_workers} workers on {gpus} GPUs; each GPU has one worker",
            hint="leave resources.num_workers out, or set resources.device = 'cpu'",
        )
    if spec.stage == "dataset":
        if wanted.num_nodes > 1:
            raise ResourceError(
                "a dataset is not made by several nodes together",
                hint="give each node a range of its own (--range A:B), and merge the datasets",
            )
        return WorkerPlan("shares", size) if size > 1 else WorkerPlan()
    if size * wanted.num_nodes == 1:
        return WorkerPlan()
    rendezvous = wanted.rendezvous if wanted.num_nodes > 1 else None
    return WorkerPlan("ranks", size, wanted.num_nodes, wanted.node_rank, rendezvous or "")


def _spec_of(paths: RunPaths) -> RunSpec | None:
    """The spec of a run; None when it cannot be read: its worker reports why."""
    try:
        return read_spec(paths.spec)
    except HetSpecError:
        return None


def waits_for(data: Path, run_id: str, after: Sequence[str]) -> tuple[str, ...]:
    """The runs in `after` that have not succeeded yet.

    Args:
        data: the data root.
        run_id: the run that waits.
        after: the runs that go before it.

    Raises:
        RunError: one of them ended without success.
    """
    open_runs = []
    for parent in after:
        end = outcome(data, parent)
        if end == "open":
            open_runs.append(parent)
        elif end != "succeeded":
            hint = "submit it anew" if end == "deleted" else f"`hetspec-core runs resume {parent}` goes on with both"
            raise RunError(f"run {run_id} waits for run {parent}, which is {end}", hint=hint)
    return tuple(open_runs)


def stopped_children(run_id: str, rows: Sequence[RunRow]) -> list[str]:
    """Runs that were cancelled because `run_id` did not succeed, directly or through others; parents first."""
    found = [run_id]
    for parent in found:  # grows while it is walked
        found += [
            row.run_id
            for row in rows
            if parent in row.parents
            and row.run_id not in found
            and row.state == "cancelled"
            and row.error_kind == PARENT_ENDED
        ]
    return found[1:]
