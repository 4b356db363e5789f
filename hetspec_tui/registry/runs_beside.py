"""What stands beside a list of runs: the run under the cursor in words, and the curves of the chosen ones.

A page with a list derives from it; it says which runs those are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from textual import work
from textual.content import Content
from textual.events import Resize
from textual.widgets import Static

from hetspec_tui.formatting import safe
from hetspec_tui.pickers import Choice, Choose
from hetspec_tui.registry.details import details
from hetspec_tui.registry.overlay import series_of, usual_metric
from hetspec_tui.registry.run_actions import RunActions
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import colour, sign
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service import Workbench
    from hetspec_core.service.pages import MetricSeries

MOST_CURVES = 12
WIDE = 160
"""Cells from which on the run under the cursor is shown beside the table without being asked for."""


class RunsBeside(RunActions):
    """A page with a table of runs, and beside it `#run` and a chart."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = ""
        self._details_asked: bool | None = None

    @property
    def table(self) -> PagedTable:
        """The table of the runs."""
        return self.query_one("#runs", PagedTable)

    @property
    def chosen(self) -> tuple[str, ...]:
        return self.table.chosen

    @property
    def listed(self) -> tuple[str, ...]:
        return tuple(self.table.keys)

    def unmark(self, run_ids: tuple[str, ...]) -> None:
        self.table.set_marks([key for key in self.table.marks if key not in run_ids])

    def on_resize(self, event: Resize) -> None:
        if self._details_asked is None:
            self.set_class(event.size.width >= WIDE, "-details")
            self.draw_details()

    def action_details(self) -> None:
        """Show the run under the cursor beside the table, or hide it."""
        self._details_asked = not self.has_class("-details")
        self.set_class(self._details_asked, "-details")
        self.draw_details()

    def action_overlay(self) -> None:
        """Show the curves of the chosen runs over each other, or hide them."""
        self.toggle_class("-curves")
        if self.has_class("-curves"):
            self.draw_curves()
        else:
            self.table.set_mark_signs({})
            if self.query_one(Chart).has_focus:
                self.table.focus()

    @work(exclusive=True, group="details")
    async def draw_details(self) -> None:
        """Say in the side column what the run under the cursor is."""
        from hetspec_core.service.pages import Pages

        if not self.has_class("-details"):
            return
        await asyncio.sleep(0.05)  # while a key is held down
        if not self.is_whole:
            return
        run_id = self.table.cursor_key
        text = Content("")
        if run_id is not None:
            found = await self.ask(
                lambda workbench: (Pages(workbench).lines([run_id]), Pages(workbench).library.figures(run_id))
            )
            if found is not None and found[0]:
                text = details(found[0][0].summary, found[1])
        if self.is_whole:
            self.query_one("#run", Static).update(text)

    @work(exclusive=True, group="curves")
    async def draw_curves(self) -> None:
        """Draw the metric of the chosen runs."""
        from hetspec_core.service.pages import Pages

        await asyncio.sleep(0.05)
        if not self.is_whole:
            return
        run_ids = self.chosen[:MOST_CURVES]
        metric = self.metric

        def look(workbench: Workbench) -> tuple[str, list[MetricSeries]]:
            pages = Pages(workbench)
            names = list(pages.metrics(run_ids))
            name = metric if metric in names else usual_metric(names)
            return name, pages.curves(run_ids, name) if name else []

        found = await self.ask(look)
        if found is None:
            return
        name, curves = found
        chart = self.query_one(Chart)
        more = f"  (first {MOST_CURVES} of {len(self.chosen)})" if len(self.chosen) > MOST_CURVES else ""
        chart.border_title = Content(f"{safe(name) or 'no metric'}{more}")
        chart.border_subtitle = "m metric"
        chart.set_series([series_of(curve) for curve in curves], x_name="step")
        dark = self.app.current_theme.dark
        self.table.set_mark_signs(
            {key: (sign(index), colour(index, dark=dark)) for key, index in chart.colours.items()}
        )

    @work(group="dialog", exclusive=True)
    async def action_metric(self) -> None:
        """Choose the metric of the curves."""
        from hetspec_core.service.pages import Pages

        run_ids = self.chosen
        names = await self.ask(lambda workbench: Pages(workbench).metrics(run_ids))
        if names is None:
            return
        choices = [
            Choice(name, name, "" if len(run_ids) == 1 else f"in {runs} of {len(run_ids)}")
            for name, runs in names.items()
        ]
        name = await self.app.push_screen_wait(
            Choose("Which metric?", choices, self.metric, empty="these runs have no metrics yet")
        )
        if name is not None:
            self.metric = name
            self.add_class("-curves")
            self.draw_curves()
