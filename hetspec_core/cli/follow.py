"""How a command follows a run: progress bars on a terminal, plain lines in a pipe, or the events as JSON lines.

Ctrl-C asks the run to stop at its next safe point and waits for it; a second one kills it. The end of a run becomes the
end of the command: a failed run raises its own error.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hetspec_core import errors
from hetspec_core.cli.console import error_console, format_number, note, print_json
from hetspec_core.errors import Cancelled, HetSpecError, RunError, StageFailed
from hetspec_core.events import (
    CheckpointSaved,
    ErrorInfo,
    Event,
    FoundLost,
    Log,
    Metric,
    Progress,
    RunEnded,
)
from hetspec_core.jobs import PARENT_ENDED
from hetspec_core.quantities import format_duration
from hetspec_core.service.run_news import event_text, exit_words
from hetspec_core.service.workbench import RESUMABLE

if TYPE_CHECKING:
    from rich.progress import TaskID

    from hetspec_core.config.resolve import Resolved
    from hetspec_core.service.report import RunReport, RunSummary
    from hetspec_core.service.workbench import Workbench
    from hetspec_core.spec import RunSpec


class Interrupts:
    """Counts SIGINT instead of raising KeyboardInterrupt, so that no event is lost while the run is asked to stop."""

    def __init__(self) -> None:
        self.count = 0
        self._seen = 0

    def take(self) -> bool:
        """Whether there was another since the last call."""
        new, self._seen = self.count > self._seen, self.count
        return new

    def __enter__(self) -> Interrupts:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _count(self, number: int, frame: object) -> None:
        self.count += 1


LINE_PERIOD_S = 2.0
POLL_S = 0.1
_LEVEL_STYLES = {"debug": "dim", "info": "", "warning": "yellow", "error": "red"}


DetachOption = Annotated[
    bool | None,
    typer.Option(
        "--detach/--wait", help="Return once the run has started, or follow it to its end; on a terminal it returns."
    ),
]


def is_detached(detach: bool | None, *, json: bool) -> bool:
    """Whether a command returns once its run has started: as asked, else on a terminal unless --json is given."""
    return not json and error_console().is_terminal if detach is None else detach


def launch_detached(workbench: Workbench, asked: RunSpec | Resolved, *, json: bool = False, quiet: bool = False) -> str:
    """Submit and start a run, and say how to follow it unless `quiet`; returns its id."""
    run_id = workbench.submit(asked).run_id
    workbench.start(run_id)
    if not quiet:
        leave(workbench, run_id, json=json)
    return run_id


def leave(workbench: Workbench, run_id: str, *, json: bool = False) -> None:
    """Say how to follow a run that was started."""
    state = workbench.state(run_id)
    if json:
        print_json({"run_id": run_id, "state": state, "folder": str(workbench.paths(run_id).folder)})
        return
    if state == "queued":
        note(f"run {run_id} is {(workbench.waits(run_id) or 'waits').replace('waits', 'waiting', 1)}")
    else:
        note(f"run {run_id} is at work in {workbench.paths(run_id).folder}")
    note(f"follow it: hetspec-core runs follow {run_id}")


def launch(
    workbench: Workbench,
    asked: RunSpec | Resolved,
    *,
    json: bool = False,
    quiet: bool = False,
    view: View | None = None,
) -> RunReport:
    """Submit a run, start it, follow it to its end, and return its report.

    Args:
        workbench: where.
        asked: what; with it, where each value came from, when that is known.
        json: write the events to stdout, one JSON object a line, instead of progress to stderr.
        quiet: write nothing.
        view: what draws the events, instead of the usual choice.

    Raises:
        StageFailed: it failed, with the worker's message and exit status; or its worker exited without an end event.
        Cancelled: it was stopped; the hint says how to go on.
    """
    run_id = workbench.submit(asked).run_id
    with Interrupts() as interrupts:  # from before the start: Ctrl-C must not leave a worker that nobody follows
        workbench.start(run_id)
        if not (json or quiet) and workbench.state(run_id) == "queued":
            note(f"run {run_id} {workbench.waits(run_id) or 'waits'}; the queue: hetspec-core runs queue")
        _follow(workbench, run_id, interrupts, json=json, quiet=quiet, view=view)
    return workbench.show(run_id)


def follow(
    workbench: Workbench, run_id: str, *, json: bool = False, quiet: bool = False, view: View | None = None
) -> None:
    """Show a run until it ends. Arguments and errors as in `launch`."""
    with Interrupts() as interrupts:
        _follow(workbench, run_id, interrupts, json=json, quiet=quiet, view=view)


def _follow(
    workbench: Workbench, run_id: str, interrupts: Interrupts, *, json: bool, quiet: bool, view: View | None
) -> None:
    if view is not None:
        quiet = True
    elif json:
        view = JsonView()
    elif quiet:
        view = View()
    elif error_console().is_terminal:
        view = TerminalView()
    else:
        view = PlainView()
    watch = workbench.watch(run_id)
    first: Event | None = None
    last: Event | None = None
    with view:
        view.note(f"run {run_id} in {workbench.paths(run_id).folder}")
        while not watch.done:
            if interrupts.take():
                _stop(workbench, run_id, view, force=interrupts.count > 1)
            events = watch.poll()
            for event in events:
                view.show(event)
                first, last = first or event, event
            if not events:
                time.sleep(POLL_S)
    workbench.wait(run_id)
    _raise_end(workbench.show(run_id).summary, last, str(workbench.paths(run_id).log(_speaker(last))))
    if not json and not quiet and first is not None and last is not None:
        took = format_duration(last.time - first.time)
        error_console().print(f"run {run_id} succeeded in {took}", style="green", soft_wrap=True)


def _speaker(last: Event | None) -> str:
    """The worker whose log is named: the one that failed, else the first."""
    return last.worker if isinstance(last, RunEnded) and last.worker.startswith("worker-") else "worker-0"


def _stop(workbench: Workbench, run_id: str, view: View, *, force: bool) -> None:
    if force:
        view.note("killing the run")
    else:
        view.note("stopping at the next safe point; Ctrl-C again kills the run")
    with contextlib.suppress(RunError):  # it has just ended by itself
        workbench.cancel(run_id, force=force)


def _raise_end(summary: RunSummary, last: Event | None, log: str) -> None:
    again = f"go on with it: hetspec-core runs resume {summary.run_id}" if summary.stage in RESUMABLE else ""
    if summary.state == "cancelled":
        said = summary.error
        if said is not None and said["kind"] == PARENT_ENDED:
            raise Cancelled(f"run {summary.run_id} was not started: {said['message']}", hint=said["hint"])
        raise Cancelled(f"run {summary.run_id} was stopped", hint=again)
    error = last.error if isinstance(last, RunEnded) else None
    if isinstance(last, RunEnded) and error is not None:
        raise _failure(error, log, again)
    if isinstance(last, FoundLost):
        reason = "" if last.exit_status is None else f": {exit_words(last.exit_status)}"
        raise StageFailed(
            f"the worker of run {summary.run_id} exited without an end event{reason}",
            hint="; ".join(part for part in (f"its log: {log}", again) if part),
        )


def _failure(error: ErrorInfo, log: str, again: str) -> HetSpecError:
    """The worker's error as it was raised there; a crash, or a kind of a newer version, as a failed stage."""
    # A StageFailed comes from the supervisor: the run is not at fault, so it can be resumed.
    resume = again if error.kind == StageFailed.__name__ else ""
    hint = "; ".join(part for part in (error.hint, f"log: {log}", resume) if part)
    kind = getattr(errors, error.kind, None)
    if isinstance(kind, type) and issubclass(kind, HetSpecError):
        return kind(error.message, hint=hint)
    return StageFailed(error.message, hint=hint)


# --- views -------------------------------------------------------------------------------------------------------


class View:
    """Shows the events of a run that is followed. This one shows nothing."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def note(self, message: str) -> None:
        """Print a remark of the command."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class JsonView(View):
    """Every event as one line of JSON on stdout."""

    def show(self, event: Event) -> None:
        """Print the event."""
        print_json(event.to_json(), lines=True)


class PlainView(View):
    """Lines on stderr: of a task at most one in two seconds, and always its last."""

    def __init__(self) -> None:
        self._written: dict[str, float] = {}
        self._held: dict[str, str] = {}

    def show(self, event: Event) -> None:
        """Print the event, or hold it back."""
        if isinstance(event, Progress):
            finished = event.total is not None and event.done >= event.total
            self._line(f"progress {event.task}", progress_line(event), finished)
        elif isinstance(event, Metric):
            self._line(f"metric {sorted(event.values)}", metric_line(event), False)
        else:
            text = event_line(event)
            if text is not None:
                self.flush()
                self._print(text)

    def note(self, message: str) -> None:
        """Print a remark."""
        self._print(Text(message))

    def __exit__(self, *_: object) -> None:
        self.flush()

    def flush(self) -> None:
        """Print what is held back."""
        for text in self._held.values():
            self._print(Text(text))
        self._held.clear()

    def _line(self, key: str, text: str, urgent: bool) -> None:
        now = time.monotonic()
        self._held.pop(key, None)
        if not urgent and now - self._written.get(key, -LINE_PERIOD_S) < LINE_PERIOD_S:
            self._held[key] = text
            return
        self._written[key] = now
        self._print(Text(text))

    def _print(self, text: Text) -> None:
        error_console().print(text, soft_wrap=True)


class TerminalView(PlainView):
    """A bar with the remaining time for every task; other lines scroll by above."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        class Amount(ProgressColumn):
            """Done, total and unit."""

            def render(self, task: object) -> Text:
                return Text(getattr(task, "fields", {}).get("amount", ""))

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            Amount(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=error_console(),
            refresh_per_second=8,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        """Move a bar, or print a line above them."""
        if not isinstance(event, Progress):
            super().show(event)
            return
        task = self._tasks.get(event.task)
        # A task that reports no amount before its end has a pulsing bar until then.
        total = None if event.prepares and event.done <= 0 else event.total
        if task is None:
            task = self._tasks[event.task] = self._bars.add_task(event.task, total=total, amount="")
        amount = " ".join(part for part in ("" if event.prepares else _amount(event), event.note) if part)
        self._bars.update(task, completed=event.done, total=total, amount=amount)

    def __enter__(self) -> TerminalView:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._bars.stop()

    def _print(self, text: Text) -> None:
        self._bars.console.print(text, soft_wrap=True)


def progress_line(event: Progress) -> str:
    """One line for a progress event: task, amount, share, note. A task that prepares the run has no amount."""
    if event.prepares:
        share = "done" if event.total and event.done >= event.total else f"{event.done:.0%}" if event.done else ""
        return " ".join(
            part for part in (f"{event.task}:" if share or event.note else event.task, share, event.note) if part
        )
    share = f" ({event.done / event.total:.0%})" if event.total else ""
    return " ".join(part for part in (f"{event.task}:", _amount(event) + share, event.note) if part)


def metric_line(event: Metric) -> str:
    """One line for a metric event: step, then names and values."""
    values = "  ".join(f"{name} {format_number(value)}" for name, value in event.values.items())
    return f"step {event.step}  {values}"


def event_line(event: Event) -> Text | None:
    """One line for the events that are neither progress nor metrics; None for those that need none."""
    match event:
        case Log():
            prefix = "" if event.level in ("info", "debug") else f"{event.level}: "
            if event.worker.startswith("worker-") and event.worker != "worker-0":
                prefix = f"{event.worker}: {prefix}"
            return Text(prefix + event.message, style=_LEVEL_STYLES[event.level])
        case CheckpointSaved():
            return Text(event_text(event), style="dim")
        case _:
            return None


def _amount(event: Progress) -> str:
    whole = format_number(event.done)
    if event.total is not None:
        whole += f"/{format_number(event.total)}"
    return f"{whole} {event.unit}".strip()
