"""Panes of the screen of a run: its curves, its settings, and the source of its logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.cells import cell_len
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from hetspec_core.service.export import save_export
from hetspec_core.service.library import Library
from hetspec_core.service.logs import LogFile, LogState
from hetspec_core.service.pages import Axis, Pages
from hetspec_tui.desk import Desk
from hetspec_tui.dialogs import Prompt
from hetspec_tui.formatting import number, safe
from hetspec_tui.page import Page
from hetspec_tui.screens.run.texts import MUTED, setting_lines
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series, csv_of
from hetspec_tui.widgets.log_view import ListSource, LogView, Search

if TYPE_CHECKING:
    from hetspec_core.service.presets import ResolvedValue
    from hetspec_core.service.workbench import Workbench

AXES: dict[Axis, str] = {"step": "step", "tokens": "tokens", "wall_s": "time"}
"""What the service calls an axis -> what the chart calls it."""

FIRST = ("loss", "eval/loss", "accept_length", "eval/accept_length")
_PERIOD_S = 1.0
_POINTS = 2000
_MOST_POINTS = 20_000
_LIST_CELLS = 24


class CurvesPane(Horizontal):
    """A list of metrics to choose from, and the chart of the chosen ones.

    Args:
        run_id: whose.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("X", "axis", "Axis", id="curves.axis", tooltip="x = step, tokens or wall time"),
        Binding("o", "overlay", "Overlay", id="curves.overlay", tooltip="Draw other runs over this one"),
        Binding("M", "metrics", "Metrics", id="curves.metrics", tooltip="Choose metrics"),
        Binding("space", "draw_metric", "Draw", id="curves.toggle", show=False),
        Binding("E", "export", "Save CSV", id="curves.export", show=False),
    ]

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.axis: Axis = "step"
        self.others: list[str] = []
        self.names: dict[str, str] = {}
        self._known: list[str] = []
        self._wanted: set[str] = set()
        self._dirty = False
        self._next = 0.0
        self._chosen = False
        self._values: dict[str, float | None] = {}

    def compose(self) -> ComposeResult:
        yield OptionList(id="metrics")
        yield Chart(empty="no metrics yet", id="curves")

    @property
    def chart(self) -> Chart:
        return self.query_one(Chart)

    @property
    def page(self) -> Page:
        return cast(Page, self.screen)

    def know(self, metrics: list[str]) -> None:
        """The run has these metrics, and perhaps new points."""
        self._dirty = True
        if metrics == self._known:
            return
        self._known = metrics
        if not self._chosen and metrics:
            self._wanted = {name for name in FIRST[:2] if name in metrics} or set(metrics[:1])
        self._list()

    def _list(self) -> None:
        """The metrics with a sign before those that are drawn, and their newest values."""
        chooser = self.query_one("#metrics", OptionList)
        options = []
        for name in self._known:
            sign = Content.styled("✔ ", "$success") if name in self._wanted else Content("  ")
            text = safe(name)
            value = number(self._values[name], 3) if name in self._values else ""
            room = max(1, _LIST_CELLS - cell_len(text) - cell_len(value))
            options.append(Option(sign + Content(text + " " * room) + Content.styled(value, MUTED), id=name))
        if [option.id for option in chooser.options] == self._known:
            for option in options:
                chooser.replace_option_prompt(str(option.id), option.prompt)
        else:
            chooser.clear_options()
            chooser.add_options(options)

    def tick(self) -> None:
        now = time.monotonic()
        if self._dirty and now >= self._next:
            self._dirty, self._next = False, now + _PERIOD_S
            self.bring()

    @work(exclusive=True, group="curves")
    async def bring(self) -> None:
        """Ask for the points of all curves, and show them."""
        runs, metrics, axis = [self.run_id, *self.others], [m for m in self._known if m in self._wanted], self.axis
        points = self._points()

        def question(workbench: Workbench) -> tuple[list[Series], dict[str, float | None]]:
            found: list[Series] = []
            curves = Pages(workbench).curves
            for run_id in runs:
                for metric in metrics:
                    name = self.names.get(run_id, run_id)
                    if len(runs) == 1:
                        key, label = metric, metric
                    elif len(metrics) == 1:
                        key, label = run_id, name
                    else:
                        key, label = f"{run_id} {metric}", f"{name} {metric}"
                    found += [Series(key, label, one.xs, one.ys) for one in curves([run_id], metric, axis, most=points)]
            newest = {point.name: point.value for point in workbench.registry.last_metrics(self.run_id)}
            return sorted(found, key=lambda one: -len(one.xs)), newest  # the sparse ones are drawn above the dense

        answer = await self.page.ask(question)
        if answer is not None and self.is_mounted:
            series, self._values = answer
            self._list()
            chart = self.chart
            chart.empty = (
                "no metrics yet" if not self._known else "no metric is chosen: M" if not metrics else "no points yet"
            )
            chart.border_title = Content(safe(metrics[0]) if len(metrics) == 1 and len(runs) > 1 else "")
            chart.set_series(series, x_name=AXES[axis])

    def _points(self) -> int:
        """More where only a part is seen, so that zooming shows what was thinned out."""
        chart = self.chart
        whole = [(one.xs[0], one.xs[-1]) for one in chart.series if len(one.xs)]
        if chart.x_range is None or not whole:
            return _POINTS
        span = max(high for _, high in whole) - min(low for low, _ in whole)
        seen = chart.x_range[1] - chart.x_range[0]
        return int(min(_MOST_POINTS, _POINTS * max(1.0, span / seen))) if seen > 0 else _MOST_POINTS

    @on(Chart.ViewChanged)
    def _view_changed(self) -> None:
        if self.chart.x_range is not None:
            self._dirty = True

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._chosen = True
        self._wanted ^= {str(event.option_id)}
        self._list()
        self.bring()

    def action_draw_metric(self) -> None:
        self.query_one("#metrics", OptionList).action_select()

    def action_metrics(self) -> None:
        chooser = self.query_one("#metrics", OptionList)
        if chooser.has_focus:
            self.screen.remove_class("-choosing")
            self.chart.focus()
        else:
            self.screen.add_class("-choosing")
            chooser.focus()

    def action_axis(self) -> None:
        names = list(AXES)
        self.axis = names[(names.index(self.axis) + 1) % len(names)]
        self.bring()

    @work
    async def action_overlay(self) -> None:
        words = await self.app.push_screen_wait(
            Prompt(
                "Which runs to draw over this one?",
                " ".join(self.others),
                "ids or names, with blanks between; none = only this run",
            )
        )
        if words is None:
            return

        def question(workbench: Workbench) -> dict[str, str]:
            run_ids = Library(workbench).resolve(words.split())
            return {run_id: workbench.summary(run_id).name or run_id for run_id in run_ids}

        found = await self.page.ask(question)
        if found is not None:
            found.pop(self.run_id, None)
            self.others = list(found)
            self.names |= found
            self.bring()

    @work
    async def action_export(self) -> None:
        series, x_name, x_range = list(self.chart.series), self.chart.x_name, self.chart.x_range
        name = f"{self.names.get(self.run_id, self.run_id)}-{'-'.join(sorted(self._wanted))}"
        path = await self.page.change(
            lambda workbench: save_export(workbench, name, ".csv", csv_of(series, x_name, x_range))
        )
        if path is not None:
            self.app.copy_to_clipboard(str(path))
            self.notify(f"{path}\nThe path is on the clipboard.", title="Saved", markup=False)

    def view_state(self) -> dict[str, Any]:
        chosen = sorted(self._wanted) if self._chosen else None
        return {"axis": self.axis, "metrics": chosen, "chart": self.chart.view_state()}

    def restore_view(self, state: dict[str, Any]) -> None:
        """Take up `view_state`; what is odd in it is left out."""
        if state.get("axis") in AXES:
            self.axis = state["axis"]
        if isinstance(state.get("metrics"), list):
            self._chosen, self._wanted = True, {str(name) for name in state["metrics"]}
            known, self._known = self._known, []
            self.know(known)
        if isinstance(state.get("chart"), dict):
            self.chart.restore_view(state["chart"])
        self._dirty = True


class SettingsView(LogView):
    """Lines to read and filter, broken anew at every width."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(empty="its spec cannot be read by this version", follow=False, id=id)
        self._values: Sequence[ResolvedValue] = ()
        self._width = 0

    def on_mount(self) -> None:
        self.lines.wrap = True

    def show(self, values: Sequence[ResolvedValue]) -> None:
        self._values, self._width = values, 0
        self._lay_out()

    def on_resize(self) -> None:
        self.call_after_refresh(self._lay_out)  # when the lines have their new size too

    def _lay_out(self) -> None:
        width = self.lines.scrollable_content_region.width if self.is_mounted else 0
        if width and width != self._width and self._values:
            self._width = width
            self.set_source(ListSource(setting_lines(self._values, width)))


class FileSource:
    """One log file.

    Args:
        desk: whose threads read it.
        path: the file; it need not be there yet.
    """

    def __init__(self, desk: Desk, path: Path) -> None:
        self.desk = desk
        self.file = LogFile(path)

    async def look(self) -> LogState:
        return await self.desk.ask(lambda _: self.file.advance())

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        return await self.desk.ask(lambda _: self.file.pick(numbers))

    async def tail(self, most: int) -> list[str]:
        return await self.desk.ask(lambda _: self.file.tail(most))

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        return await self.desk.ask(lambda _: self.file.find(search, start, inverse=inverse))
