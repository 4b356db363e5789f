"""`hetspec-core sweep` and `report`: a grid of runs from one file, and tables and plots of what many runs measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json

from hetspec_core.cli.console import console, format_number, note, print_json, print_line, print_table
from hetspec_core.cli.engine_command import ask_engine
from hetspec_core.cli.follow import DetachOption, is_detached
from hetspec_core.cli.options import JsonFlag
from hetspec_core.errors import Cancelled, StageFailed, UsageError
from hetspec_core.files import write_output
from hetspec_core.quantities import format_bytes, format_duration
from hetspec_core.service.bench_view import COLUMNS
from hetspec_core.service.export import csv_text, markdown_text
from hetspec_core.service.launch import with_folders
from hetspec_core.service.plan import gather_facts
from hetspec_core.service.plan import plan as make_plan
from hetspec_core.service.results import collect, front
from hetspec_core.service.sweeps.cells import expand, read_sweep
from hetspec_core.service.sweeps.running import SweepLedger, SweepRun, standings
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hetspec_core.service.plan import Plan
    from hetspec_core.service.results import Point, ResultRow
    from hetspec_core.service.sweeps.cells import SweepCell
    from hetspec_core.service.sweeps.running import Standing

app = typer.Typer()
report_app = typer.Typer()

_HEAD = ("draft", "tree", "dtype", "batch", "parameters", "active")
_COSTS = ("prefill", "propose", "verify", "other")
_BAR, _WIDE, _HIGH = 32, 64, 15
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PLOT = "hetspec_core.engine.stages.report_plot"


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
    """Train and measure a grid of drafts. One dataset serves all that can share it. The same command continues the
    sweep: it submits only the runs that are missing or failed.
    """
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
                    f"sweep {wanted.name} is not followed any more; runs at work continue",
                    hint="the same command continues the sweep",
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
    print_line(f"{len(found)} runs, {todo} to do, about {format_duration(seconds)}{more}")


# --- report -----------------------------------------------------------------------------------------------------------


@report_app.command()
def report(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[SWEEP|FILTER...]", help="Name of a sweep, or words of `runs list`.")
    ] = None,
    histograms: Annotated[
        bool, typer.Option("--histograms/--no-histograms", help="Draw how many tokens the verify steps commit.")
    ] = True,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the figures as CSV.")] = None,
    markdown: Annotated[Path | None, typer.Option("--md", help="Write the tables as Markdown.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Draw the plots; needs hetspec[report].")] = None,
    json: JsonFlag = False,
) -> None:
    """Compare what was measured: accept length and speed of each draft, where the time goes, histograms, and which
    drafts nothing else beats (accept length against draft cost, tokens/s against parameters).
    """
    with Workbench() as workbench:
        rows = collect(workbench, words or [])
    for run_id, problem in {row.run_id: row.problem for row in rows if row.problem}.items():
        note(f"warning: run {run_id}: {problem}")
    figures = [tuple(column.text(row.measured) for column in COLUMNS) for row in rows]
    head: tuple[str, ...] = (*_HEAD, *(column.head for column in COLUMNS))
    main = [(*_cells(row), *cells) for row, cells in zip(rows, figures, strict=True)]
    if any(row.load for row in rows):
        head, main = (*head, "measured at"), [(*cells, row.load or "-") for cells, row in zip(main, rows, strict=True)]
    costs = [_cost_cells(row) for row in rows if row.costs]
    if csv is not None:
        flat = [_flat(row) for row in rows]
        write_output(csv, csv_text(flat, list(dict.fromkeys(key for one in flat for key in one))))
    if markdown is not None:
        text = markdown_text(head, main)
        if costs:
            text += "\n" + markdown_text(("draft", "tree", *_cost_head()), costs, right_from=2)
        write_output(markdown, text)
    if png is not None:
        if png.suffix.lower() != ".png":
            raise UsageError(f"--png {png} does not end in .png")
        ask_engine(_PLOT, [str(png.absolute()), _plot_data(rows)], doing="drawing the plots")
    if json:
        print_json([row.to_json() for row in rows])
        return
    print_table(head, main)
    if costs:
        console().print()
        print_table(("draft", "tree", *_cost_head()), costs, title="where the time goes, batch 1, a profiled pass")
    if histograms:
        for row in rows:
            _draw_histogram(row)
    for title, across, points, best in _plots(rows):
        _draw_plot(title, across, points, best)
    for path in (csv, markdown, png):
        if path is not None:
            note(f"written: {path}")


# --- tables -----------------------------------------------------------------------------------------------------------


def _cells(row: ResultRow) -> tuple[str, ...]:
    return (
        row.label,
        row.tree,
        row.dtype,
        str(row.batch_size),
        format_number(row.parameters),
        format_number(row.active_parameters),
    )


def _cost_head() -> tuple[str, ...]:
    return tuple(f"{name} s (share)" for name in _COSTS) + tuple(f"{name} ms/step" for name in _COSTS[1:])


def _cost_cells(row: ResultRow) -> tuple[str, ...]:
    whole = sum(row.costs.values()) or 1.0
    shares = (f"{row.costs[name]:.2f} ({row.costs[name] / whole:.0%})" for name in _COSTS)
    return (row.label, row.tree, *shares, *(f"{row.step_s.get(name, 0.0) * 1e3:.1f}" for name in _COSTS[1:]))


def _flat(row: ResultRow) -> dict[str, Any]:
    found = {key: value for key, value in row.to_json().items() if not isinstance(value, dict | list | tuple)}
    low, high = row.measured.accept_length_interval or (None, None)
    found |= {"accept_length_low": low, "accept_length_high": high}
    found |= {f"{name}_s": row.costs.get(name) for name in _COSTS}
    found |= {f"{name}_s_per_step": row.step_s.get(name) for name in _COSTS[1:]}
    return found | {f"committed_{length}": count for length, count in sorted(row.measured.histogram.items())}


# --- drawings ---------------------------------------------------------------------------------------------------------


def _draw_histogram(row: ResultRow) -> None:
    """Bars of committed tokens per verify step, and beside each the acceptance at that depth given its parent."""
    histogram = row.measured.histogram
    steps = sum(histogram.values())
    if not steps:
        return
    print_line("")
    print_line(
        f"{row.label}, {row.tree}: {steps:,} verify steps by committed tokens; acceptance at the depth behind them"
    )
    most, mark = max(histogram.values()), "#" if _plain() else "█"
    rates = {one.depth: one.acceptance_rate for one in row.measured.by_depth}
    for length in range(1, max(histogram) + 1):
        count = histogram.get(length, 0)
        rate = rates.get(length)
        said = "" if rate is None else f"  depth {length}: {rate:.0%} {'=' * round(12 * rate)}"
        print_line(f"{length:>3} {mark * round(_BAR * count / most):<{_BAR}} {count / steps:>5.1%}{said}".rstrip())


def _plots(rows: Sequence[ResultRow]) -> list[tuple[str, str, list[tuple[ResultRow, Point]], set[int]]]:
    cost = front(
        rows, lambda row: None if row.draft_cost_s is None else row.draft_cost_s * 1e3, lambda row: row.accept_length
    )
    size = front(rows, lambda row: row.active_parameters / 1e6 or None, lambda row: row.tokens_per_s)
    return [
        ("accept length against draft cost", "draft ms of a verify step", *cost),
        ("tokens/s against active parameters", "draft parameters at work on a token, millions", *size),
    ]


def _draw_plot(title: str, across: str, points: Sequence[tuple[ResultRow, Point]], best: set[int]) -> None:
    """Letters in a frame: capital ones are on the Pareto front, * is more than one."""
    if len(points) < 2:
        return
    xs, ys = [x for _, (x, _) in points], [y for _, (_, y) in points]
    grid = [[" "] * _WIDE for _ in range(_HIGH)]
    for index, (_, (x, y)) in enumerate(points):
        column, line = _place(x, xs, _WIDE), _HIGH - 1 - _place(y, ys, _HIGH)
        letter = _LETTERS[index % len(_LETTERS)]
        letter = letter.upper() if index in best else letter
        grid[line][column] = letter if grid[line][column] == " " else "*"
    print_line("")
    print_line(f"{title} (capital letters: nothing costs less and brings as much)")
    for number, line in enumerate(grid):
        value = max(ys) - (max(ys) - min(ys)) * number / (_HIGH - 1)
        print_line(
            f"{value:>9.2f} |{''.join(line)}".rstrip() if number % 7 == 0 else f"{'':>9} |{''.join(line)}".rstrip()
        )
    print_line(f"{'':>9} +{'-' * _WIDE}")
    low, high = f"{min(xs):.3g}", f"{max(xs):.3g}"
    print_line(f"{'':>10} {low}{across.center(_WIDE - len(low) - len(high))}{high}")
    for index, (row, (x, y)) in enumerate(points):
        letter = _LETTERS[index % len(_LETTERS)]
        print_line(f"{letter.upper() if index in best else letter:>11} {row.label} {row.tree}: {x:.3g}, {y:.2f}")


def _place(value: float, values: Sequence[float], cells: int) -> int:
    low, high = min(values), max(values)
    return 0 if math.isclose(low, high) else round((value - low) / (high - low) * (cells - 1))


def _plot_data(rows: Sequence[ResultRow]) -> str:
    plots = [
        {
            "title": title,
            "across": across,
            "up": title.partition(" against")[0],
            "points": [
                {"label": f"{row.label} {row.tree}", "x": x, "y": y, "front": index in best}
                for index, (row, (x, y)) in enumerate(points)
            ],
        }
        for title, across, points, best in _plots(rows)
    ]
    return to_json(plots).decode()


def _plain() -> bool:
    return not console().encoding.lower().startswith("utf")
