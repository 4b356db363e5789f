"""The state of a run: a pure function of its two journals and of whether its process lives.

The journals are folded into a few facts, event by event. The two journals may be read in any order, because the facts
of one never overwrite those of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from hetspec_core.documents import DocumentError
from hetspec_core.events.journal import BULK, read_pieces
from hetspec_core.events.models import (
    CancelAsked,
    EndState,
    ErrorInfo,
    Event,
    FoundLost,
    Launched,
    Progress,
    RunEnded,
    RunStarted,
    Submitted,
)
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity

RunState = Literal["queued", "starting", "running", "succeeded", "failed", "cancelled", "lost", "unreadable"]
STATES: tuple[RunState, ...] = get_args(RunState)
FINISHED: frozenset[RunState] = frozenset({"succeeded", "failed", "cancelled", "lost"})
AT_WORK: frozenset[RunState] = frozenset({"starting", "running"})
UNFINISHED: frozenset[RunState] = frozenset({"queued", "starting", "running"})
UNREADABLE: RunState = "unreadable"
"""State of a run whose folder cannot be read; it can be shown and deleted, and nothing else."""


@dataclass(frozen=True)
class RunFacts:
    """What the journals record of the run's latest attempts.

    Attributes:
        created: when the desk made the folder (unix seconds).
        launched: newest attempt that a supervisor took; 0 = none.
        launched_process: the supervisor.
        started: newest attempt whose worker began; 0 = none.
        started_process: the worker.
        first_start: when the first attempt began.
        ended: newest attempt with an end event; 0 = none.
        end_state, error, end_time: how, why and when that was.
        cancel: newest attempt that was asked to stop; -1 = none, 0 = asked before any start.
        lost: newest attempt found without a supervisor; 0 = none.
        exit_status: its exit status if it was seen; negative = a signal.
        parts: of tasks that several workers share, how far each is (`events.Tally`).
        unreadable: whether the folder could not be read, so that nothing else is known.
    """

    created: float | None = None
    launched: int = 0
    launched_process: ProcessIdentity | None = None
    started: int = 0
    started_process: ProcessIdentity | None = None
    first_start: float | None = None
    ended: int = 0
    end_state: EndState | None = None
    error: ErrorInfo | None = None
    end_time: float | None = None
    cancel: int = -1
    lost: int = 0
    exit_status: int | None = None
    parts: dict[str, dict[str, tuple[float, float | None]]] = field(default_factory=dict)
    unreadable: bool = False

    @property
    def attempt(self) -> int:
        """Number of the newest attempt, 0 when there is none. A run that waited for others may end without a start."""
        return max(self.launched, self.started, self.ended)

    @property
    def is_supervised(self) -> bool:
        """Whether `process` is a supervisor, which holds the lock of the run folder."""
        return self.launched == self.attempt

    @property
    def process(self) -> ProcessIdentity | None:
        """Process that keeps the newest attempt: its supervisor, or a worker that was started without one."""
        return self.launched_process if self.is_supervised else self.started_process


def fold(facts: RunFacts, event: Event) -> RunFacts:
    """The facts after one more event of either journal."""
    match event:
        case Submitted():
            return replace(facts, created=event.time)
        case Launched() if event.attempt >= facts.launched:
            process = ProcessIdentity(event.pid, event.birth, event.host)
            return replace(facts, launched=event.attempt, launched_process=process)
        case RunStarted() if event.attempt >= facts.started:
            process = ProcessIdentity(event.pid, event.birth, event.host)
            first = event.time if facts.first_start is None else facts.first_start
            return replace(facts, started=event.attempt, started_process=process, first_start=first)
        case RunEnded():
            return replace(
                facts,
                ended=event.attempt or facts.started,
                end_state=event.state,
                error=event.error,
                end_time=event.time,
            )
        case CancelAsked():
            return replace(facts, cancel=max(facts.cancel, event.attempt))
        case FoundLost() if event.attempt >= facts.lost:
            return replace(facts, lost=event.attempt, exit_status=event.exit_status)
        case _:
            return facts


def read_facts(paths: RunPaths) -> RunFacts:
    """The facts of the two journals of a run; a journal that cannot be read adds none."""
    facts = RunFacts()
    for path in (paths.desk, paths.events):
        try:
            for events, _ in read_pieces(path, skip=BULK):
                for event in events:
                    facts = fold(facts, event)
        except (OSError, DocumentError):
            continue
    return facts


def derive_state(facts: RunFacts, is_alive: Callable[[ProcessIdentity], bool | None]) -> RunState:
    """The state of a run.

    Args:
        facts: both journals, folded.
        is_alive: whether a process lives and works in this folder; None = unknown, which counts as yes.
    """
    if facts.unreadable:
        return UNREADABLE
    attempt = facts.attempt
    if attempt == 0:
        return "cancelled" if facts.cancel == 0 else "queued"
    if facts.ended == attempt and facts.end_state is not None:
        return facts.end_state
    process = facts.process
    has_ended = facts.lost >= attempt or process is None or is_alive(process) is False
    if has_ended:  # a run that was asked to stop and has no process any more was killed after its grace time
        return "cancelled" if facts.cancel == attempt else "lost"
    return "running" if facts.started == attempt else "starting"


Amounts = dict[str, tuple[float, float | None]]
"""Worker -> done and total of its share."""


class Tally:
    """How far shared tasks are, worker by worker and in all.

    Args:
        parts: what an earlier tally had found, as its `parts`.

    Attributes:
        parts: task -> worker -> (done, total).
    """

    def __init__(self, parts: Mapping[str, Mapping[str, tuple[float, float | None]]] | None = None) -> None:
        self.parts: dict[str, Amounts] = {task: dict(amounts) for task, amounts in (parts or {}).items()}

    def add(self, event: Progress) -> Progress:
        """Count one event in; returns how far the whole task is. One that is not shared comes back as it is.

        A worker without progress so far counts with the average of the others, so that the total is about right
        from the first event on.
        """
        if event.prepares:
            return event
        if event.workers <= 1:
            self.parts.pop(event.task, None)  # one worker does the task now
            return event
        amounts = self.parts.setdefault(event.task, {})
        amounts[event.worker] = (event.done, event.total)
        totals = [total for _, total in amounts.values() if total is not None]
        done, known = sum(done for done, _ in amounts.values()), len(totals) == len(amounts)
        total = sum(totals) * event.workers / len(amounts) if known else None
        if total is not None:
            total = float(round(total)) if len(amounts) < event.workers else total
        at_work = f"{len(amounts)} of {event.workers} workers" if len(amounts) < event.workers else ""
        return replace(event, done=done, total=total, worker="", workers=1, note=at_work)

    def show(self, event: Progress) -> list[Progress]:
        """What a reader is shown of an event: of a shared task the worker's own progress, by name, and that of all."""
        if event.workers <= 1 or event.prepares:
            return [self.add(event)]
        own = replace(event, task=f"{event.task} ({event.worker})", workers=1)
        return [own, self.add(event)]
