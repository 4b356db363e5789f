"""The news of one run (events as sentences, workers, checkpoints, artifacts), and its post-mortem.

The reader continues in the two journals where it stopped, and leaves metrics and progress to the registry. The
post-mortem is the error of a run, the ends of its workers and the last lines of a log.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace

from hetspec_core.documents import DocumentError
from hetspec_core.errors import Failure, recognise
from hetspec_core.events import (
    Artifact,
    CancelAsked,
    CheckpointSaved,
    DependencyFailed,
    Event,
    FoundLost,
    Launched,
    Log,
    Marked,
    Metric,
    Moved,
    Progress,
    Result,
    RunEnded,
    RunStarted,
    Submitted,
    Text,
    Unknown,
    WorkerEnded,
    read_pieces,
)
from hetspec_core.events.state import FINISHED
from hetspec_core.paths import RunPaths
from hetspec_core.process import signal_name
from hetspec_core.service.logs import LogFile
from hetspec_core.service.report import RunSummary, is_there
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import clean_line, plain

STATE_PERIOD_S = 0.5
_SKIPPED = ("metric", "progress", "text")


@dataclass(frozen=True)
class WorkerFacts:
    """One worker of one attempt; a negative `exit_status` is a signal, None = not (yet) known."""

    name: str
    attempt: int
    pid: int | None = None
    host: str = ""
    started: float | None = None
    ended: float | None = None
    exit_status: int | None = None


@dataclass(frozen=True)
class RunNews:
    """A run now, and its events since the last look.

    Attributes:
        summary: the run now.
        sentences: one line for each event: time, worker, text; without control characters.
        workers: all workers of all attempts, newest attempt first.
        checkpoints, artifacts: the newest event of each path.
        has_results: whether there is a result.
        metrics: names of its metrics.
    """

    summary: RunSummary
    sentences: list[str]
    workers: list[WorkerFacts]
    checkpoints: list[CheckpointSaved]
    artifacts: list[Artifact]
    has_results: bool
    metrics: list[str]


@dataclass
class RunReader:
    """Reads the news of one run repeatedly. Used by one thread at a time.

    Args:
        run_id: which.
    """

    run_id: str
    _offsets: dict[str, int] = field(default_factory=dict)
    _workers: dict[tuple[int, str], WorkerFacts] = field(default_factory=dict)
    _checkpoints: dict[str, CheckpointSaved] = field(default_factory=dict)
    _artifacts: dict[str, Artifact] = field(default_factory=dict)
    _results: bool = False
    _attempt: int = 0
    _next_look: float = 0.0
    _last: RunSummary | None = None

    def look(self, workbench: Workbench) -> RunNews | None:
        """The news; None when nothing is new. The first look gives all events.

        Raises:
            NotFoundError: there is no such run.
        """
        paths = workbench.paths(self.run_id)
        grown = any(_size(paths, name) != self._offsets.get(name, -1) for name in ("desk", "events"))
        now = time.monotonic()
        if not grown and now < self._next_look:
            return None
        self._next_look = now + STATE_PERIOD_S
        summary = workbench.summary(self.run_id)
        if not grown and summary == self._last:
            if summary.state in FINISHED:
                self._next_look = now + 4 * STATE_PERIOD_S
            return None
        self._last = summary
        events = sorted(self._new(paths, "desk") + self._new(paths, "events"), key=lambda event: event.time)
        sentences = []
        for event in events:
            self._fold(event)
            if text := sentence(event):
                sentences.append(text)
        workers = sorted(self._workers.values(), key=lambda one: (-one.attempt, one.name))
        return RunNews(
            summary,
            sentences,
            workers,
            [one for one in self._checkpoints.values() if is_there(paths, one.path)],
            [one for one in self._artifacts.values() if is_there(paths, one.path)],
            self._results,
            workbench.registry.metric_names(self.run_id),
        )

    def _new(self, paths: RunPaths, name: str) -> list[Event]:
        found: list[Event] = []
        if _size(paths, name) < 0:  # it is made with its first event
            return found
        journal = paths.desk if name == "desk" else paths.events
        try:
            for events, offset in read_pieces(journal, max(0, self._offsets.get(name, 0)), skip=_SKIPPED):
                found += events
                self._offsets[name] = offset
        except (OSError, DocumentError):  # its summary says why
            self._offsets[name] = _size(paths, name)
        return found

    def _fold(self, event: Event) -> None:
        match event:
            case Launched():
                self._attempt = max(self._attempt, event.attempt)
                key = (event.attempt, "supervisor")
                self._workers[key] = WorkerFacts("supervisor", event.attempt, event.pid, event.host, event.time)
            case RunStarted():
                self._attempt = max(self._attempt, event.attempt)
                key = (event.attempt, event.worker)
                known = self._workers.get(key) or WorkerFacts(event.worker, event.attempt)
                self._workers[key] = replace(known, pid=event.pid, host=event.host, started=event.time)
            case WorkerEnded():
                key = (event.attempt, event.name)
                known = self._workers.get(key) or WorkerFacts(event.name, event.attempt)
                self._workers[key] = replace(known, ended=event.time, exit_status=event.exit_status)
            case CheckpointSaved():
                self._checkpoints[event.path] = event
            case Artifact():
                self._artifacts[event.path] = event
            case Result():
                self._results = True
            case _:
                pass


def sentence(event: Event) -> str:
    """One event as a line; empty for metrics, progress and text, which are shown elsewhere."""
    text = event_text(event)
    if not text:
        return ""
    clock = _clock(event.time) if event.time else "-"
    line = f"{clock}  {event.worker or '-':<10}  {text}"
    return plain(clean_line(" ⏎ ".join(line.split("\n")).encode(errors="replace")))


def _clock(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):  # a journal may hold any number
        return "-"


def event_text(event: Event) -> str:
    """What an event says, without its time and worker; empty for metrics, progress and text."""
    match event:
        case Submitted():
            after = f", after {', '.join(event.after)}" if event.after else ""
            return f"submitted from {event.folder or event.host}{after}"
        case DependencyFailed():
            return f"attempt {event.attempt} waited for {event.run_id}, which did not succeed"
        case Launched():
            return f"attempt {event.attempt} launched, supervisor {event.pid} on {event.host}"
        case RunStarted():
            versions = ", ".join(f"{name} {value}" for name, value in event.versions.items())
            return f"attempt {event.attempt} started, process {event.pid} on {event.host}; {versions}".rstrip("; ")
        case Log():
            return event.message if event.level == "info" else f"{event.level.upper()} {event.message}"
        case CheckpointSaved():
            return f"checkpoint of step {event.step:,}: {event.path}{' (best so far)' if event.best else ''}"
        case Artifact():
            return f"made {event.kind}: {event.path}"
        case Result():
            return f"result of {event.kind}"
        case RunEnded():
            return f"ended: {event.state}" + (f"; ERROR {event.error.message}" if event.error else "")
        case CancelAsked():
            return "asked to be killed" if event.forced else "asked to stop at the next safe point"
        case WorkerEnded():
            return f"{event.name} ended with {exit_words(event.exit_status)}"
        case FoundLost():
            return f"ERROR found lost: {exit_words(event.exit_status)}"
        case Marked():
            return _marked(event)
        case Moved():
            return f"moved to {event.to}"
        case Unknown():
            return f"an event that this version does not know: {event.type or 'a torn line'}"
        case Metric() | Progress() | Text():
            return ""


def _marked(event: Marked) -> str:
    parts = [f"+{tag}" for tag in event.add_tags] + [f"-{tag}" for tag in event.remove_tags]
    if event.note is not None:
        parts.append(f"note {event.note!r}" if event.note else "no note")
    if event.starred is not None:
        parts.append("starred" if event.starred else "not starred")
    if event.archived is not None:
        parts.append("archived" if event.archived else "not archived")
    return "labelled: " + ", ".join(parts)


def exit_words(status: int | None) -> str:
    """An exit status in words: status 1, signal SIGKILL (9), or an unknown status."""
    if status is None:
        return "an unknown status"
    if status >= 0:
        return f"status {status}"
    name = signal_name(-status)
    return name if name.startswith("signal ") else f"signal {name} ({-status})"


def _size(paths: RunPaths, name: str) -> int:
    try:
        return (paths.desk if name == "desk" else paths.events).stat().st_size
    except OSError:
        return -1


TAIL_LINES = 50
_TRACEBACK_LINES = 30


@dataclass(frozen=True)
class PostMortem:
    """What is known of the end of a run.

    Attributes:
        summary: the run now.
        workers: those of the newest attempt.
        log: name of the log that `tail` is of; empty when there is none.
        tail: its last lines, without colours.
        traceback: the end of the last traceback in it, from its first line on that is in the tail.
        recognised: a failure that is known by its text.
    """

    summary: RunSummary
    workers: list[WorkerFacts]
    log: str
    tail: list[str]
    traceback: list[str]
    recognised: Failure | None

    def to_text(self) -> str:
        """The post-mortem as lines to read and copy."""
        run = self.summary
        parts = [f"run {run.run_id} {run.name}".rstrip() + f" is {run.state}"]
        if run.error:
            parts.append(f"{run.error['kind']}: {run.error['message']}")
        ended = [one for one in self.workers if one.exit_status is not None]
        parts += [f"{one.name} ended with {exit_words(one.exit_status)}" for one in ended]
        if self.recognised is not None:
            parts.append(f"recognised: {self.recognised.message}")
        hints = dict.fromkeys((run.error["hint"] if run.error else "", self.recognised.hint if self.recognised else ""))
        parts += [f"what to do: {hint}" for hint in hints if hint]
        if self.traceback:
            parts += ["", "the end of the traceback:", *self.traceback]
        parts += ["", f"the last {len(self.tail)} lines of {self.log}:", *self.tail] if self.tail else ["", "no log"]
        return "\n".join(parts)


def post_mortem(workbench: Workbench, run_id: str) -> PostMortem:
    """The post-mortem of a run, also of one at work.

    Raises:
        NotFoundError: there is no such run.
    """
    summary = workbench.summary(run_id)
    news = RunReader(run_id).look(workbench)
    workers = [one for one in news.workers if one.attempt == summary.attempt] if news else []
    paths = workbench.paths(run_id)
    failed = [one.name for one in workers if one.exit_status]
    names = [*failed, "worker-0", "supervisor"]
    log, tail = "", []
    for name in names:
        tail = [plain(line) for line in LogFile(paths.log(name)).tail(TAIL_LINES)]
        if tail:
            log = f"{name}.log"
            break
    return PostMortem(summary, workers, log, tail, last_traceback(tail), recognise("\n".join(tail)))


def last_traceback(lines: list[str]) -> list[str]:
    """The last traceback in some lines, up to the line that names the exception; of a long one its last lines."""
    start = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].lstrip("| ").startswith("Traceback (")), None)
    if start is None:
        return []
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
        end += 1
    found = lines[start : end + 1]
    if end < len(lines) and not re.match(r"[\w.]+(?:$|:)", lines[end]):
        found = lines[start:end]
    return found[:1] + found[1:][-_TRACEBACK_LINES:]


def log_names(workbench: Workbench, run_id: str) -> list[str]:
    """Names of a run's logs without their suffix: the workers' in order, then the supervisor's."""
    try:
        found = [path.stem for path in workbench.paths(run_id).logs.iterdir() if path.suffix == ".log"]
    except OSError:
        return []
    return sorted(found, key=lambda name: (name == "supervisor", len(name), name))
