"""`hetspec-core runs`: show runs, follow, stop and repeat them, and reorder the queue."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from hetspec_core.cli import runs_edit, runs_list
from hetspec_core.cli.console import (
    console,
    format_age,
    format_number,
    format_time,
    note,
    print_facts,
    print_json,
    print_line,
    print_log_line,
    print_table,
)
from hetspec_core.cli.follow import DetachOption, follow, is_detached, leave
from hetspec_core.cli.options import JsonFlag, RunWord
from hetspec_core.cli.runs_list import STATE_STYLES
from hetspec_core.errors import NotFoundError, RunError, UsageError
from hetspec_core.events import AT_WORK
from hetspec_core.quantities import format_bytes, format_duration
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.jobs import Waiting
    from hetspec_core.service.presets import ResolvedValue
    from hetspec_core.service.report import RunReport, RunSummary

_KILL_WAIT_S = 10.0
app = typer.Typer(help="List, show, follow, stop, compare, label and delete runs.", no_args_is_help=True)

for part in (runs_list, runs_edit):
    app.registered_commands += part.app.registered_commands


@app.command()
def show(
    run: RunWord,
    explain: Annotated[bool, typer.Option("--explain", help="Every setting, and where its value came from.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show one run: state, settings, progress, metrics, results and files."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        if explain:
            _explain(run_id, Library(workbench).explain(run_id), json=json)
            return
        report = workbench.show(run_id)
    if json:
        print_json(report.to_json())
    else:
        _print_report(report)


def _explain(run_id: str, values: list[ResolvedValue], *, json: bool) -> None:
    if json:
        print_json({"run_id": run_id, "values": [asdict(value) for value in values]})
        return
    if not any(value.source for value in values):
        note(f"run {run_id} was made without a record of where its values came from")
    print_table(("key", "value", "source"), [(value.key, value.value, value.source) for value in values])


@app.command("follow")
def follow_run(run: RunWord, json: JsonFlag = False) -> None:
    """Follow a run to its end; Ctrl-C stops the run."""
    with Workbench() as workbench:
        follow(workbench, workbench.resolve_run(run), json=json)


@app.command()
def resume(run: RunWord, detach: DetachOption = None, json: JsonFlag = False) -> None:
    """Continue a run that was cancelled, failed or lost, from what is on disk. The run continues without this command.
    While the command follows the run, Ctrl-C stops the run, and it can be resumed again.
    """
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        workbench.resume(run_id)
        if is_detached(detach, json=json):
            leave(workbench, run_id, json=json)
            return
        follow(workbench, run_id, json=json)


@app.command()
def cancel(
    run: RunWord,
    kill: Annotated[bool, typer.Option("--kill", help="End it now, without waiting for a safe point.")] = False,
    grace: Annotated[float, typer.Option(min=0, help="Seconds to wait for the safe point, then it is ended.")] = 120.0,
    json: JsonFlag = False,
) -> None:
    """Stop a run at its next safe point, so that it can be resumed."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        workbench.cancel(run_id, force=kill, grace_s=grace)
        state = workbench.wait(run_id, timeout_s=_KILL_WAIT_S if kill else grace + _KILL_WAIT_S)
    if state in AT_WORK:
        raise RunError(
            f"run {run_id} was asked to stop, but is still {state} after {format_duration(grace)}",
            hint=f"wait longer, or end it now: hetspec-core runs cancel --kill {run_id}",
        )
    _print_state(run_id, state, json)


@app.command()
def kill(run: RunWord, json: JsonFlag = False) -> None:
    """End a run now, without waiting for a safe point."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        workbench.cancel(run_id, force=True)
        state = workbench.wait(run_id, timeout_s=_KILL_WAIT_S)
    if state in AT_WORK:
        raise RunError(f"run {run_id} was killed, but is still {state} after {_KILL_WAIT_S:.0f} s")
    _print_state(run_id, state, json)


def _print_state(run_id: str, state: str, json: bool) -> None:
    if json:
        print_json({"run_id": run_id, "state": state})
    else:
        note(f"run {run_id} is {state}")


@app.command()
def retry(run: RunWord, json: JsonFlag = False) -> None:
    """Start a new run with the same spec; `resume` continues the old one instead."""
    with Workbench() as workbench:
        run_id = Library(workbench).retry(workbench.resolve_run(run))
        if not json:
            note(f"run {run_id}")
        workbench.start(run_id)
        follow(workbench, run_id, json=json)


@app.command()
def logs(
    run: RunWord,
    keep: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing what is added.")] = False,
    lines: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only the last lines.")] = None,
    worker: Annotated[int, typer.Option(min=0, help="Of which worker, when the run has several.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Print what the worker wrote to its output: warnings of libraries, and the traceback of a crash."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        log = workbench.paths(run_id).log(f"worker-{worker}")
        if not log.is_file():
            raise NotFoundError(f"run {run_id} has no log of worker {worker}; it has not been started")
        offset = _print_log(log, 0, lines, json)
        while keep:
            ended = workbench.state(run_id) not in AT_WORK | {"queued"}  # asked before the log is read to its end
            offset = _print_log(log, offset, None, json)
            if ended:
                return
            time.sleep(0.3)


@app.command()
def queue(json: JsonFlag = False) -> None:
    """List the runs that wait for GPUs, the processor or other runs, the next one first."""
    with Workbench() as workbench:
        workbench.dispatch()
        waiting = [(entry, workbench.waits(entry.run_id)) for entry in workbench.queue.entries()]
    _print_queue(waiting, json)


@app.command()
def move(
    run: RunWord,
    priority: Annotated[int | None, typer.Option(help="Higher is earlier; runs begin with resources.priority.")] = None,
    before: Annotated[str | None, typer.Option(metavar="RUN", help="Just before this one, with its priority.")] = None,
    json: JsonFlag = False,
) -> None:
    """Move a waiting run in the queue."""
    if (priority is None) == (before is None):
        raise UsageError("runs move needs --priority or --before", hint="e.g. `runs move RUN --priority 10`")
    with Workbench() as workbench:
        other = None if before is None else workbench.resolve_run(before)
        workbench.queue.move(workbench.resolve_run(run), priority=priority, before=other)
        workbench.dispatch()
        waiting = [(entry, workbench.waits(entry.run_id)) for entry in workbench.queue.entries()]
    _print_queue(waiting, json)


@app.command()
def rebuild(json: JsonFlag = False) -> None:
    """Rebuild the registry from the run folders."""
    with Workbench() as workbench:
        count = workbench.rebuild()
    if json:
        print_json({"runs": count})
    else:
        note(f"the registry has {count} run{'s' if count != 1 else ''}")


def _print_log(log: Path, offset: int, last: int | None, json: bool) -> int:
    with log.open("rb") as file:
        file.seek(offset)
        data = file.read()
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    shown = lines if last is None else lines[len(lines) - last :] if last < len(lines) else lines
    for line in shown:
        if json:
            print_json({"line": line.decode(errors="replace")}, lines=True)
        else:
            print_log_line(line)
    sys.stdout.flush()
    return offset + len(data)


# --- tables ------------------------------------------------------------------------------------------------------


def _print_report(report: RunReport) -> None:
    run = report.summary
    out = console()
    state = Text(run.state, style=f"bold {STATE_STYLES[run.state]}")
    print_line(Text.assemble((run.run_id, "bold"), "  ", state))
    print_facts(_facts(report))
    if run.error:
        print_line(Text.assemble(("error: ", "bold red"), run.error["message"]))
        if run.error["hint"]:
            print_line(Text.assemble(("hint: ", "bold cyan"), run.error["hint"]))
    if report.problem:
        print_line(Text(f"warning: the spec cannot be read: {report.problem}", style="yellow"))
    for warning in report.warnings:
        print_line(Text(f"{warning.level}: {warning.message}", style="yellow"))
    if report.metrics:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("metric", overflow="fold")
        table.add_column("last", justify="right", no_wrap=True)
        table.add_column("step", justify="right", no_wrap=True)
        for point in report.metrics:
            table.add_row(Text(point.name), format_number(point.value), str(point.step))
        out.print(table)
    for kind, data in report.results.items():
        out.print(Text(f"result {kind}", style="bold"))
        for name, value in data.items():
            if isinstance(value, str | int | float | bool) or value is None:
                shown = value if isinstance(value, str | bool) else format_number(value)
                print_line(Text(f"  {name}: {shown}"))
    print_line(Text(f"files in {run.folder}", style="bold"))
    for name, size in report.files.items():
        out.print(Text(f"  {name:<24} {format_bytes(size):>10}"))


def _facts(report: RunReport) -> list[tuple[str, str]]:
    run = report.summary
    facts = [
        ("name", run.name),
        ("stage", run.stage),
        ("recipe", run.recipe),
        ("base", run.base),
        ("draft", run.draft),
        ("algorithm", run.algorithm if run.stage != "dataset" else ""),
        ("spec hash", run.spec_hash),
        ("parents", ", ".join(run.parents)),
        ("tags", ", ".join(run.tags)),
        ("note", run.note),
        ("kept", ", ".join(word for word, is_so in (("starred", run.starred), ("archived", run.archived)) if is_so)),
        ("created", format_time(run.created)),
        ("started", "" if run.started is None else format_time(run.started)),
        ("took", _took(run)),
        ("attempt", str(run.attempt) if run.attempt > 1 else ""),
        ("waits", run.waits.removeprefix("waits ")),
        ("progress", _progress(run)),
        ("device", _device(report.resolved)),
        ("exit status", "" if report.exit_status is None else str(report.exit_status)),
    ]
    return facts + [(event.kind.replace("_", " "), event.path) for event in report.artifacts]


def _took(run: RunSummary) -> str:
    if run.started is None:
        return ""
    if run.ended is not None:
        return format_duration(run.ended - run.started)
    return f"{format_duration(time.time() - run.started)} so far" if run.state == "running" else ""


def _progress(run: RunSummary) -> str:
    if run.done is None:
        return run.task
    total = "" if run.total is None else f" of {format_number(run.total)}"
    share = "" if run.progress is None else f" ({run.progress:.0%})"
    return f"{run.task}: {format_number(run.done)}{total} {run.unit}".rstrip() + share


def _device(machine: dict[str, object]) -> str:
    if not machine:
        return ""
    devices = machine.get("devices")
    names = ", ".join(map(str, devices)) if isinstance(devices, list) else ""
    return f"{machine.get('device', '')} ({names}), {machine.get('dtype', '')}, {machine.get('threads', '')} threads"


def _print_queue(waiting: list[tuple[Waiting, str]], json: bool) -> None:
    if json:
        print_json(
            [
                {
                    "run_id": entry.run_id,
                    "attempt": entry.attempt,
                    "priority": entry.priority,
                    "since": entry.since,
                    "gpus": entry.request.count,
                    "names": list(entry.request.names),
                    "min_free_mib": entry.request.min_free_mib,
                    "cpu_slots": entry.request.cpu_slots,
                    "reason": reason,
                }
                for entry, reason in waiting
            ]
        )
    elif not waiting:
        note("no run waits")
    else:
        print_table(
            ("", "run", "priority", "waits", "gpus", "reason"),
            [
                (
                    str(place),
                    entry.run_id,
                    str(entry.priority),
                    format_age(entry.since),
                    f"{entry.request.count}"
                    + (f" of {', '.join(entry.request.names)}" if entry.request.names else "")
                    + (f" with {entry.request.min_free_mib / 1024:g} GiB free" if entry.request.min_free_mib else ""),
                    reason,
                )
                for place, (entry, reason) in enumerate(waiting, 1)
            ],
        )
