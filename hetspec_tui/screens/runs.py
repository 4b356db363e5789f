"""The history: all runs in one table, with a filter, any order, any columns, and curves of several runs in one chart.

It asks the desk for all ids, and for the rows near the view, so its speed does not depend on the number of runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import DescendantFocus, Resize
from textual.widgets import Input

from hetspec_core.errors import HetSpecError, UsageError
from hetspec_tui.formatting import number
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenRun
from hetspec_tui.run_commands import RunCommands, run_bindings
from hetspec_tui.run_list import runs_table as known
from hetspec_tui.run_list.filter_line import FilterLine
from hetspec_tui.run_list.run_side import RunSide
from hetspec_tui.run_list.runs_table import NEWEST_FIRST, RunsTable
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service.pages import Listing, Vocabulary
    from hetspec_core.service.workbench import Workbench

DEBOUNCE_S = 0.12
LOOK_S = 1.0
"""Seconds between looks at what is new; more when a look takes long (`LOOK_SHARE`)."""
LOOK_SHARE = 60
WIDE = 160
"""Cells from which on the run under the cursor is shown beside the table without being asked for."""


class RunsScreen(Page):
    """All runs."""

    CRUMB = "Runs"
    CSS_PATH = "runs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("o", "overlay", "Curves", id="runs.overlay", tooltip="Curves of the chosen runs in one chart"),
        *run_bindings(
            "runs",
            *("compare", "tag", "star", "cancel", "resume", "delete"),
            hidden=("retry", "kill", "archive", "note", "restore", "lineage", "copy_id", "copy_path"),
        ),
        Binding("e", "export", "Export", show=False, id="runs.export"),
        Binding("S", "reverse", "Reverse order", show=False, id="runs.reverse"),
        Binding("w", "columns", "Columns", show=False, id="runs.columns"),
        Binding("m", "metric", "Metric of the curves", show=False, id="runs.metric"),
        Binding("D", "details", "Details", show=False, id="runs.details"),
        Binding("A", "archived", "Archived too", show=False, id="runs.archived"),
        Binding("escape", "back_out", "Back", show=False, id="runs.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.filter_line = FilterLine()
        self.table = RunsTable(id="runs")
        self.side = RunSide(self.table, id="side")
        self.commands = RunCommands(self, lambda: self.table.chosen, unmark=self._unmark)
        self.filter = ""
        self.with_archived = False
        self.total = 0
        self._before = ""
        self._typed: str | None = None
        self._wanted: str | None = None
        self._details_asked: bool | None = None
        self._fetching = False
        self._looked = 0.0
        self._is_new = True
        self._look_took = 0.0

    def compose_page(self) -> ComposeResult:
        yield self.filter_line
        with Horizontal(id="body"):
            yield self.table
            yield self.side

    def on_mount(self) -> None:
        self.table.focus()
        self.table.show_columns()
        self.load()
        self.learn()
        self.set_interval(LOOK_S / 2, self.look_now_and_then)

    def on_resize(self, event: Resize) -> None:
        if self._details_asked is None:
            self.set_class(event.size.width >= WIDE, "-details")
            self.side.draw_details()

    # --- the parts ---------------------------------------------------------------------------------------------------

    @property
    def line(self) -> Input:
        return self.filter_line.input

    def _unmark(self, run_ids: tuple[str, ...]) -> None:
        self.table.set_marks([key for key in self.table.marks if key not in run_ids])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "run_command":
            return self.commands.is_possible(str(parameters[0]))
        return super().check_action(action, parameters)

    def action_run_command(self, name: str) -> None:
        self.commands.start(name)

    # --- what is kept and what others ask for ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "filter": self.filter,
            "order": list(self.table.order),
            "archived": self.with_archived,
            "columns": list(self.table.shown),
            "run": self.table.cursor_key,
            "metric": self.side.metric,
            "curves": self.side.has_curves,
            "details": self._details_asked,
        }

    def restore(self, state: dict[str, Any]) -> None:
        match state.get("order"):
            case [str(key), bool(falls)]:
                self.table.order = (key, falls)
            case _:
                pass
        columns = state.get("columns")
        if isinstance(columns, list) and columns and all(isinstance(key, str) for key in columns):
            self.table.shown = tuple(dict.fromkeys(columns))
        if isinstance(state.get("filter"), str):
            self.put_filter(state["filter"])
        if isinstance(state.get("metric"), str):
            self.side.metric = state["metric"]
        if isinstance(state.get("details"), bool):
            self._details_asked = state["details"]
            self.set_class(state["details"], "-details")
        self.with_archived = state.get("archived") is True
        self._wanted = state["run"] if isinstance(state.get("run"), str) else None
        self.set_class(state.get("curves") is True, "-curves")
        self.table.show_columns()
        self.load()

    def receive(self, about: dict[str, Any]) -> None:
        query = about.get("query")
        if isinstance(query, str):
            self.put_filter(query)
            self.load()
        if isinstance(about.get("run"), str):
            self._wanted = about["run"]
            self.load()
        self.table.focus()

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        self.load()

    # --- fetching ----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="listing")
    async def load(self, text: str | None = None) -> None:
        """Ask which runs there are and show them; what is wrong with a filter is said, and the last list stays.

        Args:
            text: the filter that is being typed; the one in force when absent.
        """
        from hetspec_core.service.pages import Pages, split_query

        if text is not None:
            self._typed = text
            await asyncio.sleep(DEBOUNCE_S)
        else:
            text = self._typed  # a change of a run must not discard what is being typed
        filter_, (key, falls), archived = self.filter if text is None else text, self.table.order, self.with_archived
        words, sort = split_query(filter_), f"{key}:{'desc' if falls else 'asc'}"
        began = time.monotonic()
        sync = text is None and not self._is_new  # at first what is known already, at once
        try:
            listing = await self.desk.ask(
                lambda workbench: Pages(workbench).listing(words, sort=sort, archived=archived, sync=sync)
            )
        except UsageError as error:
            if text is None and key not in known.KNOWN and repr(key) in error.message:
                self.table.order = NEWEST_FIRST  # a metric that no run has any more
                self.table.show_columns()
                self.load()
                return
            self._typed = None
            if self.is_whole:
                self.filter_line.say_wrong(error, filter_)
                if not self.table.loaded:  # a saved filter that is wrong now: there is no earlier list to keep
                    self.filter = ""
                    self.load()
            return
        except HetSpecError as error:
            self.show_error(error)
            return
        if not self.is_whole:
            return
        if self._is_new and text is None:
            self._is_new = False
            self.call_later(self.load)
            if not listing.run_ids:
                return
        self._look_took = time.monotonic() - began
        self._looked = time.monotonic()
        if text is not None and not listing.run_ids and self.line.has_focus and self.filter_line.hints(text).is_name:
            self._typed = None
            self.filter_line.say_hint()  # the list stays while a name is typed that says nothing yet
            return
        self.filter, self._typed = filter_, None
        if text is not None:
            self.filter_line.say_hint()
        await self.show_listing(listing)

    async def show_listing(self, listing: Listing) -> None:
        """Show these runs, and read again those in view."""
        self.total = listing.total
        table = self.table
        first = not table.keys
        table.set_keys(listing.run_ids)
        if (self._wanted is not None and table.move_to(self._wanted)) or first:
            self._wanted = None
        self.say_empty()
        self.say_count()
        await self.read(table.near())
        if not self.is_whole:
            return
        if self.side.has_curves:
            self.side.draw_curves()
        if self.has_class("-details"):
            self.side.draw_details()

    @on(PagedTable.RowsWanted)
    def rows_wanted(self) -> None:
        if not self._fetching:
            self._fetching = True
            self.run_worker(self._fetch(), group="rows")

    async def _fetch(self) -> None:
        try:
            while self.is_whole and (missing := self.table.missing()):  # newest first: those in view now
                if not await self.read(missing[: 2 * max(20, self.table.size.height)]):
                    return
        finally:
            self._fetching = False

    async def read(self, run_ids: list[str]) -> bool:
        """Read rows and give them to the table; False when it failed."""
        from hetspec_core.service.pages import Pages

        if not run_ids:
            return True
        shown = self.table.shown
        names = known.further_names(shown)
        lines = await self.ask(lambda workbench: Pages(workbench).lines(run_ids, names))
        if lines is None:
            return False
        if shown == self.table.shown:
            self.table.put_rows(run_ids, [known.row_of(line, shown) for line in lines])
        return True

    def look_now_and_then(self) -> None:
        """Look at what is new, as often as the looking is cheap, while the screen is seen."""
        busy = any(worker.group == "listing" and not worker.is_finished for worker in self.workers)
        pause = max(LOOK_S, self._look_took * LOOK_SHARE)
        if self.is_current and not busy and time.monotonic() - self._looked >= pause:
            self.load()

    def on_screen_resume(self) -> None:
        self.load()

    @work(exclusive=True, group="words")
    async def learn(self) -> None:
        """Ask which words a filter may use now."""
        found = await self.vocabulary()
        if found is not None:
            self.filter_line.learn(found)

    def say_count(self) -> None:
        """Say how many runs there are, how many are marked, and what the order is."""
        table = self.table
        shown = len(table.keys)
        parts = [f"{shown:,}" if shown == self.total else f"{shown:,}/{self.total:,}"]
        if table.marks:
            listed = set(table.keys)
            hidden = sum(1 for key in table.marks if key not in listed)
            parts.append(f"{len(table.marks)} marked" + (f" ({hidden} not listed)" if hidden else ""))
        key, falls = self.table.order
        if key not in self.table.shown and self.table.order != NEWEST_FIRST:  # newest first is what one expects
            parts.append(f"by {known.title_of(key).lower()} {'▼' if falls else '▲'}")
        if self.with_archived:
            parts.append("archived too")
        self.filter_line.say_count(" · ".join(parts))

    def say_empty(self) -> None:
        """Say what to press when there is nothing to see."""
        if self.filter.strip():
            words = "no run is like that\nesc clears the filter"
            words += "" if self.with_archived else ", A shows archived runs too"
        else:
            words = "no runs yet\n4 starts one; hetspec-core demo makes some in minutes"
        self.table.set_empty(words)

    # --- the filter --------------------------------------------------------------------------------------------------

    def put_filter(self, text: str) -> None:
        """Put a filter in force; `load` shows what it gives."""
        self.filter, self._typed = text, None
        self.filter_line.put(text)

    def action_filter(self) -> None:
        self._before = self.filter
        self.set_focus(self.line)  # at once: what is typed right behind must reach it

    @on(Input.Changed, "#filter")
    def filter_changed(self, event: Input.Changed) -> None:
        self.load(event.value)

    @on(Input.Submitted, "#filter")
    def filter_taken(self, event: Input.Submitted) -> None:
        self.set_focus(self.table)
        if event.value != self.filter:
            self.load(event.value)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        if event.widget is self.line:
            self._before = self.filter
            self.learn()

    def action_back_out(self) -> None:
        """Undo one thing: what was typed, the marks, the curves, the filter; then leave."""
        if self.line.has_focus:
            self.put_filter(self._before)
            self.filter_line.remove_class("-hint")
            self.set_focus(self.table)
            self.load()
        elif self.table.marks:
            self.table.set_marks(())
        elif self.side.has_curves:
            self.action_overlay()
        elif self.filter or self.line.value:
            self.put_filter("")
            self.filter_line.remove_class("-hint")
            self.load()
        else:
            self.run_worker(self.app.run_action("back"))

    # --- what the table says -----------------------------------------------------------------------------------------

    @on(PagedTable.Highlighted)
    def highlighted(self) -> None:
        self.side.draw_details()
        if self.side.has_curves and not self.table.marks:
            self.side.draw_curves()

    @on(PagedTable.Marked)
    def marked(self) -> None:
        self.say_count()
        if self.side.has_curves:
            self.side.draw_curves()

    def action_archived(self) -> None:
        self.with_archived = not self.with_archived
        self.load()

    def action_overlay(self) -> None:
        self.side.toggle_curves()

    def action_metric(self) -> None:
        self.side.choose_metric()

    def action_details(self) -> None:
        self._details_asked = not self.has_class("-details")
        self.set_class(self._details_asked, "-details")
        self.side.draw_details()

    @on(PagedTable.Selected)
    def open_run(self, event: PagedTable.Selected) -> None:
        self.post_message(OpenRun(event.key))

    # --- order and columns -------------------------------------------------------------------------------------------

    async def vocabulary(self) -> Vocabulary | None:
        """The names that runs have values under now."""
        from hetspec_core.service.pages import Pages

        return await self.ask(lambda workbench: Pages(workbench).vocabulary())

    async def _all_keys(self) -> list[str]:
        """Every column there can be: those shown, the other known ones, metrics, settings."""
        words = await self.vocabulary()
        further = [*words.metrics, *words.settings] if words is not None else []
        return list(dict.fromkeys([*self.table.shown, *known.KNOWN, *further]))

    @on(RunsTable.Reordered)
    def reordered(self) -> None:
        self.load()

    def action_reverse(self) -> None:
        self.table.sort_by(self.table.order[0])

    @work(group="dialog", exclusive=True)
    async def action_sort(self) -> None:
        await self.table.choose_order(await self._all_keys())

    @work(group="dialog", exclusive=True)
    async def action_columns(self) -> None:
        if await self.table.choose_columns(await self._all_keys()):
            self.say_count()
            await self.read(self.table.near())

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        """Write the marked runs, or all of the list, with everything they measured into a file."""
        from hetspec_core.files import write_output
        from hetspec_core.service.export import runs_text
        from hetspec_core.service.library import Library

        run_ids = self.table.chosen if len(self.table.chosen) > 1 else tuple(self.table.keys)
        if not run_ids:
            self.notify("There are no runs to export.", severity="warning", timeout=3, markup=False)
            return
        chosen = await self.ask_file(f"{len(run_ids):,} run{'s' if len(run_ids) != 1 else ''}", "runs.csv")
        if chosen is None:
            return
        path, form = chosen

        def write(workbench: Workbench) -> int:
            runs, library = workbench.summaries_of(run_ids), Library(workbench)
            figures = [library.figures(run.run_id) for run in runs]
            write_output(path, runs_text(runs, figures, form, number))
            return len(runs)

        written = await self.ask(write)  # a file of the user's, not a run: allowed where the dashboard is read-only
        if written is not None:
            self.notify(f"{written:,} run{'s' if written != 1 else ''} written to {path}", markup=False)
