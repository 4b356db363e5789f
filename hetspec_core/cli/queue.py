"""`hetspec-core runs queue` and `runs move`: which runs wait, for what, and in what order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hetspec_core.cli.formats import format_age
from hetspec_core.cli.options import JsonFlag, RunWord
from hetspec_core.cli.output import note, print_json
from hetspec_core.errors import UsageError
from hetspec_core.service import Workbench

if TYPE_CHECKING:
    from hetspec_core.service import Waiting

app = typer.Typer()


@app.command()
def queue(json: JsonFlag = False) -> None:
    """List the runs that wait for GPUs, the processor or other runs, the next one first."""
    with Workbench() as workbench:
        workbench.dispatch()
        waiting = [(entry, workbench.waits(entry.run_id)) for entry in workbench.queue.entries()]
    _show(waiting, json)


@app.command()
def move(
    run: RunWord,
    priority: Annotated[int | None, typer.Option(help="Higher is earlier; runs begin with resources.priority.")] = None,
    before: Annotated[str | None, typer.Option(metavar="RUN", help="Just before this one, with its priority.")] = None,
    json: JsonFlag = False,
) -> None:
    """Give a waiting run another place."""
    if (priority is None) == (before is None):
        raise UsageError("runs move needs --priority or --before", hint="e.g. `runs move RUN --priority 10`")
    with Workbench() as workbench:
        other = None if before is None else workbench.resolve_run(before)
        workbench.queue.move(workbench.resolve_run(run), priority=priority, before=other)
        workbench.dispatch()
        waiting = [(entry, workbench.waits(entry.run_id)) for entry in workbench.queue.entries()]
    _show(waiting, json)


def _show(waiting: list[tuple[Waiting, str]], json: bool) -> None:
    from hetspec_core.cli.tables import print_table

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
