"""The workers of an attempt while they are at work: which is started again, which end together, and why one ended.

A group has the rules of its kind. The supervisor handles signals from outside and writes the end of the run.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hetspec_core.errors import Cancelled, ResourceError, StageFailed, recognise
from hetspec_core.events import ErrorInfo
from hetspec_core.jobs.workers import GroupKind, WorkerProcess, kill_orphans
from hetspec_core.process import signal_name

RETRIES = 3
"""How often a worker that makes a share is started again."""
BACKOFF_S = 0.5
"""Seconds before the first of these starts; twice as many before each further one."""
SETTLE_S = 3.0
"""Seconds that ranks have to report their own endings after one has failed; they cannot go on without it."""
LEAVE_S = 15.0
"""Seconds for the rest of a group that stops: for ranks since the first ended, for any worker since its report."""
FAILED_GRACE_S = 60.0
"""Seconds that the other shares have to reach a safe point after one has failed for good."""

_PASSING = frozenset({"crash", "cancelled", "ResourceError", "StageFailed"})
"""Kinds of errors after which a new start of the worker can help; the others say what is wrong with the spec."""

_ECHO = re.compile(
    r"connection (closed|reset|refused|was closed)|broken pipe|nccl|distbackend|distnetwork|distributed package|gloo"
    r"|processgroup|process group|tcpstore|socket|watchdog caught collective|heartbeat monitor|store->|peer closed"
    r"|remote process|unhandled system error",
    re.IGNORECASE,
)
"""What a rank reports after another rank has ended."""


class WorkerGroup:
    """Workers at work.

    Args:
        kind: the rules.
        workers: the workers; `alone` is one.
        warn: shows a warning to the reader of the run.

    Attributes:
        endings: the newest bad ending of each worker that reports, by name; those that started again are left out.
        statuses: exit status of each worker that has ended, by name.
    """

    def __init__(self, kind: GroupKind, workers: list[WorkerProcess], warn: Callable[[str], None]) -> None:
        self.kind: GroupKind = kind
        self.workers = workers
        self.endings: dict[str, Ending] = {}
        self.statuses: dict[str, int] = {}
        self._warn = warn
        self._stopping = False
        self._deadline: float | None = None
        self._due: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._killed: set[str] = set()

    @property
    def pids(self) -> set[int]:
        """Process ids of those at work."""
        return {worker.pid for worker in self.workers if worker.pid}

    @property
    def is_over(self) -> bool:
        """Whether no worker is at work or to be started again."""
        return not self.pids and not self._due

    @property
    def has_failed(self) -> bool:
        """Whether a worker ended badly and is not started again."""
        return bool(self.endings)

    def begin(self) -> None:
        """Start all of them; if one cannot be started, the others are killed."""
        for worker in self.workers:
            if not self._start(worker):
                self._cut_short(0.0)
                return

    def stop(self, grace_s: float) -> None:
        """Ask all of them to stop, and kill those that have not after so many seconds."""
        self._due.clear()
        if not self._stopping:
            self._stopping = True
            for worker in self.workers:
                worker.request_stop()
        self._cut_short(grace_s)

    def poll(self) -> float:
        """Reap workers that have ended, start those that are due, kill those whose time is over.

        Returns:
            Seconds until the next call is needed.
        """
        for worker in self.workers:
            if worker.has_ended():
                self._reap(worker)
            elif worker.pid and worker.report() is not None:
                self._end_reported(worker)
        now = time.monotonic()
        for worker in self.workers:
            if self._due.get(worker.name, now + 1) <= now:
                del self._due[worker.name]
                self._start(worker)
        if self._deadline is not None and now >= self._deadline:
            for worker in self.workers:
                self._kill(worker)
        soon = [*self._due.values(), *(deadline for deadline in [self._deadline] if deadline is not None)]
        return max(0.05, min(soon, default=now + 60.0) - now)

    def _start(self, worker: WorkerProcess) -> bool:
        try:
            worker.start()
        except OSError as reason:
            self.endings[worker.name] = Ending(worker.name, time.time(), cannot_start(reason))
            return False
        self._reported.pop(worker.name, None)
        if self._stopping:  # it was due when all were asked to stop
            worker.request_stop()
        return True

    def _reap(self, worker: WorkerProcess) -> None:
        seen = time.time()
        self.statuses[worker.name] = status = worker.reap()
        if self.kind == "alone":
            return
        kill_orphans(worker.name, self.pids)
        ending = ending_of(worker, status, seen)
        if ending.error is None:
            self.endings.pop(worker.name, None)
        elif self.kind == "shares":
            self._start_again(worker, replace(ending, is_echo=False))  # shares do not depend on each other
        else:
            ended_here = worker.name in self._killed and not ending.is_reported
            self.endings[worker.name] = replace(ending, is_echo=ending.is_echo or ended_here)
            leaves = self._stopping or ending.error.kind == "cancelled"  # as when another machine's rank was asked
            self._cut_short(LEAVE_S if leaves else SETTLE_S)

    def _start_again(self, worker: WorkerProcess, ending: Ending) -> None:
        """Start the worker of a share again, if that may help; else stop the others too."""
        if self._stopping or self.endings:
            self.endings.setdefault(worker.name, ending)
            return
        again = worker.starts
        if not ending.is_passing or again > RETRIES:
            self.endings[worker.name] = with_worker(ending, worker.starts)
            self.stop(FAILED_GRACE_S)
            return
        wait_s = BACKOFF_S * 2 ** (again - 1)
        self._due[worker.name] = time.monotonic() + wait_s
        error = with_worker(ending).error
        self._warn(f"{error.message if error else ''}; its share is taken up again ({again} of {RETRIES} times)")

    def _end_reported(self, worker: WorkerProcess) -> None:
        """Kill a worker that does not exit after its report, e.g. a rank that waits for another that has ended."""
        since = self._reported.setdefault(worker.name, time.monotonic())
        if time.monotonic() - since > LEAVE_S:
            self._kill(worker)

    def _kill(self, worker: WorkerProcess) -> None:
        if worker.pid:
            self._killed.add(worker.name)
            worker.kill()

    def _cut_short(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        self._deadline = limit if self._deadline is None else min(self._deadline, limit)


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        worker: its name.
        time: of its report, or when it was seen to have ended; unix seconds.
        error: None = it succeeded.
        is_echo: whether it looks like a consequence of another worker's ending.
        is_reported: whether the worker reported it itself.
    """

    worker: str
    time: float
    error: ErrorInfo | None
    is_echo: bool = False
    is_reported: bool = True

    @property
    def is_passing(self) -> bool:
        """Whether the same worker, started again, may succeed."""
        return self.error is not None and self.error.kind in _PASSING


def stopped() -> ErrorInfo:
    """The error of a run that was asked to stop, when no worker reports it."""
    return ErrorInfo(
        kind="cancelled", message="the worker was ended before a safe point", exit_code=Cancelled.exit_code
    )


def cannot_start(reason: OSError) -> ErrorInfo:
    """The error of a run whose worker could not be started."""
    return _error(ResourceError, f"no worker could be started: {reason}", "")


def ending_of(worker: WorkerProcess, status: int, seen: float) -> Ending:
    """How a reaped worker ended: by its report, else by its exit status and its log.

    Args:
        worker: one that leaves a report.
        status: its exit status; negative = a signal.
        seen: when it was found to have ended.
    """
    report = worker.report()
    if report is None:
        error = explain(worker, status)
        aborted = status == -signal.SIGABRT and _ECHO.search(error.message) is not None
        return Ending(worker.name, seen, error, is_echo=aborted, is_reported=False)
    is_echo = report.error is not None and _ECHO.search(report.error.message) is not None
    return Ending(worker.name, report.time, report.error, is_echo=is_echo)


def explain(worker: WorkerProcess, status: int, who: str = "") -> ErrorInfo:
    """The error of a worker without a report, from its exit status and its log."""
    who = who or worker.name
    again = "what was written before is intact: resume the run"
    how = f"was killed by {signal_name(-status)}" if status < 0 else f"ended with status {status} without a report"
    if status == -signal.SIGKILL and worker.saw_memory_end():
        message = f"the kernel killed {who}, because the machine was out of memory"
        hint = "lower tokens_per_batch or generation_batch, or free memory; then resume the run"
        return _error(ResourceError, message, hint)
    failure = recognise(worker.last_words())
    if failure is None and worker.saw_full_disk():
        message = f"the disk of the run folder is full, and {who} could not say more"
        return _error(ResourceError, message, f"make room; {again}")
    if failure is None:
        return _error(StageFailed, f"{who} {how}", again)
    return _error(StageFailed, f"{who} {how}: {failure.message}", failure.hint)


def first_cause(endings: list[Ending]) -> Ending:
    """The bad ending that caused the others: the earliest that does not look like an echo, else the earliest."""

    def rank(ending: Ending) -> tuple[bool, bool, float]:
        is_stop = ending.error is not None and ending.error.kind == "cancelled"
        return ending.is_echo, is_stop, ending.time

    return min(endings, key=rank)


def with_worker(ending: Ending, starts: int = 1) -> Ending:
    """The same, with the name of the worker in its message, and how often it was started."""
    assert ending.error is not None
    message = ending.error.message
    if not message.startswith(ending.worker):
        message = f"{ending.worker}: {message}"
    if starts > 1:
        message += f" on each of {starts} starts"
    return replace(ending, error=replace(ending.error, message=message))


def _error(kind: type[ResourceError | StageFailed], message: str, hint: str) -> ErrorInfo:
    return ErrorInfo(kind=kind.__name__, message=message, hint=hint, exit_code=kind.exit_code)
