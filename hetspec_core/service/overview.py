"""The overview of one home: runs at work and in the queue, those that ended last, and what needs attention.

An `Observer` is asked repeatedly. It reads the journals of the runs at work each time, and the others only when run
folders appear or disappear or some time has passed, so that ten thousand finished runs cost nothing.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from hetspec_core.errors import NotFoundError
from hetspec_core.events.state import FINISHED
from hetspec_core.quantities import gigabytes
from hetspec_core.runs import Registry
from hetspec_core.service.checks import LITTLE_DISK_BYTES, NO_DISK_BYTES
from hetspec_core.service.planning.facts import existing_parent
from hetspec_core.service.report import RunSummary
from hetspec_core.service.workbench import Workbench

FULL_PERIOD_S = 10.0  # between looks at runs that are not known to be at work
MOST_SHOWN = 60
CURVE_POINTS = 120
KEY_METRICS = ("eval/accept_length", "accept_length", "loss", "eval/loss")
"""The key metric of a run is the first of these that has a curve."""

_PACE_S = 120.0  # progress over this time gives the speed
_ATTENTION_S = 7 * 86400.0


@dataclass(frozen=True)
class LiveRun:
    """A run at work.

    Attributes:
        summary: its line in lists.
        eta_s: seconds to its end at the pace of the last minutes; None = not known yet.
        metric: name of its key metric; empty = it has no curve.
        curve: values of that metric, downsampled; None = not finite.
    """

    summary: RunSummary
    eta_s: float | None = None
    metric: str = ""
    curve: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Concern:
    """Something that needs attention.

    Attributes:
        kind: failed, lost and unreadable are of a run; disk and registry are of this machine.
        text: what was found.
        hint: what to do.
        run: the run, if it is one.
    """

    kind: Literal["failed", "lost", "unreadable", "disk", "registry"]
    text: str
    hint: str = ""
    run: RunSummary | None = None


@dataclass(frozen=True)
class Overview:
    """The overview at one time.

    Attributes:
        total: number of runs that are not archived.
        counts: state -> number of them.
        active: at work, oldest first.
        queued: in the order of the queue, then those that are not in it.
        recent: those that ended last, newest first.
        concerns: what needs attention, most urgent first.
        free_bytes: free space on the disk of the data root.
    """

    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    active: tuple[LiveRun, ...] = ()
    queued: tuple[RunSummary, ...] = ()
    recent: tuple[RunSummary, ...] = ()
    concerns: tuple[Concern, ...] = ()
    free_bytes: int = 0


class Observer:
    """Observes the runs below one home at low cost. Several threads may use it, each with its own workbench."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_s = 0.0
        self._seen: tuple[int, frozenset[str]] | None = None
        self._counts: dict[str, int] = {}
        self._live: dict[str, RunSummary] = {}
        self._queued: list[RunSummary] = []
        self._recent: tuple[RunSummary, ...] = ()
        self._failed: list[RunSummary] = []
        self._paces: dict[str, tuple[tuple[int, str], deque[tuple[float, float]]]] = {}
        self._curves: dict[str, tuple[int | None, str, tuple[float | None, ...]]] = {}

    def look(self, workbench: Workbench, *, fully: bool = False) -> Overview:
        """The overview now; with `fully`, all runs are read, not only those at work."""
        with self._lock:
            seen = (_changed(workbench), workbench.queue.waiting_ids())
            if fully or seen != self._seen or time.monotonic() - self._looked_s >= FULL_PERIOD_S:
                workbench.registry.sync_all()
                self._read_all(workbench)
                self._seen, self._looked_s = seen, time.monotonic()
            elif not self._read_live(workbench):
                self._read_all(workbench)
            return self._overview(workbench)

    def _read_live(self, workbench: Workbench) -> bool:
        """Read the runs at work and in the queue; False when one changed its state, so that all must be read."""
        try:
            live = {run_id: workbench.summary(run_id) for run_id in self._live}
            queued = [workbench.summary(run.run_id) for run in self._queued]
        except NotFoundError:
            return False
        if any(run.state in FINISHED for run in live.values()) or any(run.state != "queued" for run in queued):
            return False
        self._live, self._queued = live, queued
        return True

    def _read_all(self, workbench: Workbench) -> None:
        census = workbench.registry.census(most=MOST_SHOWN)
        place = {entry.run_id: number for number, entry in enumerate(workbench.queue.entries())}
        self._live, queued, lost = {}, [], []
        counts = dict(census.counts)
        rows = [*census.unfinished, *(row for row in census.failed if row.run_id in place)]
        counted = {row.run_id: row.state for row in rows}
        for row, state in workbench.states(rows):
            if state != counted[row.run_id]:
                counts[counted[row.run_id]] = counts.get(counted[row.run_id], 0) - 1
                counts[state] = counts.get(state, 0) + 1
            summary = workbench.summary_of(row, state)
            if state == "queued":
                queued.append(summary)
            elif state == "lost":
                lost.append(summary)
            elif state not in FINISHED:
                self._live[row.run_id] = summary
        queued.sort(key=lambda run: (place.get(run.run_id, len(place)), run.created))
        self._queued = queued[:MOST_SHOWN]
        self._counts = {state: number for state, number in counts.items() if number > 0}
        ended = [workbench.summary_of(row, row.state) for row in census.ended if row.run_id not in place]
        self._recent = tuple(ended)
        known = [workbench.summary_of(row, row.state) for row in census.failed if row.run_id not in place]
        self._failed = sorted([*lost[:MOST_SHOWN], *known], key=lambda run: -(run.ended or run.created))
        self._paces = {run_id: pace for run_id, pace in self._paces.items() if run_id in self._live}
        self._curves = {run_id: curve for run_id, curve in self._curves.items() if run_id in self._live}

    def _overview(self, workbench: Workbench) -> Overview:
        now = time.time()
        free = shutil.disk_usage(existing_parent(workbench.roots.data)).free
        live = [
            LiveRun(run, self._eta(run, now), *self._curve(workbench, run))
            for run in list(self._live.values())[:MOST_SHOWN]
        ]
        return Overview(
            total=sum(self._counts.values()),
            counts=dict(self._counts),
            active=tuple(live),
            queued=tuple(self._queued),
            recent=self._recent,
            concerns=tuple(
                [*_disk_concern(free), *_registry_concern(workbench.registry), *_run_concerns(self._failed, now)]
            ),
            free_bytes=free // 10**8 * 10**8,  # coarse, so that an overview in which nothing happened equals the last
        )

    def _eta(self, run: RunSummary, now: float) -> float | None:
        if run.done is None or not run.total or run.started is None:
            return None
        kind = run.attempt, run.task
        known, pace = self._paces.get(run.run_id, (kind, deque()))
        if known != kind or (pace and run.done < pace[-1][1]):  # another task has another pace
            pace = deque()
        self._paces[run.run_id] = kind, pace
        if not pace or run.done > pace[-1][1]:
            pace.append((now, run.done))
        while len(pace) > 2 and pace[0][0] < now - _PACE_S:
            pace.popleft()
        if len(pace) < 2 or run.done >= run.total:
            return None
        (first, begun), (last, done) = pace[0], pace[-1]
        left = (run.total - done) * (last - first) / (done - begun) - (now - last)
        return float(round(left)) if left >= 0.5 else None  # it is later than its pace predicted

    def _curve(self, workbench: Workbench, run: RunSummary) -> tuple[str, tuple[float | None, ...]]:
        step, metric, values = self._curves.get(run.run_id, (-1, "", ()))
        if step == run.step:
            return metric, values
        names = set(workbench.registry.metric_names(run.run_id))
        metric, values = "", ()
        for name in (name for name in KEY_METRICS if name in names):
            points = workbench.registry.curve(run.run_id, name, most=CURVE_POINTS)
            if len(points) > len(values):
                metric, values = name, tuple(point.value for point in points)
            if len(values) > 1:
                break
        self._curves[run.run_id] = (run.step, metric, values)
        return metric, values


def _changed(workbench: Workbench) -> int:
    """When a run folder last appeared or disappeared."""
    try:
        return os.stat(workbench.roots.runs).st_mtime_ns  # noqa: PTH116 - once a second for as long as a screen is open
    except OSError:
        return 0


def _disk_concern(free: int) -> list[Concern]:
    if free >= LITTLE_DISK_BYTES:
        return []
    text = f"{gigabytes(free)} free on the disk of the runs"
    hint = "runs will fail" if free < NO_DISK_BYTES else "make room: hetspec-core runs trash --empty"
    return [Concern("disk", text, hint)]


def _registry_concern(registry: Registry) -> list[Concern]:
    if not registry.in_memory:
        return []
    return [Concern("registry", registry.trouble, "the run folders are read instead; cancel and kill work")]


def _run_concerns(runs: list[RunSummary], now: float) -> list[Concern]:
    found = []
    for run in runs:
        if now - (run.ended or run.created) > _ATTENTION_S:
            continue
        if run.state == "failed":
            error = run.error or {}
            found.append(Concern("failed", error.get("message") or "the run failed", error.get("hint", ""), run))
        elif run.state == "unreadable":
            error = run.error or {}
            found.append(Concern("unreadable", error.get("message", ""), error.get("hint", ""), run))
        else:
            found.append(Concern("lost", "its process exited without an end event", "r resumes it", run))
    return found
