"""Runs that wait for GPUs, for a processor slot or for other runs, in order, and the rule by which they get them.

No process keeps the queue: every process that adds a run, ends one or reads the queue calls `dispatch`, and a lock lets
one of them act at a time.

The rule: waiting runs are taken by priority, the higher first, then by age. A run that finds the GPUs it needs is
started. One that does not reserves every free GPU it could use, and no run behind it may take those. So the first of a
priority is never overtaken on the GPUs it waits for. Runs behind it start only on GPUs that no run before them can use.
Processor slots are given by the same rule.

A run that waits for other runs takes no part in this until they have all succeeded. When one of them ends otherwise,
the run that waits is ended as cancelled, with the reason.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from hetspec_core.documents import read_json
from hetspec_core.errors import Cancelled, HetSpecError, NotFoundError
from hetspec_core.events import (
    FINISHED,
    DependencyFailed,
    ErrorInfo,
    Launched,
    RunEnded,
    RunState,
    append_event,
    read_facts,
    select_events,
)
from hetspec_core.files import is_locked, locked, write_atomic
from hetspec_core.jobs.executor import USUAL_EXECUTOR, Job, open_executor, run_state
from hetspec_core.jobs.leases import GpuStatus, SlotStatus, gpu_status, is_named, read_inventory, slot_status
from hetspec_core.jobs.workers import WorkerPlan
from hetspec_core.paths import RunPaths

PARENT_ENDED = "ParentEnded"
"""Kind of the error of a run that was ended because one that it waited for did not succeed."""
_HOPEFUL = ("open", "succeeded")

Outcome = RunState | Literal["open", "deleted"]


@dataclass(frozen=True)
class GpuRequest:
    """Which GPUs a run needs, or how many processor slots.

    Attributes:
        count: how many GPUs; 0 for a run that leases none.
        names: only these, each an index or a UUID; empty = any.
        min_free_mib: only those with so much free memory.
        force: also those on which another program works.
        cpu_slots: processor slots that it takes; of a machine with fewer, all.
    """

    count: int
    names: tuple[str, ...] = ()
    min_free_mib: int = 0
    force: bool = False
    cpu_slots: int = 0

    def accepts(self, status: GpuStatus) -> bool:
        """Whether the GPU could be used once it is free."""
        return not self.names or any(is_named(status.gpu, name) for name in self.names)

    def can_take(self, status: GpuStatus) -> bool:
        """Whether the GPU can be used now."""
        if not self.accepts(status) or status.gpu.free_mib < self.min_free_mib:
            return False
        return status.state == "free" or (status.state == "busy" and self.force)


@dataclass(frozen=True)
class Waiting:
    """A run that waits: which attempt at it, for what, since when, and how it is to be started.

    Attributes:
        after: runs that must have succeeded before it starts.
        submitted: `process.run_variables` of the process that submitted it; None in an entry of an older version.
        home: the data root whose queue it joined; None in an entry of an older version.
        executor: card of the executor that starts it.
    """

    run_id: str
    attempt: int
    request: GpuRequest
    priority: int
    since: float
    module: str
    environment: dict[str, str]
    folder: str | None = None
    workers: WorkerPlan = field(default_factory=WorkerPlan)
    after: tuple[str, ...] = ()
    submitted: dict[str, str] | None = None
    home: str | None = None
    executor: str = USUAL_EXECUTOR

    def original(self, data: Path) -> Path | None:
        """The data root from which this entry was copied to `data`, where it still has the run; None when `data` is it.

        A data root that was moved is no copy, nor is another path to the same folder.
        """
        if self.home is None:
            return None
        home = Path(self.home)
        with contextlib.suppress(OSError):
            if RunPaths(home / "runs" / self.run_id).spec.is_file() and not home.samefile(data):
                return home
        return None


def place(
    waiting: Iterable[Waiting], gpus: Iterable[GpuStatus], slots: Iterable[SlotStatus] = ()
) -> dict[str, tuple[str, ...]]:
    """Which of the waiting runs start now, on which GPUs and processor slots.

    Args:
        waiting: in the order of the queue.
        gpus: all there are.
        slots: all there are.

    Returns:
        Run id -> UUIDs of GPUs, then names of slots. Runs that must go on waiting are left out.
    """
    left, slots = list(gpus), list(slots)
    free = [slot.name for slot in slots if not slot.run_id]
    placed: dict[str, tuple[str, ...]] = {}
    for entry in waiting:
        count, num_slots = entry.request.count, min(entry.request.cpu_slots, len(slots))
        usable = [status for status in left if entry.request.can_take(status)]
        if len(usable) >= count and len(free) >= num_slots:
            usable.sort(key=lambda status: (status.state != "free", status.gpu.index))
            taken, kept = usable[:count], free[:num_slots]
            placed[entry.run_id] = (*(status.gpu.uuid for status in taken), *kept)
        else:
            taken = [status for status in left if count and entry.request.accepts(status)]
            kept = free if num_slots else []
        left = [status for status in left if status not in taken]
        free = [name for name in free if name not in kept]
    return placed


class Queue:
    """The runs that wait below one data root, one file for each."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.folder = data / "queue"

    def entries(self) -> list[Waiting]:
        """All, in order; a file that cannot be read is left out."""
        found = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                data = read_json(path)
                request = data.pop("request")
                request["names"] = tuple(request["names"])
                workers = WorkerPlan(**data.pop("workers", data.pop("crew", {})))  # `crew`: of an older version
                data["after"] = tuple(data.get("after", ()))
                found.append(Waiting(request=GpuRequest(**request), workers=workers, **data))
        return sorted(found, key=lambda entry: (-entry.priority, entry.since, entry.run_id))

    def waiting_ids(self) -> frozenset[str]:
        """Ids of all runs that wait, without reading anything."""
        return frozenset(path.stem for path in self.folder.glob("*.json"))

    def put(self, entry: Waiting) -> None:
        """Add a run, or change how it waits."""
        if entry.home is None:
            entry = replace(entry, home=str(self.data.resolve()))
        write_atomic(self.folder / f"{entry.run_id}.json", json.dumps(asdict(entry)), mode=0o600)

    def remove(self, run_id: str) -> bool:
        """Take a run out; False when it did not wait."""
        try:
            (self.folder / f"{run_id}.json").unlink()
        except FileNotFoundError:
            return False
        return True

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held by a process that changes the queue."""
        return locked(self.data / "queue.lock")

    def move(self, run_id: str, *, priority: int | None = None, before: str | None = None) -> None:
        """Give a waiting run another priority, or the place just before another one.

        Raises:
            NotFoundError: one of the two does not wait.
        """
        with self.lock():
            order = self.entries()
            named = {entry.run_id: entry for entry in order}
            for word in (run_id, before):
                if word is not None and word not in named:
                    raise NotFoundError(
                        f"run {word} does not wait", hint="`hetspec-core runs queue` shows those that do"
                    )
            entry = named[run_id]
            if before is not None and before != run_id:
                others = [other for other in order if other.run_id != run_id]
                position = others.index(named[before])
                after = named[before]
                ahead = others[position - 1] if position and others[position - 1].priority == after.priority else None
                since = after.since - 1.0 if ahead is None else (ahead.since + after.since) / 2
                entry = replace(entry, priority=after.priority, since=since)
            if priority is not None:
                entry = replace(entry, priority=priority)
            self.put(entry)

    def dispatch(self, asked: str = "") -> dict[str, Job]:
        """Start every waiting run that can start now; returns the jobs of those by run id.

        A run that cannot be started (its folder is deleted, no process can be made) does not keep the others. An entry
        of a copied data root is left alone: its run starts in the original.

        Args:
            asked: a run whose start the caller asks for. If it leases no GPU and cannot be started, it leaves the
                queue.

        Raises:
            RunError, ResourceError: the run `asked` could not be started.
        """
        jobs: dict[str, Job] = {}
        if not self.waiting_ids():
            return jobs
        with self.lock():
            waiting = self._ready()
            needs_gpus = any(entry.request.count for entry in waiting)
            gpus = gpu_status(self.data, read_inventory()) if needs_gpus else []
            placed = place(waiting, gpus, slot_status(self.data))
            for entry in waiting:
                if entry.run_id in placed:
                    try:
                        jobs[entry.run_id] = self._start(entry, placed[entry.run_id])
                        self.remove(entry.run_id)
                    except (HetSpecError, OSError):
                        if entry.run_id == asked and not entry.request.count:
                            self.remove(entry.run_id)
                            raise
        return jobs

    def _ready(self) -> list[Waiting]:
        """The entries, in order, that wait for GPUs or processor slots only; those whose parent failed are ended."""
        entries = [entry for entry in self.entries() if entry.original(self.data) is None and self._still_waits(entry)]
        while True:
            ends = {run_id: outcome(self.data, run_id) for entry in entries for run_id in entry.after}
            hopeless = [entry for entry in entries if any(ends[parent] not in _HOPEFUL for parent in entry.after)]
            for entry in hopeless:
                self._give_up(entry, *next((one, ends[one]) for one in entry.after if ends[one] not in _HOPEFUL))
            entries = [entry for entry in entries if entry not in hopeless]
            if not hopeless:  # until then, a run that was ended may be what another one waits for
                return [entry for entry in entries if all(ends[parent] == "succeeded" for parent in entry.after)]

    def _give_up(self, entry: Waiting, run_id: str, end: str) -> None:
        how = end if end == "failed" else f"was {end}"
        error = ErrorInfo(
            kind=PARENT_ENDED,
            message=f"it waited for run {run_id}, which {how}",
            hint="submit it again" if end == "deleted" else f"`hetspec-core runs resume {run_id}` goes on with both",
            exit_code=Cancelled.exit_code,
        )
        paths = RunPaths(self.data / "runs" / entry.run_id)
        with contextlib.suppress(OSError):  # on a full disk it goes on waiting, and is tried again
            append_event(paths.events, "queue", RunEnded(state="cancelled", error=error, attempt=entry.attempt))
            # The desk's journal is the one that is read every time.
            append_event(paths.desk, "queue", DependencyFailed(attempt=entry.attempt, run_id=run_id))
            self.remove(entry.run_id)

    def _still_waits(self, entry: Waiting) -> bool:
        """Drop what a killed desk left: a run that was deleted, or whose attempt has been started already."""
        paths = RunPaths(self.data / "runs" / entry.run_id)
        started = any(event.attempt >= entry.attempt for event in select_events(paths.desk, Launched))
        if started or not paths.spec.is_file():
            self.remove(entry.run_id)
            return False
        return True

    def _start(self, entry: Waiting, leases: tuple[str, ...]) -> Job:
        executor = open_executor(
            entry.executor, module=entry.module, environment=entry.environment, submitted=entry.submitted
        )
        folder = Path(entry.folder) if entry.folder else None
        paths = RunPaths(self.data / "runs" / entry.run_id)
        gpus, slots = leases[: entry.request.count], leases[entry.request.count :]
        return executor.launch(
            paths, attempt=entry.attempt, folder=folder, gpus=gpus, slots=slots, workers=entry.workers
        )


def outcome(data: Path, run_id: str) -> Outcome:
    """How the newest attempt at a run ended; `open` while it has not, or waits; `deleted` when there is no such run.

    The journals of a run at work are not read: its supervisor holds a lock.
    """
    paths = RunPaths(data / "runs" / run_id)
    if not paths.spec.is_file():
        return "deleted"
    if (data / "queue" / f"{run_id}.json").exists() or is_locked(paths.supervisor_lock):
        return "open"
    state = run_state(open_executor(), paths, read_facts(paths))
    return state if state in FINISHED else "open"
