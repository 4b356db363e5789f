"""Why a run has failed, as far as can be seen: its error, how its workers ended, and the end of their logs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hetspec_core.failures import Failure, recognise
from hetspec_core.service.library import Library
from hetspec_core.service.logs import LogFile
from hetspec_core.service.report import RunSummary
from hetspec_core.service.run_news import RunReader, WorkerFacts, exit_words
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import plain

TAIL_LINES = 50
_TRACEBACK_LINES = 30


@dataclass(frozen=True)
class PostMortem:
    """What is known of the end of a run.

    Attributes:
        summary: how it is.
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
        """All of it as lines to read and copy."""
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
    """What is known of the end of a run, also while it works.

    Raises:
        NotFoundError: there is no such run.
    """
    summary = Library(workbench).summary(run_id)
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
    """The last traceback among lines: to the line that names the exception, at most its last lines."""
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
