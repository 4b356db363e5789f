"""Run folders as journals say them, without any worker: runs in every state for whatever lists runs."""

from __future__ import annotations

import socket
from pathlib import Path

from hetspec_core.events import ErrorInfo, Event, Journal, Marked, Metric, Progress, RunEnded, RunStarted, Submitted
from hetspec_core.events.state import RunState
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec, Stage
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec

ELSEWHERE = "elsewhere.example"
"""A host whose processes cannot be looked for from here, so that its runs are at work for all one knows."""


def add_run(
    home: Path,
    run_id: str,
    state: RunState,
    *,
    name: str = "",
    created: float = 1000.0,
    curve: tuple[float, ...] = (),
    marked: Marked | None = None,
    lr: float | None = None,
    spec: RunSpec | None = None,
) -> RunPaths:
    """A run folder with journals that say `state`; `curve` is its loss at steps 0, 1, 2..., `lr` its learning rate."""
    paths = RunPaths(home / "runs" / run_id)
    paths.folder.mkdir(parents=True)
    spec = spec or small_spec(name or run_id)
    if lr is not None:
        optimizer = spec.training.optimizer.model_copy(update={"lr": lr})
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"optimizer": optimizer})})
    paths.spec.write_text(to_toml(spec))
    desk: list[Event] = [Submitted(time=created), *([marked] if marked else [])]
    _write(paths.desk, desk)
    if state == "queued":
        return paths
    host = ELSEWHERE if state in ("running", "starting") else socket.gethostname()
    events: list[Event] = [RunStarted(time=created + 1, stage=spec.stage, pid=2**22 + 1, host=host, birth="never")]
    events += [
        Metric(time=created + 2 + step, step=step, values={"loss": value}, tokens=step * 100, wall_s=step * 2.0)
        for step, value in enumerate(curve)
    ]
    if curve:
        events.append(Progress(time=created + 2, task="train", done=len(curve), total=2 * len(curve), unit="steps"))
    if state in ("succeeded", "failed", "cancelled"):
        error = ErrorInfo(kind="OutOfMemory", message="the GPU is full", hint="halve it") if state == "failed" else None
        ended = RunEnded(time=created + 60, state=state, error=error)
        events.append(ended)
    _write(paths.events, events)
    return paths


def _write(path: Path, events: list[Event]) -> None:
    path.write_text("".join(f"{event.to_line().decode()}\n" for event in events))


def submit_run(home: Path, name: str, *events: Event, stage: Stage = "train") -> str:
    """Submit a run and write these events as its worker; gives the id."""
    with Workbench(home) as workbench:
        handle = workbench.submit(small_spec(name, stage))
    with Journal(handle.paths.events, "worker-0") as journal:
        for event in events:
            journal.write(event)
    return handle.run_id


STARTED = RunStarted(stage="train", pid=1, host="elsewhere.example", birth="b")
