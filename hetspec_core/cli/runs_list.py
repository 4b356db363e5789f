"""`hetspec-core runs list|metrics|export|lineage|compare|diff`: find runs, compare them, export their figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hetspec_core.cli.console import (
    cell_text,
    console,
    format_age,
    format_number,
    note,
    print_data,
    print_json,
    print_table,
    say,
)
from hetspec_core.cli.options import JsonFlag, RunWord
from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.files import write_output
from hetspec_core.runs import MetricPoint
from hetspec_core.service.export import csv_text, runs_text
from hetspec_core.service.library import Library
from hetspec_core.service.report import RunSummary
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import ascii_escapes

if TYPE_CHECKING:
    from rich.table import Table

    from hetspec_core.service.library import Relative

app = typer.Typer()

STATE_STYLES = {
    "queued": "dim",
    "starting": "cyan",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lost": "magenta",
    "unreadable": "bold red",
}
Query = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILTER]...",
        help="Words to look for, or FIELD:VALUE with : = != > >= < <=, e.g. state:failed accept_length>2.5 tag:x.",
    ),
]
SortOption = Annotated[
    str, typer.Option("--sort", metavar="KEY[:asc|:desc]", help="Order by a field, metric or setting.")
]
ArchivedFlag = Annotated[bool, typer.Option("--archived", help="Archived runs too.")]
_SHOWN = ("id", "name", "state", "progress", "accept_length", "created", "age")


@app.command("list")
def list_runs(
    query: Query = None,
    state: Annotated[str | None, typer.Option(help=f"Only runs in this state: {', '.join(STATE_STYLES)}.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only runs of this stage: dataset, train, bench, generate.")] = None,
    sort: SortOption = "created",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 20,
    archived: ArchivedFlag = False,
    json: JsonFlag = False,
) -> None:
    """List runs, newest first."""
    words = [*(query or []), *_choice("state", state), *_choice("stage", stage)]
    key = sort.partition(":")[0]
    with Workbench() as workbench:
        library = Library(workbench)
        found = workbench.summaries(words, sort=sort, archived=archived, limit=limit + 1)
        more, found = len(found) > limit, found[:limit]
        hidden = not found and workbench.summaries(["archived:yes"], limit=1)
        kept = "; --archived shows archived ones" if hidden else ""
        extra = {} if key in _SHOWN else {run.run_id: library.value(run, key) for run in found}
    if json:
        print_json([run.to_json() for run in found])
        return
    if not found:
        note("no runs" + (" like that" if words else kept or " yet; `hetspec-core demo` makes some"))
        return
    heading = "accept" if key in _SHOWN else key
    rows = [_cells(run, extra.get(run.run_id) if extra else run.accept_length) for run in found]
    if console().is_terminal:
        console().print(_list_table(found, rows, heading))
    else:
        print_table(("run", "name", "state", "done", heading, "age"), rows)
    for run in found:
        if run.state == "unreadable" and run.error:
            note(f"run {cell_text(run.run_id)} cannot be read: {run.error['message']}; {run.error['hint']}")
    if more:
        note(f"the first {limit}; --limit shows more")


@app.command()
def metrics(
    run: RunWord,
    name: Annotated[list[str] | None, typer.Option("--name", help="Every point of this metric; repeatable.")] = None,
    points: Annotated[int | None, typer.Option(min=2, help="Maximum number of points of each, about.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print the newest value of every metric of a run, or the curves of some."""
    from hetspec_core.spec.decode import did_you_mean

    if as_csv and json:
        raise UsageError("--csv and --json exclude each other")
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        registry = workbench.registry
        registry.sync(run_id)
        known = registry.metric_names(run_id)
        for one in name or ():
            if one not in known:
                raise NotFoundError(
                    f"run {run_id} has no metric {one!r}{did_you_mean(one, known)}",
                    hint=f"it has {', '.join(known) or 'none yet'}",
                )
        if name:
            found = [point for one in name for point in registry.curve(run_id, one, most=points)]
        else:
            found = registry.last_metrics(run_id)
    if json:
        print_json([point._asdict() for point in found])
    elif as_csv:
        print_data(csv_text([point._asdict() for point in found], list(MetricPoint._fields)))
    elif found:
        rows = [
            (one.name, str(one.step), format_number(one.value), format_number(one.tokens), format_number(one.wall_s))
            for one in found
        ]
        print_table(("metric", "step", "value", "tokens", "seconds"), rows)
    else:
        note(f"run {run_id} has no metrics yet")


@app.command()
def export(
    query: Query = None,
    form: Annotated[
        Literal["csv", "json", "markdown"], typer.Option("--format", help="csv, json or markdown.")
    ] = "csv",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; stdout when absent.")] = None,
    sort: SortOption = "created",
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of runs.")] = None,
    archived: ArchivedFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write runs with their newest metrics and results as a table for other programs."""
    with Workbench() as workbench:
        library = Library(workbench)
        found = workbench.summaries(query or [], sort=sort, archived=archived, limit=limit)
        figures = [library.figures(run.run_id) for run in found]
    form = "json" if json and output is None else form
    text = runs_text(found, figures, form, format_number)
    if output is None:
        print_data(ascii_escapes(text) if form == "json" else text)
        return
    write_output(output, text)
    if json:
        print_json({"path": str(output), "runs": len(found)})
    else:
        note(f"{len(found)} run{'s' if len(found) != 1 else ''} written to {output}")


def _choice(name: str, value: str | None) -> list[str]:
    return [] if value is None else [f"{name}:{value}"]


def _cells(run: RunSummary, figure: Any) -> list[str]:
    return [
        run.run_id,
        ("* " if run.starred else "") + cell_text(run.name or "-"),
        f"{run.state}: {cell_text(run.error['message'])}" if run.state == "unreadable" and run.error else run.state,
        run.waits.partition(",")[0] or ("-" if run.progress is None else f"{run.progress:.0%}"),
        _figure(figure),
        format_age(run.created),
    ]


def _figure(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return cell_text(value)
    return f"{value:.2f}" if isinstance(value, float) and 0.1 <= abs(value) < 100 else format_number(value)


def _list_table(found: list[RunSummary], rows: list[list[str]], heading: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("state", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("done", justify="right", no_wrap=True, overflow="ellipsis")
    table.add_column(Text(heading), justify="right", no_wrap=True, overflow="ellipsis", max_width=12)
    table.add_column("age", justify="right", no_wrap=True)
    for run, (run_id, name, state, *rest) in zip(found, rows, strict=True):
        table.add_row(
            Text(run_id, style="dim" if run.archived else ""),
            Text(name),
            Text(state, style=STATE_STYLES.get(run.state, "")),
            *map(Text, rest),
        )
    return table


_HEADLINES = ("accept_length", "speedup", "decode_tokens_per_s", "loss", "top1", "tokens_per_s")


@app.command()
def lineage(run: RunWord, json: JsonFlag = False) -> None:
    """Show the runs that a run depends on, and the runs that depend on it."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        library = Library(workbench)
        up, down = library.lineage(run_id, "up"), library.lineage(run_id, "down")
    if json:
        above, below = ([one.to_json() for one in side.relatives] for side in (up, down))
        print_json({"run_id": run_id, "stands_on": above, "stand_on_it": below})
        return
    for title, side in (("depends on", up), ("is needed by", down)):
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
    between, at_end = (("|- ", "|  "), ("`- ", "   ")) if plain else (("├─ ", "│  "), ("└─ ", "   "))
    lines: list[str] = []
    for number, one in enumerate(relatives, 1):
        fork, side = at_end if number == len(relatives) else between
        run = one.summary
        about = "not here any more" if run is None else "  ".join(filter(None, (run.stage, run.state, run.name)))
        lines += [f"{indent}{fork}{one.run_id}  {about}", *_branches(one.relatives, indent + side)]
    return lines
