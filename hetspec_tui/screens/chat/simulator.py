"""The tree simulator: what other tree shapes would have brought for recorded answers. It starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.widgets import Static

from hetspec_core.errors import UsageError
from hetspec_core.events.chat import Calibrated
from hetspec_core.service.traces.files import load_trace
from hetspec_core.service.traces.simulation import (
    Costs,
    Positions,
    Prediction,
    Simulation,
    grid,
    predict,
    read_positions,
    simulate,
)
from hetspec_core.spec import TreeSpec
from hetspec_tui.dialogs import Prompt
from hetspec_tui.formatting import number, safe
from hetspec_tui.page import Page
from hetspec_tui.widgets.cells import Cell, Column, Row
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series
from hetspec_tui.widgets.paged_table import PagedTable

COLUMNS = (
    Column("mark", "", 2),
    Column("shape", "Tree", 9),
    Column("nodes", "Nodes", 5, "right"),
    Column("accept", "Accept", 7, "right"),
    Column("certain", "Certain", 7, "right"),
    Column("own", "Own", 5, "right"),
    Column("step", "Step ms", 8, "right"),
    Column("speed", "Tok/s", 7, "right"),
    Column("plain", "x plain", 7, "right"),
    Column("note", "", 10, grow=1, most=40),
)


class SimulatorScreen(Page):
    """Predictions for tree shapes.

    Args:
        words: which recorded answers, as `load_trace` takes them.
        calibration: step costs of this machine, if they were measured.
        use: is given the shape that was taken with enter.
    """

    CSS_PATH = "chat.tcss"
    CRUMB = "Simulator"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "add", "Another shape", id="simulator.add", key_display="+"),
        Binding("f", "frontier", "Frontier", id="simulator.frontier", tooltip="The frontier alone, or all shapes"),
        Binding("c", "copy", "Copy best", id="simulator.copy"),
        Binding("escape", "app.back", "Back", id="simulator.back"),
    ]

    def __init__(
        self,
        words: tuple[str, ...],
        calibration: Calibrated | None = None,
        use: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.use = use
        self.words, self.costs = words, Costs(calibration) if calibration is not None else None
        self.answers: list[Positions] = []
        self.found: Simulation | None = None
        self.extra: list[TreeSpec] = []
        self.frontier_only = False

    def compose_page(self) -> ComposeResult:
        yield Static(id="simulator-head", markup=False)
        with Container(id="simulator-body"):
            yield Chart(x_name="nodes", empty="playing the trees again...", id="simulator-chart")
            yield PagedTable(id="simulator-table", marking=False, empty="playing the trees again...")

    def on_mount(self) -> None:
        self.query_one(PagedTable).focus()
        self.run()

    @work(exclusive=True, group="simulation")
    async def run(self) -> None:
        """Predict every shape, in a thread."""
        words, extra, costs = self.words, tuple(self.extra), self.costs

        def question(_: object) -> tuple[list[Positions], Simulation]:
            answers = [read_positions(load_trace(word), word) for word in words]
            found = simulate(answers, [*grid(answers), *extra], costs)
            return answers, found

        made = await self.ask(question)
        if not self.is_whole:
            return
        if made is None:
            self.query_one(PagedTable).set_empty("these answers cannot be used for a simulation\nesc goes back")
            return
        self.answers, self.found = made
        self.show()

    def show(self) -> None:
        found = self.found
        if found is None:
            return
        self.query_one("#simulator-head", Static).update(self._head(found), layout=False)
        chart = self.query_one(Chart)
        chart.border_title = "accept length by nodes verified"
        chart.set_series(chart_series(found))
        rows = [row_of(one, found) for one in (found.frontier if self.frontier_only else found.predictions)]
        table = self.query_one(PagedTable)
        table.set_columns([one for one in COLUMNS if self.costs or one.key not in ("step", "speed", "plain")])
        table.set_keys(tuple(row.key for row in rows))
        table.put_rows([row.key for row in rows], [self._without_costs(row) for row in rows])

    def _without_costs(self, row: Row) -> Row:
        if self.costs:
            return row
        kept = [cell for cell, column in zip(row.cells, COLUMNS) if column.key not in ("step", "speed", "plain")]
        return Row(row.key, tuple(kept), row.tone)

    def _head(self, found: Simulation) -> Content:
        recorded = ", ".join(sorted({answer.shape.label for answer in self.answers}))
        names = f"{len(self.words)} recorded answers" if len(self.words) > 1 else safe(", ".join(self.words))
        parts: list[tuple[str, str] | str] = [
            ("from ", "dim"),
            names,
            (f", recorded with {recorded}", "dim"),
        ]
        best = found.best
        if best is not None:
            parts += [("   ★ best ", "$text-accent"), (best.shape.label, "bold"), f" accept {best.accept_length:.2f}"]
            if best.tokens_per_s is not None:
                parts.append(f", {best.tokens_per_s:.1f} tok/s")
            if best.speedup is not None:
                slow = best.speedup < 1
                parts.append((f" {best.speedup:.2f}x plain", f"bold {'$text-warning' if slow else '$text-success'}"))
                if slow:
                    parts.append((", slower", "$text-warning"))  # one line, so that the next one is seen
        if self.costs is None:
            parts.append(
                ("\nNo step costs yet: b in the chat measures them, then the fastest shape is known.", "$text-warning")
            )
        else:
            parts.append(
                (
                    "\nStep costs measured here; of shapes between the measured ones they are estimated (~).",
                    "dim",
                )
            )
        return Content.assemble(*parts)

    # --- keys ---------------------------------------------------------------------------------------------------------

    @work(group="dialog", exclusive=True)
    async def action_add(self) -> None:
        text = await self.app.push_screen_wait(Prompt("Which shape?", hint="depth/top_k/nodes, e.g. 5/4/20"))
        if not text:
            return
        try:
            shape = TreeSpec.parse(text.strip())
        except ValueError as error:
            self.show_error(UsageError(f"{text!r} is not a tree shape: {error}", hint="depth/top_k/nodes, e.g. 5/4/20"))
            return
        self.extra.append(shape)
        if self.answers:
            one = await self.ask(lambda _: predict(self.answers, shape, self.costs))
            if one is not None:
                self.notify(f"{shape.label}: accept length {one.accept_length:.2f}", timeout=4)
        self.frontier_only = False
        self.run()

    @on(PagedTable.Selected)
    def take(self, message: PagedTable.Selected) -> None:
        """Use the shape under the cursor in the chat."""
        if self.use is not None and not self.desk.read_only:
            self.use(message.key)
            self.notify(f"The next answer uses the tree {message.key}.", timeout=3)

    def action_frontier(self) -> None:
        self.frontier_only = not self.frontier_only
        self.show()

    def action_copy(self) -> None:
        if self.found is not None and self.found.best is not None:
            label = self.found.best.shape.label
            self.app.copy_to_clipboard(label)
            self.notify(label, title="Copied", timeout=2)


def row_of(one: Prediction, found: Simulation) -> Row:
    """A prediction as a row of the table; extrapolated ones are marked by a sign and in words."""
    best, frontier = found.best is not None and one.shape == found.best.shape, one in found.frontier
    sign = "★" if best else "*" if one.extrapolated else "●" if frontier else ""
    note = "best" if best else "larger than recorded" if one.extrapolated else "frontier" if frontier else ""
    tone = "success" if best else "warning" if one.extrapolated else "" if frontier else "muted"
    step = "-" if one.step_s is None else f"{'' if one.measured_cost else '~'}{one.step_s * 1000:.1f}"
    cells = (
        Cell(sign, "accent" if frontier or best else "warning"),
        Cell(one.shape.label, "strong" if best else ""),
        Cell(f"{one.shape.num_nodes}"),
        Cell(f"{one.accept_length:.2f}", "strong" if frontier else ""),
        Cell(f"{one.certain:.0%}"),
        Cell(f"{one.own_trees:.0%}"),
        Cell(step),
        Cell(number(one.tokens_per_s)),
        Cell("-" if one.speedup is None else f"{one.speedup:.2f}"),
        Cell(note),
    )
    return Row(one.shape.label, cells, tone)


def chart_series(found: Simulation) -> list[Series]:
    """The longest accept length for at most so many nodes: of all trees, and of chains."""
    made = []
    for key, label, chosen in (
        ("trees", "trees", [one for one in found.predictions if one.shape.top_k > 1]),
        ("chains", "chains", [one for one in found.predictions if one.shape.top_k == 1]),
    ):
        most: dict[int, float] = {}
        for one in chosen:
            if not one.extrapolated:
                nodes = one.shape.num_nodes
                most[nodes] = max(most.get(nodes, 0.0), one.accept_length)
        points: list[tuple[int, float]] = []
        for nodes, length in sorted(most.items()):
            points.append((nodes, max(length, points[-1][1] if points else 0.0)))
        if points:
            made.append(Series(key, label, [float(x) for x, _ in points], [y for _, y in points]))
    return made
