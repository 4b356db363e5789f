"""`hetspec-core sweep`: a grid of runs from one file, submitted and followed; run again, it continues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.console import console, note, print_json, print_table
from hetspec_core.cli.follow import DetachOption, is_detached
from hetspec_core.cli.options import JsonFlag
from hetspec_core.errors import Cancelled, StageFailed
from hetspec_core.quantities import format_bytes, format_duration

if TYPE_CHECKING:
    from hetspec_core.service.plan import Plan
    from hetspec_core.service.sweeps.cells import SweepCell
    from hetspec_core.service.sweeps.running import Standing
    from hetspec_core.service.workbench import Workbench

app = typer.Typer()


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SPEC.toml", help="The grid; docs/sweeps.md explains it.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what they cost; start nothing.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time while this command follows; the number of GPUs, or 1.")
    ] = None,
    detach: DetachOption = None,
    json: JsonFlag = False,
) -> None:
    """Train and measure a grid of drafts. One dataset serves all that can share it. Run it again to go on: only what is
    missing or has failed is submitted, by the content of each run.
    """
    from hetspec_core.service.sweeps.cells import expand, read_sweep
    from hetspec_core.service.sweeps.running import SweepLedger, SweepRun, standings
    from hetspec_core.service.workbench import Workbench

    wanted = read_sweep(file)
    with Workbench() as workbench:
        cells = expand(workbench, wanted)
        if dry_run:
            _show_plan(workbench, standings(workbench, wanted, cells), as_json=json)
            return

        def say(cell: SweepCell, run_id: str, state: str) -> None:
            if json:
                print_json({"cell": cell.key, "label": cell.label, "run_id": run_id, "state": state}, lines=True)
            else:
                note(f"{cell.stage:<8} {run_id}  {state:<10} {cell.label}")

        with SweepLedger(workbench.roots.data, wanted.name).lock():
            run = SweepRun(workbench, wanted, cells, say)
            made = run.submit()
            if is_detached(detach, json=json):
                _leave(run, made, as_json=json)
                note(f"the sweep's runs: hetspec-core runs list tag:{wanted.tag}; results: report {wanted.name}")
                return
            try:
                ends = run.follow(made, jobs or max(1, len(workbench.gpus().gpus)))
            except KeyboardInterrupt:
                raise Cancelled(
                    f"sweep {wanted.name} is not followed any more; runs at work go on",
                    hint="run the same command again to go on",
                ) from None
    bad = [cell.label for cell in cells if ends.get(cell.key, "succeeded") != "succeeded"]
    if bad:
        raise StageFailed(
            f"{len(bad)} of {len(cells)} runs of sweep {wanted.name} did not succeed: {', '.join(bad[:5])}",
            hint="see `hetspec-core runs list tag:" + wanted.tag + "`; the same command submits only these again",
        )
    if not json:
        note(f"next: hetspec-core report {wanted.name}")


def _leave(run: Any, made: list[Standing], *, as_json: bool) -> None:
    for standing in made:
        if standing.action:
            run.start(standing)
        if standing.run_id:
            run.say(standing.cell, standing.run_id, str(run.workbench.state(standing.run_id)))


def _show_plan(workbench: Workbench, found: list[Standing], *, as_json: bool) -> None:
    from hetspec_core.service.launch import with_folders
    from hetspec_core.service.plan import gather_facts
    from hetspec_core.service.plan import plan as make_plan

    rows, data, seconds, unknown = [], [], 0.0, 0
    for standing in found:
        spec = with_folders(workbench, standing.cell.spec)
        made: Plan | None = make_plan(spec, gather_facts(spec, workbench.roots)) if standing.action else None
        if made is not None:
            seconds += made.seconds or 0.0
            unknown += made.seconds is None
        rows.append(
            (
                standing.cell.stage,
                standing.cell.label,
                standing.state,
                standing.action or "-",
                "-" if made is None or made.seconds is None else format_duration(made.seconds),
                "-" if made is None else format_bytes(made.device_bytes),
                "-" if made is None else format_bytes(made.disk_bytes),
                "-" if made is None else "yes" if made.fits else "; ".join(made.refusals),
            )
        )
        data.append(
            {
                "cell": standing.cell.key,
                "stage": standing.cell.stage,
                "label": standing.cell.label,
                "run_id": standing.run_id or None,
                "state": standing.state,
                "action": standing.action or None,
                "plan": None if made is None else made.to_json(),
            }
        )
    if as_json:
        print_json(data)
        return
    print_table(("stage", "run", "state", "to do", "about", "memory", "disk", "fits"), rows)
    todo = sum(bool(standing.action) for standing in found)
    more = f" and {unknown} of unknown length" if unknown else ""
    console().print(f"{len(found)} runs, {todo} to do, about {format_duration(seconds)}{more}", soft_wrap=True)
