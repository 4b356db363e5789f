"""`hetspec-core runs lineage|compare|diff`: how runs stand to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.formats import format_number
from hetspec_core.cli.options import JsonFlag, RunWord
from hetspec_core.cli.output import console, note, print_json, say
from hetspec_core.cli.tables import print_table
from hetspec_core.errors import UsageError
from hetspec_core.service import Library, Workbench

if TYPE_CHECKING:
    from hetspec_core.service import Relative

app = typer.Typer()

_HEADLINES = ("accept_length", "speedup", "decode_tokens_per_s", "loss", "top1", "tokens_per_s")


@app.command()
def lineage(run: RunWord, json: JsonFlag = False) -> None:
    """Show what a run stands on, and what stands on it."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        library = Library(workbench)
        up, down = library.lineage(run_id, "up"), library.lineage(run_id, "down")
    if json:
        above, below = ([one.to_json() for one in side.relatives] for side in (up, down))
        print_json({"run_id": run_id, "stands_on": above, "stand_on_it": below})
        return
    for title, side in (("stands on", up), ("is stood on by", down)):
        say(f"{run_id} {title}" + ("" if side.relatives else " nothing"))
        for line in _branches(side.relatives, ""):
            say(line)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Run ids, beginnings of them, or names.")],
    every: Annotated[bool, typer.Option("--all", help="Every figure, not only the headlines.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show runs side by side: settings in which they differ, and their results."""
    with Workbench() as workbench:
        library = Library(workbench)
        run_ids = library.resolve(runs)
        if len(run_ids) < 2:
            raise UsageError("one run cannot be compared", hint="name at least two different ones")
        found = library.compare(run_ids)
    if json:
        print_json(found.to_json())
        return
    headings = [run.name or run.run_id for run in found.runs]
    if len(set(headings)) < len(headings):
        headings = [run.run_id for run in found.runs]
    rows: list[list[Any]] = [["run", *run_ids], ["state", *(run.state for run in found.runs)]]
    rows += [[key, *values] for key, values in found.settings.items() if key not in ("name", "parents")]
    for name, values in found.results.items():
        if every or name.replace("/", ".").rsplit(".", 1)[-1] in _HEADLINES:
            rows.append([name, *(None if value is None else format_number(value) for value in values)])
    print_table(("", *headings), rows)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="Run id, the beginning of one, or a run's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    json: JsonFlag = False,
) -> None:
    """Show the settings in which two runs differ, by key."""
    with Workbench() as workbench:
        library = Library(workbench)
        run_ids = [workbench.resolve_run(first), workbench.resolve_run(second)]
        settings = library.compare(run_ids).settings
    if json:
        print_json([{"key": key, "first": values[0], "second": values[1]} for key, values in settings.items()])
    elif settings:
        print_table(("key", *run_ids), [(key, *values) for key, values in settings.items()])
    else:
        note("no difference")


def _branches(relatives: tuple[Relative, ...], indent: str) -> list[str]:
    """The lines of a tree; in a pipe as on a terminal, except for characters that the terminal cannot write."""
    plain = not console().encoding.lower().startswith("utf")
    lines: list[str] = []
    for number, one in enumerate(relatives):
        last = number == len(relatives) - 1
        fork, side = (
            ("`- ", "   ")
            if last and plain
            else ("|- ", "|  ")
            if plain
            else ("└─ ", "   ")
            if last
            else ("├─ ", "│  ")
        )
        run = one.summary
        about = "not here any more" if run is None else "  ".join(filter(None, (run.stage, run.state, run.name)))
        lines += [f"{indent}{fork}{one.run_id}  {about}", *_branches(one.relatives, indent + side)]
    return lines
