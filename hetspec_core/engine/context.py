"""The worker's view of its run (spec, folder, device, reports to the desk), and facts of the machine.

Everything that a stage reports goes through `RunContext`, so a test can drive a stage with a context on a temporary
folder.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_json

from hetspec_core.engine.run_folder import Share, versions
from hetspec_core.errors import Cancelled, ResourceError
from hetspec_core.events import (
    Artifact,
    CheckpointSaved,
    EventBase,
    Journal,
    Log,
    LogLevel,
    Metric,
    Progress,
    Result,
)
from hetspec_core.files import write_atomic
from hetspec_core.paths import RunPaths
from hetspec_core.spec import ResourcesSpec, RunSpec
from hetspec_core.spec.run import read_spec

MAIN_WORKER = "worker-0"
PROGRESS_PERIOD_S = 0.2

_DECODING = ("generate", "chat", "bench", "tune")


def resolve_device(resources: ResourcesSpec) -> torch.device:
    """The device of this process: `auto` is cuda when there is one; of several that it sees, LOCAL_RANK picks one.

    Raises:
        ResourceError: `resources.device` is cuda, and there is none.
    """
    available = torch.cuda.is_available()
    if resources.device == "cuda" and not available:
        raise ResourceError(
            "resources.device is cuda, but torch sees no CUDA device",
            hint="set resources.device=cpu, or install a torch with CUDA and check the driver",
        )
    if resources.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16. A processor that emulates it is slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = getattr(getattr(torch, "cpu", None), "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_dtype(resources: ResourcesSpec, device: torch.device, stage: str = "") -> torch.dtype:
    """Number type of the base.

    `auto` is the serving type for what decodes: bfloat16 where the device multiplies in it. For everything else it is
    float32 on a CPU and bfloat16 on a GPU.

    Args:
        resources: what was asked for.
        device: that computes.
        stage: of the run, or `chat`.
    """
    if resources.dtype == "auto":
        serving = stage in _DECODING and has_fast_bfloat16(device)
        return torch.bfloat16 if serving or device.type != "cpu" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[resources.dtype]


def set_threads(resources: ResourcesSpec) -> None:
    """Set torch's CPU threads: `resources.num_threads`, else OMP_NUM_THREADS, else all cores."""
    if resources.num_threads is not None:
        torch.set_num_threads(resources.num_threads)
    elif "OMP_NUM_THREADS" not in os.environ:  # then torch has read it already
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(cores)


@dataclass
class _Task:
    """Progress of one task: the last event written, and the newest one held back."""

    written_s: float
    done: float
    held: Progress | None = None


@dataclass
class RunContext:
    """The run as a stage sees it. Made by `open_context`.

    Attributes:
        spec: the run's spec.
        paths: its folder.
        device: where tensors live.
        dtype: number type of the base.
        attempt: 1 for the first start, one more for each resume.
        share: the part of the work that this worker does.
        cancelled: set when the run is asked to stop; a stage calls `check_cancelled` at its safe points instead.
    """

    spec: RunSpec
    paths: RunPaths
    device: torch.device
    dtype: torch.dtype
    journal: Journal
    attempt: int = 1
    share: Share = field(default_factory=Share)
    cancelled: threading.Event = field(default_factory=threading.Event)
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _facts: dict[str, Any] = field(default_factory=dict)

    def emit(self, event: EventBase) -> None:
        """Write one event to the journal.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        self.journal.write(event)

    def progress(
        self,
        task: str,
        done: float,
        total: float | None = None,
        unit: str = "",
        note: str = "",
        *,
        part: tuple[int, int] = (1, 1),
    ) -> None:
        """Report how far a task is. Cheap enough for every step: at most five a second per task reach the journal.

        The first, the last (`done` == `total`) and a step back are always written. A worker that does a share reports
        the progress of its share; readers add the shares up (`events.Tally`). `part` is (2, 3) for the second of three
        consecutive tasks: lists show the progress over all of them.
        """
        event = Progress(
            task=task,
            done=done,
            total=total,
            unit=unit,
            note=note,
            workers=self.share.count,
            part=part[0],
            parts=part[1],
        )
        now = time.monotonic()
        state = self._tasks.get(task)
        finished = total is not None and done >= total
        if state and not finished and done >= state.done and now - state.written_s < PROGRESS_PERIOD_S:
            state.held = event
            return
        self._tasks[task] = _Task(now, done)
        self.emit(event)

    def prepare(self, task: str, done: float = 0.0, note: str = "") -> None:
        """Report a task before the run's work, such as loading a model, and its progress from 0 to 1.

        Lists show the task's name; they take the progress of the run from `progress` alone.
        """
        self.emit(Progress(task=task, done=done, total=1.0, note=note, workers=self.share.count, prepares=True))

    def flush_progress(self) -> None:
        """Write the progress that was held back, so that the journal ends with the true progress of every task."""
        for state in self._tasks.values():
            if state.held is not None:
                held, state.held = state.held, None
                self.emit(held)

    def metric(
        self, step: int, values: dict[str, float | None], tokens: int | None = None, wall_s: float | None = None
    ) -> None:
        """Report measured values at an optimiser step (or another count named by the stage)."""
        self.emit(Metric(step=step, values=values, tokens=tokens, wall_s=wall_s))

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Report one sentence to the reader of the run."""
        self.emit(Log(message=message, level=level))

    def checkpoint(
        self, path: Path, step: int, values: dict[str, float | None] | None = None, best: bool = False
    ) -> None:
        """Report a checkpoint that is complete on disk."""
        self.emit(CheckpointSaved(path=self._relative(path), step=step, best=best, values=values or {}))

    def artifact(self, kind: str, path: Path, summary: dict[str, Any] | None = None) -> None:
        """Report something usable that is complete on disk: kind draft, hidden_states or trace."""
        self.emit(Artifact(kind=kind, path=self._relative(path), summary=summary or {}))

    def result(self, kind: str, data: dict[str, Any]) -> None:
        """Report the final result of the run, and write it to result.json."""
        event = Result(kind=kind, data=data)
        about = {"kind": kind, "run_id": self.paths.run_id, "stage": self.spec.stage, "time": event.time}
        document = {**about, "data": data}
        write_atomic(self.paths.result, to_json(document, inf_nan_mode="null", indent=2) + b"\n", make_folder=False)
        self.emit(event)

    def record(self, **facts: Any) -> None:
        """Add facts to resolved.json: what the spec resolved to on this machine (sizes, seeds, fingerprints).

        Of several workers only the first one writes it; the facts are the same for all.
        """
        if self.journal.worker != MAIN_WORKER:
            return
        self._facts.update(facts)
        write_atomic(
            self.paths.resolved, to_json(self._facts, inf_nan_mode="null", indent=2) + b"\n", make_folder=False
        )

    def check_cancelled(self) -> None:
        """Stop here if the run was asked to; call it where stopping leaves a state that can be resumed.

        Raises:
            Cancelled: SIGTERM or SIGINT has arrived.
        """
        if self.cancelled.is_set():
            raise Cancelled("the run was asked to stop and did so at a safe point")

    def close(self) -> None:
        """Write what was held back and close the journal."""
        try:
            self.flush_progress()
        finally:
            self.journal.close()

    def __enter__(self) -> RunContext:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _relative(self, path: Path) -> str:
        absolute, folder = Path(path).absolute(), self.paths.folder.absolute()
        return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def open_context(
    run_dir: Path,
    worker: str = MAIN_WORKER,
    *,
    journal: Journal | None = None,
    attempt: int = 1,
    share: Share | None = None,
    cancelled: threading.Event | None = None,
    spec: RunSpec | None = None,
) -> RunContext:
    """Open a run folder for work: read the spec, take the device, set the threads, write resolved.json.

    Args:
        run_dir: the run folder, with its spec.toml.
        worker: name of this worker; `worker-0` writes resolved.json.
        journal: an open journal to write to; opened here when absent.
        attempt: number of this start of the run.
        share: the part of the work that it does; all of it when absent.
        cancelled: the flag that signals set; a fresh one when absent.
        spec: the folder's spec.toml, if it was read already.

    Raises:
        NotFoundError, SpecError: the folder has no spec, or one that does not hold.
        ResourceError: the device does not exist.
    """
    paths = RunPaths(Path(run_dir).absolute())
    spec = spec or read_spec(paths.spec)
    device = resolve_device(spec.resources)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # tensors on "cuda" without an index go to this one
    set_threads(spec.resources)
    context = RunContext(
        spec=spec,
        paths=paths,
        device=device,
        dtype=resolve_dtype(spec.resources, device, spec.stage),
        journal=journal or Journal(paths.events, worker),
        attempt=attempt,
        share=share or Share(),
        cancelled=cancelled or threading.Event(),
    )
    if worker == MAIN_WORKER:
        context.record(**_machine_facts(context))
    return context


def _machine_facts(context: RunContext) -> dict[str, Any]:
    spec = context.spec
    cuda = context.device.type == "cuda"
    return {
        "spec_hash": spec.spec_hash,
        "attempt": context.attempt,
        "workers": max(context.share.count, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
        "versions": versions(),
        "device": str(context.device),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [cpu_name()],
        "dtype": str(context.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "git": _git_revision(),
        "seeds": {
            "training": spec.training.seed,
            "shuffle": spec.dataset.shuffle_seed,
            "answers": spec.dataset.sampling.seed,
            "decoding": spec.decoding.sampling.seed,
        },
    }


def cpu_name() -> str:
    """The processor's model, as far as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision() -> str | None:
    """Commit of the checkout that this code runs from; None when it is installed as a package."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class LoadWatch:
    """The highest load average (over one minute) of this machine among all looks since the watch was made."""

    def __init__(self) -> None:
        self.highest: float | None = None
        self.look()

    def look(self) -> float | None:
        """Look once more and return the highest; None where the system has no load average."""
        if hasattr(os, "getloadavg"):
            self.highest = max(os.getloadavg()[0], self.highest or 0.0)
        return self.highest


def machine_facts(device: torch.device, load: LoadWatch | None = None) -> dict[str, Any]:
    """Device, processor, threads, load and versions, as JSON data.

    Args:
        device: that computes.
        load: the watch of a measurement; the load of this moment when absent.
    """
    import transformers  # here: a stage that serves by another program does without it

    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": (load or LoadWatch()).look(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device.type == "cuda":
        facts["cuda"] = torch.version.cuda
        facts["gpu_memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return facts


def peak_memory_bytes(device: torch.device) -> dict[str, int]:
    """Highest use so far in bytes: of this process, and of the GPU as torch counts it."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_allocated(device)
    return peak
