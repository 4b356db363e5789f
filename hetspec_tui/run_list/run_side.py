"""Beside a list of runs: the run under the cursor in words, and the curves of the chosen runs in one chart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from hetspec_core.events import AT_WORK
from hetspec_tui.dialogs import Choice, Choose
from hetspec_tui.formatting import STATE_COLOURS, STATE_SIGNS, ago, count, duration, number, safe
from hetspec_tui.page import Page
from hetspec_tui.run_list.runs_table import RunsTable, moment, times, took_s, two_places
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series, colour, sign

if TYPE_CHECKING:
    from hetspec_core.service.pages import MetricSeries
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench

MOST_CURVES = 12
_WAIT_S = 0.05  # while a key is held down
_LABEL = 11


class RunSide(Vertical):
    """The side of a page with a table of runs. The page's classes `-details` and `-curves` say what is shown.

    Args:
        table: whose chosen runs are shown.
    """

    def __init__(self, table: RunsTable, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.table = table
        self.metric = ""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="details", can_focus=False):
            yield Static(id="run")
        yield Chart(id="curves")

    @property
    def page(self) -> Page:
        return cast(Page, self.screen)

    @property
    def has_curves(self) -> bool:
        """Whether the chart is shown."""
        return self.page.has_class("-curves")

    def toggle_curves(self) -> None:
        self.page.toggle_class("-curves")
        if self.has_curves:
            self.draw_curves()
        else:
            self.table.set_mark_signs({})
            if self.query_one(Chart).has_focus:
                self.table.focus()

    @work(exclusive=True, group="details")
    async def draw_details(self) -> None:
        """Describe the run under the cursor, where there is room for it."""
        from hetspec_core.service.library import Library

        if not self.page.has_class("-details"):
            return
        await asyncio.sleep(_WAIT_S)
        if not self.page.is_whole:
            return
        run_id = self.table.cursor_key
        text = Content("")
        if run_id is not None:
            found = await self.page.ask(
                lambda workbench: (workbench.summaries_of([run_id]), Library(workbench).figures(run_id))
            )
            if found is not None and found[0]:
                text = details(found[0][0], found[1])
        if self.page.is_whole:
            self.query_one("#run", Static).update(text)

    @work(exclusive=True, group="curves")
    async def draw_curves(self) -> None:
        from hetspec_core.service.pages import Pages

        await asyncio.sleep(_WAIT_S)
        if not self.page.is_whole:
            return
        chosen, metric = self.table.chosen, self.metric
        run_ids = chosen[:MOST_CURVES]

        def look(workbench: Workbench) -> tuple[str, list[MetricSeries]]:
            pages = Pages(workbench)
            names = list(pages.metrics(run_ids))
            name = metric if metric in names else usual_metric(names)
            return name, pages.curves(run_ids, name) if name else []

        found = await self.page.ask(look)
        if found is None:
            return
        name, curves = found
        chart = self.query_one(Chart)
        more = f"  (first {MOST_CURVES} of {len(chosen)})" if len(chosen) > MOST_CURVES else ""
        chart.border_title = Content(f"{safe(name) or 'no metric'}{more}")
        chart.border_subtitle = "m metric"
        chart.set_series([series_of(curve) for curve in curves], x_name="step")
        dark = self.app.current_theme.dark
        self.table.set_mark_signs(
            {key: (sign(index), colour(index, dark=dark)) for key, index in chart.colours.items()}
        )

    @work(group="dialog", exclusive=True)
    async def choose_metric(self) -> None:
        """Choose the metric of the curves, and show them."""
        from hetspec_core.service.pages import Pages

        run_ids = self.table.chosen
        names = await self.page.ask(lambda workbench: Pages(workbench).metrics(run_ids))
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
            self.page.add_class("-curves")
            self.draw_curves()


def details(run: RunSummary, figures: Mapping[str, float], most_figures: int = 24) -> Content:
    """The run in lines.

    Args:
        run: which.
        figures: everything that it measured, by name.
        most_figures: of these so many at most.
    """
    state_colour = STATE_COLOURS.get(run.state, "")
    parts: list[Content] = [
        Content.assemble(("★ " if run.starred else "", "$warning"), (safe(run.name) or "-", "bold")),
        Content.assemble(
            (f"{STATE_SIGNS.get(run.state, '')} {run.state}", state_colour),
            (f"  {run.stage}" + ("  archived" if run.archived else ""), "dim"),
        ),
        Content.styled(run.run_id, "dim"),
    ]
    if run.progress is not None and run.state in AT_WORK:
        width = 24
        full = round(run.progress * width)
        parts += [
            Content.assemble(
                ("█" * full, "$primary"), ("░" * (width - full), "dim"), f" {run.progress:.0%} {safe(run.task)}"
            )
        ]
    if run.error is not None:
        parts += [
            Content(""),
            Content.styled(f"✖ {safe(run.error['kind'])}: {safe(run.error['message'])}", "$text-error"),
        ]
        if run.error["hint"]:
            parts.append(Content.styled(f"→ {safe(run.error['hint'])}", "dim"))
    parts.append(Content(""))
    parts += _lines(
        {
            "base": run.base,
            "draft": run.draft,
            "algorithm": run.algorithm,
            "recipe": run.recipe,
            "created": f"{moment(run.created)}  ({ago(max(0.0, time.time() - run.created))} ago)",
            "took": "" if took_s(run) is None else duration(took_s(run)),
            "attempt": str(run.attempt) if run.attempt > 1 else "",
            "step": "" if run.step is None else f"{run.step:,}",
            "tokens": "" if run.tokens is None else count(run.tokens),
            "accept": "" if run.accept_length is None else two_places(run.accept_length),
            "speed-up": "" if run.speedup is None else times(run.speedup),
            "tags": " ".join(run.tags),
            "depends on": "\n".join(run.parents),
            "note": run.note,
        }
    )
    if figures:
        parts += [Content(""), Content.styled("figures", "bold $text-accent")]
        width = min(30, max(len(safe(name)) for name in figures))
        shown = sorted(figures)[:most_figures]
        parts += [
            Content.assemble((f"{safe(name)[-width:]:<{width}}  ", "dim"), number(figures[name])) for name in shown
        ]
        if len(figures) > most_figures:
            parts.append(Content.styled(f"and {len(figures) - most_figures} more: enter opens the run", "dim"))
    return Content("\n").join(parts)


def _lines(facts: Mapping[str, str]) -> list[Content]:
    lines: list[Content] = []
    for name, value in facts.items():
        for number_, part in enumerate(value.split("\n") if value else ()):
            label = name if number_ == 0 else ""
            lines.append(Content.assemble((f"{label:<{_LABEL}}", "dim"), safe(part)))
    return lines


def usual_metric(names: Sequence[str]) -> str:
    """The metric that is looked at first; empty when there is none."""
    for wanted in ("loss", "accept_length"):
        for name in names:
            if name.rsplit("/", 1)[-1] == wanted:
                return name
    return names[0] if names else ""


def series_of(curve: MetricSeries) -> Series:
    """The curve of a run, by the run's id."""
    return Series(curve.run.run_id, curve.run.name or curve.run.run_id, curve.xs, curve.ys)
