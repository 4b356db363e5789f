"""A run as plain data: a summary for lists, and a report of everything about it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hetspec_core.documents import DocumentError, read_json
from hetspec_core.errors import HetSpecError
from hetspec_core.events import Artifact, CheckpointSaved, Log, RunFacts, RunState, read_pieces
from hetspec_core.events.state import UNREADABLE
from hetspec_core.paths import RunPaths
from hetspec_core.runs import MetricPoint, Registry, RunRow
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import read_spec

_MOST_WARNINGS = 5


@dataclass(frozen=True)
class RunSummary:
    """One line of a list of runs. Times in unix seconds; `progress` from 0 to 1, None = unknown; `waits` says what a
    queued run waits for.
    """

    run_id: str
    name: str
    stage: str
    state: RunState
    recipe: str
    base: str
    draft: str
    algorithm: str
    spec_hash: str
    parents: tuple[str, ...]
    created: float
    started: float | None
    ended: float | None
    attempt: int
    task: str
    done: float | None
    total: float | None
    unit: str
    progress: float | None
    step: int | None
    tokens: int | None
    accept_length: float | None
    speedup: float | None
    error: dict[str, str] | None
    folder: str
    tags: tuple[str, ...] = ()
    note: str = ""
    starred: bool = False
    archived: bool = False
    waits: str = ""

    @classmethod
    def of(cls, row: RunRow, state: RunState, folder: Path, waits: str = "") -> RunSummary:
        """The summary of a row in the state that its run has now."""
        return cls(
            **{name: getattr(row, name) for name in _SHARED},
            state=state,
            error={"kind": row.error_kind, "message": row.error_message, "hint": row.error_hint}
            if row.error_kind
            else None,
            folder=os.fsencode(folder).decode(errors="backslashreplace"),  # a name need not be UTF-8
            waits=waits if state == "queued" else "",
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"parents": list(self.parents), "tags": list(self.tags)}


_SHARED = {item.name for item in fields(RunSummary)} - {"state", "error", "folder", "waits"}
"""Fields that a summary has from the row unchanged."""


@dataclass(frozen=True)
class RunReport:
    """Everything about one run.

    Attributes:
        summary: its line in lists.
        spec: its spec; None when this version cannot read it.
        resolved: content of resolved.json: versions, devices, seeds.
        metrics: newest point of every metric.
        results: data by kind.
        artifacts: complete artifacts on disk, the newest event of each path.
        checkpoints: the checkpoints on disk.
        warnings: the last warnings and errors that the worker logged.
        files: path inside the folder -> bytes, folders counted whole.
        exit_status: of a lost worker, if it was seen; negative = a signal.
        problem: why the spec cannot be read by this version; empty when it can.
    """

    summary: RunSummary
    spec: RunSpec | None
    resolved: dict[str, Any]
    metrics: list[MetricPoint]
    results: dict[str, Any]
    artifacts: list[Artifact] = field(default_factory=list)
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    warnings: list[Log] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    exit_status: int | None = None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **self.summary.to_json(),
            "spec": self.spec.model_dump(mode="json", exclude_none=True) if self.spec else None,
            "resolved": self.resolved,
            "metrics": [point._asdict() for point in self.metrics],
            "results": self.results,
            "artifacts": [event.to_json() for event in self.artifacts],
            "checkpoints": [event.to_json() for event in self.checkpoints],
            "warnings": [event.to_json() for event in self.warnings],
            "files": self.files,
            "exit_status": self.exit_status,
            "problem": self.problem,
        }


def read_report(paths: RunPaths, summary: RunSummary, registry: Registry, facts: RunFacts) -> RunReport:
    """The report of a run from its folder, and from what the registry has read of its journals."""
    spec, problem = spec_or_problem(paths)
    report = RunReport(
        summary=summary,
        spec=spec,
        resolved=read_resolved(paths),
        metrics=registry.last_metrics(summary.run_id),
        results=registry.results(summary.run_id),
        files=list_files(paths.folder),
        exit_status=facts.exit_status if summary.state == "lost" else None,
        problem="" if summary.state == UNREADABLE else problem,
    )
    _add_journal(report, paths)
    return report


def _add_journal(report: RunReport, paths: RunPaths) -> None:
    """Add the artifacts and checkpoints that are still on disk, and the last warnings, from the whole journal."""
    artifacts: dict[str, Artifact] = {}
    checkpoints: dict[str, CheckpointSaved] = {}
    warnings: deque[Log] = deque(maxlen=_MOST_WARNINGS)
    with contextlib.suppress(OSError, DocumentError):
        for events, _ in read_pieces(paths.events, skip=("metric", "progress", "text")):
            for event in events:
                match event:
                    case Artifact():
                        artifacts[event.path] = event
                    case CheckpointSaved():
                        checkpoints[event.path] = event
                    case Log(level="warning" | "error"):
                        warnings.append(event)
                    case _:
                        pass
    report.artifacts.extend(event for event in artifacts.values() if is_there(paths, event.path))
    report.checkpoints.extend(event for event in checkpoints.values() if is_there(paths, event.path))
    report.warnings.extend(warnings)


def list_files(folder: Path) -> dict[str, int]:
    """Entries of a run folder with their sizes in bytes; the name of a folder ends in /, and its size is the sum of its
    files. What this user may not read counts 0.
    """
    sizes: dict[str, int] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return {}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry):  # noqa: PTH112 - which says no where Path raises
            walk = os.walk(entry)  # which does not mind a checkpoint that goes away under it
            sizes[f"{entry.name}/"] = sum(_file_size(Path(folder, name)) for folder, _, names in walk for name in names)
        else:
            sizes[entry.name] = _file_size(entry)
    return sizes


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a checkpoint that is just being replaced
        return 0


def read_resolved(paths: RunPaths) -> dict[str, Any]:
    """Content of resolved.json; empty when there is none."""
    try:
        found = read_json(paths.resolved)
    except (OSError, DocumentError):
        return {}
    return found if isinstance(found, dict) else {}


def spec_or_problem(paths: RunPaths) -> tuple[RunSpec | None, str]:
    """The spec of a run, or None and why it cannot be read."""
    try:
        return read_spec(paths.spec, name=paths.spec.name), ""
    except HetSpecError as error:
        return None, "; ".join([error.message, *getattr(error, "problems", ())])


def is_there(paths: RunPaths, name: str) -> bool:
    """Whether a file or folder that a journal names exists; a journal may hold any text."""
    try:
        return (paths.folder / name).exists()
    except (OSError, ValueError):
        return False
