"""Several runs side by side: curves over each other, results with the best of each, settings that differ."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from hetspec_core.events import AT_WORK
from hetspec_tui.dialogs import Choice, Choose
from hetspec_tui.formatting import ago, count, duration, number, safe
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenComparison, OpenRun
from hetspec_tui.run_commands import RunCommands, run_bindings
from hetspec_tui.run_list.run_side import series_of, usual_metric
from hetspec_tui.run_list.runs_table import state_cell, took_s
from hetspec_tui.widgets.cells import Cell, Column, Row
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import colour_indices, sign
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service.library import RunComparison
    from hetspec_core.service.pages import Axis, MetricSeries
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench

AXES: dict[Axis, str] = {"step": "step", "tokens": "tokens", "wall_s": "time"}
"""What x can be -> its name in the chart."""
LOOK_S = 2.0
_MORE = ("per_s", "accept", "speedup", "top1", "top5", "acc", "tokens_per_step")
_LESS = ("loss", "perplexity", "ppl", "_ms", "_s", "seconds", "bytes", "latency", "memory", "error")
_HEADLINES = ("accept_length", "speedup", "decode_tokens_per_s", "loss", "top1", "tokens_per_s")
_UNSAID = ("name", "parents")


class ComparisonScreen(Page):
    """Runs side by side.

    Args:
        run_ids: of two runs at least; with two, every line says what changed from the first to the second.
    """

    CRUMB = "Compare"
    CSS_PATH = "comparison.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "metric", "Metric", id="comparison.metric"),
        Binding("X", "axis", "X axis", id="comparison.axis"),
        Binding("w", "changed", "What changed", id="comparison.changed"),
        Binding("e", "export", "Export", id="comparison.export"),
        Binding("f", "wide", "Table or both", id="comparison.wide", show=False),
        *run_bindings("comparison", hidden=("copy_id", "copy_path")),
    ]

    def __init__(self, run_ids: tuple[str, ...]) -> None:
        super().__init__()
        self.run_ids = run_ids
        self.commands = RunCommands(self, lambda: self.run_ids)
        self.metric = ""
        self.axis: Axis = "step"
        self.changed_only = False
        self.found: RunComparison | None = None

    def compose_page(self) -> ComposeResult:
        with Container(id="body"):
            yield Chart(id="curves")
            yield PagedTable(id="facts", marking=False, empty="these runs are not here any more\nesc goes back")

    @property
    def crumb(self) -> str:
        return f"Compare {len(self.run_ids)} runs"

    @property
    def table(self) -> PagedTable:
        return self.query_one("#facts", PagedTable)

    def on_mount(self) -> None:
        self.table.focus()
        self.load()
        self.set_interval(LOOK_S, self.look_while_at_work)

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        self.load()

    def look_while_at_work(self) -> None:
        """Look again while one of the runs is at work and the screen is seen."""
        at_work = self.found is not None and any(run.state in AT_WORK for run in self.found.runs)
        if self.is_current and at_work:
            self.load()

    @work(exclusive=True, group="comparison")
    async def load(self) -> None:
        """Ask for the runs and show them."""
        from hetspec_core.service.library import Library
        from hetspec_core.service.pages import Pages

        run_ids, metric, axis = self.run_ids, self.metric, self.axis

        def look(workbench: Workbench) -> tuple[RunComparison, str, list[MetricSeries]]:
            pages = Pages(workbench)
            for run_id in run_ids:
                workbench.registry.sync(run_id)
            there = [line.summary.run_id for line in pages.lines(run_ids)]
            names = list(pages.metrics(there))
            name = metric if metric in names else usual_metric(names)
            return Library(workbench).compare(there), name, pages.curves(there, name, axis) if name else []

        found = await self.ask(look)
        if found is None:
            return
        self.found, self.metric, curves = found
        self.show_curves(curves)
        self.show_facts()

    def show_curves(self, curves: list[MetricSeries]) -> None:
        chart = self.query_one(Chart)
        chart.border_title = Content(safe(self.metric) or "no metric")
        chart.border_subtitle = "m metric  X axis"
        chart.set_series([series_of(curve) for curve in curves], x_name=AXES[self.axis])

    def show_facts(self) -> None:
        if self.found is None:
            return
        runs = self.found.runs
        indices = colour_indices(run.run_id for run in runs)
        names = [run.name or run.run_id for run in runs]
        if len(set(names)) < len(names):
            names = [f"{run.name or run.stage} {run.run_id[-4:]}" for run in runs]
        columns = [Column("what", "", 26, grow=2, most=48)]
        columns += [
            Column(run.run_id, f"{sign(indices[run.run_id])} {safe(name)}", 16, "right", 1, 30)
            for run, name in zip(runs, names, strict=True)
        ]
        if len(runs) == 2:
            columns.append(Column("change", "change", 18, "right"))
        rows = rows_of(self.found, time.time(), changed_only=self.changed_only) if runs else []
        table = self.table
        table.set_columns(columns)
        table.set_keys(tuple(row.key for row in rows))
        table.put_rows([row.key for row in rows], rows)

    # --- keys --------------------------------------------------------------------------------------------------------

    @work(group="dialog", exclusive=True)
    async def action_metric(self) -> None:
        from hetspec_core.service.pages import Pages

        names = await self.ask(lambda workbench: Pages(workbench).metrics(self.run_ids))
        if names is None or not self.is_current:
            return
        choices = [Choice(name, name, f"in {runs} of {len(self.run_ids)}") for name, runs in names.items()]
        name = await self.app.push_screen_wait(
            Choose("Which metric?", choices, self.metric, empty="these runs have no metrics yet")
        )
        if name is not None:
            self.metric = name
            self.load()

    def action_axis(self) -> None:
        axes = list(AXES)
        self.axis = axes[(axes.index(self.axis) + 1) % len(axes)]
        self.load()

    @work(group="dialog", exclusive=True)
    async def action_changed(self) -> None:
        """Of two runs show only what changed, or everything again; of more, choose two."""
        if self.found is None:
            return
        if len(self.found.runs) <= 2:
            self.changed_only = not self.changed_only
            self.show_facts()
            return
        first, *others = self.found.runs
        choices = [Choice(run.run_id, run.name or run.run_id, run.run_id) for run in others]
        chosen = await self.app.push_screen_wait(Choose(f"What changed from {first.name or first.run_id} to", choices))
        if chosen is not None:
            self.post_message(OpenComparison((first.run_id, chosen)))

    @on(PagedTable.Selected)
    @work(group="dialog", exclusive=True)
    async def open_one(self) -> None:
        """Choose one of the runs and open it."""
        if self.found is None:
            return
        choices = [Choice(run.run_id, run.name or run.run_id, f"{run.state}  {run.run_id}") for run in self.found.runs]
        chosen = await self.app.push_screen_wait(Choose("Open which run?", choices))
        if chosen is not None:
            self.post_message(OpenRun(chosen))

    def action_wide(self) -> None:
        self.toggle_class("-facts")

    def action_run_command(self, name: str) -> None:
        self.commands.start(name)

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        from hetspec_core.files import write_output
        from hetspec_core.service.export import csv_text, json_text, markdown_text

        if self.found is None:
            return
        chosen = await self.ask_file("the comparison", "comparison.md")
        if chosen is None:
            return
        path, form = chosen
        head, lines = table_of(self.found)
        if form == "json":
            text = json_text(self.found.to_json())
        elif form == "csv":
            text = csv_text([dict(zip(head, line, strict=True)) for line in lines], head)
        else:
            text = markdown_text(head, lines)

        def write(workbench: Any) -> bool:
            write_output(path, text)
            return True

        if await self.ask(write):
            self.notify(f"written to {path}", markup=False)


def direction(name: str) -> int:
    """1 when more of a figure is better, -1 when less is, 0 when its name does not tell."""
    last = name.replace("/", ".").rsplit(".", 1)[-1].lower()
    if any(part in last for part in _MORE):
        return 1
    return -1 if any(last.endswith(part) or part in last.split("_") for part in _LESS) else 0


def best(name: str, values: Sequence[float | None]) -> set[int]:
    """Places of the best values; none when it cannot be said, or when all are the same."""
    way = direction(name)
    known = {place: value for place, value in enumerate(values) if value is not None and math.isfinite(value)}
    if not way or len(known) < 2 or len(set(known.values())) == 1:
        return set()
    top = max(way * value for value in known.values())
    return {place for place, value in known.items() if way * value == top}


def rows_of(found: RunComparison, now: float, *, changed_only: bool = False) -> list[Row]:
    """The rows of a comparison.

    Args:
        found: the runs.
        now: unix seconds.
        changed_only: leave out what is the same in all.
    """
    two = len(found.runs) == 2
    rows = [_heading("results", "What they came to", len(found.runs), two)]
    for name in sorted(found.results, key=_rank):
        values = found.results[name]
        if not changed_only or any(value != values[0] for value in values):
            rows.append(_result(name, values, two))
    if len(rows) == 1:
        rows.append(_words("no-results", "no figures yet" if not changed_only else "no figure differs"))
    rows.append(_heading("settings", "Settings that differ", len(found.runs), two))
    differing = {key: values for key, values in found.settings.items() if key not in _UNSAID}
    rows += [_setting(key, values, two) for key, values in differing.items()]
    if not differing:
        rows.append(_words("no-settings", "none: they were asked to do the same"))
    if not changed_only:
        rows.append(_heading("runs", "The runs", len(found.runs), two))
        rows += _facts(found.runs, now)
    return rows


def change(before: Any, after: Any) -> Cell:
    """What became of a value."""
    if before == after:
        return Cell("=", "muted")
    if before is None:
        return Cell("new", "accent")
    if after is None:
        return Cell("removed", "accent")
    if _is_number(before) and _is_number(after):
        by = after - before
        share = f" ({by / abs(before):+.1%})" if before and math.isfinite(by / abs(before)) else ""
        return Cell(f"{'+' if by >= 0 else '-'}{number(abs(by), 3)}{share}")
    return Cell("changed", "accent")


def value_text(value: Any) -> str:
    """A setting or a figure in a cell."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return number(value) if _is_number(value) else json.dumps(value, default=str)


def table_of(found: RunComparison) -> tuple[list[str], list[list[Any]]]:
    """Heading and lines for a file: results, then settings that differ."""
    head = ["", *(run.run_id for run in found.runs)]
    lines: list[list[Any]] = [
        ["name", *(run.name for run in found.runs)],
        ["state", *(run.state for run in found.runs)],
    ]
    lines += [[name, *found.results[name]] for name in sorted(found.results, key=_rank)]
    lines += [[key, *values] for key, values in found.settings.items() if key not in _UNSAID]
    return head, lines


def _rank(name: str) -> tuple[int, str]:
    last = name.replace("/", ".").rsplit(".", 1)[-1]
    return (_HEADLINES.index(last) if last in _HEADLINES else len(_HEADLINES), name)


def _result(name: str, values: Sequence[float | None], two: bool) -> Row:
    tops = best(name, values)
    arrow = {1: " ↑", -1: " ↓"}.get(direction(name), "")
    cells = [Cell(f"{name}{arrow}")]
    cells += [
        Cell(f"★ {number(value)}" if place in tops else number(value), "success" if place in tops else "")
        for place, value in enumerate(values)
    ]
    if two:
        turned = change(values[0], values[1])
        good = bool(tops) and turned.tone == ""
        cells.append(Cell(turned.text, ("success" if tops == {1} else "warning") if good else turned.tone))
    return Row(f"result:{name}", tuple(cells))


def _setting(key: str, values: Sequence[Any], two: bool) -> Row:
    cells = [Cell(key), *(Cell(value_text(value), "muted" if value is None else "") for value in values)]
    return Row(f"setting:{key}", tuple([*cells, change(values[0], values[1])] if two else cells))


def _facts(runs: Sequence[RunSummary], now: float) -> list[Row]:
    def row(name: str, cells: Sequence[Cell]) -> Row:
        return Row(f"run:{name}", (Cell(name), *cells))

    return [
        row("run", [Cell(run.run_id, "muted") for run in runs]),
        row("state", [state_cell(run.state) for run in runs]),
        row("stage", [Cell(run.stage) for run in runs]),
        row("base", [Cell(run.base) for run in runs]),
        row("draft", [Cell(run.draft or "-") for run in runs]),
        row("algorithm", [Cell(run.algorithm) for run in runs]),
        row("step", [Cell("-" if run.step is None else f"{run.step:,}") for run in runs]),
        row("tokens", [Cell("-" if run.tokens is None else count(run.tokens)) for run in runs]),
        row("took", [Cell(duration(took_s(run))) for run in runs]),
        row("age", [Cell(ago(max(0.0, now - run.created))) for run in runs]),
        row("tags", [Cell(" ".join(run.tags), "accent") for run in runs]),
        row("note", [Cell(run.note) for run in runs]),
    ]


def _heading(key: str, title: str, runs: int, two: bool) -> Row:
    change_title = [Cell("change", "muted")] if two and key != "runs" else []
    return Row(f"head:{key}", (Cell(f"── {title}", "primary"), *(Cell() for _ in range(runs)), *change_title), "muted")


def _words(key: str, words: str) -> Row:
    return Row(key, (Cell(words, "muted"),))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
