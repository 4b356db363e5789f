"""The history: all runs in one table, a filter as one types, any order, any columns, curves of several over each other.

It asks the desk for ids first and for the rows in view then, so that it makes no difference how many runs there are.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import DescendantBlur, DescendantFocus
from textual.widgets import Input, Static

from hetspec_core.errors import HetSpecError, UsageError
from hetspec_tui.formatting import safe
from hetspec_tui.registry import columns as known
from hetspec_tui.registry.run_actions import ACTIONS
from hetspec_tui.registry.runs_order import RunsOrder
from hetspec_tui.registry.words import FilterSuggester, Hints, hints
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service.pages import Listing, Vocabulary

PLACEHOLDER = "state:running  tag:best  accept_length>2.5  any words"
DEBOUNCE_S = 0.12
LOOK_S = 1.0
"""Seconds between looks at what is new; more when a look takes long (`LOOK_SHARE`)."""
LOOK_SHARE = 60


class RegistryScreen(RunsOrder):
    """All runs."""

    CRUMB = "Runs"
    CSS_PATH = "registry.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("o", "overlay", "Curves", id="runs.overlay"),
        *ACTIONS,
        Binding("S", "reverse", "Reverse order", show=False, id="runs.reverse"),
        Binding("w", "columns", "Columns", show=False, id="runs.columns"),
        Binding("m", "metric", "Metric of the curves", show=False, id="runs.metric"),
        Binding("i", "details", "Details", show=False, id="runs.details"),
        Binding("A", "archived", "Archived too", show=False, id="runs.archived"),
        Binding("escape", "back_out", "Back", show=False, id="runs.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.filter = ""
        self.with_archived = False
        self.total = 0
        self._before = ""
        self._typed: str | None = None
        self._wanted: str | None = None
        self._vocabulary: Vocabulary | None = None
        self._fetching = False
        self._looked = 0.0
        self._is_new = True
        self._look_took = 0.0

    def compose_page(self) -> ComposeResult:
        with Horizontal(id="filter-bar"):
            yield Static("/", id="filter-sign")
            yield Input(id="filter", compact=True, placeholder=PLACEHOLDER, suggester=FilterSuggester())
            yield Static(id="count", markup=False)
        yield Static(id="hint", markup=False)
        with Horizontal(id="body"):
            yield PagedTable(known.columns_of(self.shown), id="runs")
            with Vertical(id="side"):
                with VerticalScroll(id="details", can_focus=False):
                    yield Static(id="run")
                yield Chart(id="curves")

    def on_mount(self) -> None:
        self.table.focus()
        self.show_columns()
        self.load()
        self.learn()
        self.set_interval(LOOK_S / 2, self.look_now_and_then)

    # --- the parts ---------------------------------------------------------------------------------------------------

    @property
    def line(self) -> Input:
        """Where the filter is typed."""
        return self.query_one("#filter", Input)

    def order_changed(self) -> None:
        self.load()

    async def columns_changed(self) -> None:
        self.say_count()
        await self.read(self.table.near())

    # --- what is kept and what others ask for ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "filter": self.filter,
            "order": list(self.order),
            "archived": self.with_archived,
            "columns": list(self.shown),
            "run": self.table.cursor_key,
            "metric": self.metric,
            "curves": self.has_class("-curves"),
            "details": self._details_asked,
        }

    def restore(self, state: dict[str, Any]) -> None:
        match state.get("order"):
            case [str(key), bool(falls)]:
                self.order = (key, falls)
            case _:
                pass
        columns = state.get("columns")
        if isinstance(columns, list) and columns and all(isinstance(key, str) for key in columns):
            self.shown = tuple(dict.fromkeys(columns))
        if isinstance(state.get("filter"), str):
            self.put_filter(state["filter"])
        if isinstance(state.get("metric"), str):
            self.metric = state["metric"]
        if isinstance(state.get("details"), bool):
            self._details_asked = state["details"]
            self.set_class(state["details"], "-details")
        self.with_archived = state.get("archived") is True
        self._wanted = state["run"] if isinstance(state.get("run"), str) else None
        self.set_class(state.get("curves") is True, "-curves")
        self.show_columns()
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
            text = self._typed  # what was being typed is not forgotten because a run has changed meanwhile
        filter_, (key, falls), archived = self.filter if text is None else text, self.order, self.with_archived
        words, sort = split_query(filter_), f"{key}:{'desc' if falls else 'asc'}"
        began = time.monotonic()
        sync = text is None and not self._is_new  # at first what is known already, at once
        try:
            listing = await self.desk.ask(
                lambda workbench: Pages(workbench).listing(words, sort=sort, archived=archived, sync=sync)
            )
        except UsageError as error:
            if text is None and key not in known.KNOWN and repr(key) in error.message:
                self.order = ("created", True)  # a metric that no run has any more
                self.show_columns()
                self.load()
                return
            self._typed = None
            if self.is_whole:
                self.say_wrong(error, filter_)
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
        if text is not None and not listing.run_ids and self.line.has_focus and self.hints(text).is_name:
            self._typed = None
            self.say_hint()  # the list stays while a name is typed that says nothing yet
            return
        self.filter, self._typed = filter_, None
        if text is not None:
            self.say_hint()
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
        if self.has_class("-curves"):
            self.draw_curves()
        if self.has_class("-details"):
            self.draw_details()

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
        shown = self.shown
        names = known.further_names(shown)
        lines = await self.ask(lambda workbench: Pages(workbench).lines(run_ids, names))
        if lines is None:
            return False
        if shown == self.shown:
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
        if not self.is_whole:
            return
        suggester = self.line.suggester
        if found is not None:
            self._vocabulary = found
            if isinstance(suggester, FilterSuggester):
                suggester.vocabulary = found
            self.say_hint()

    # --- what is said ------------------------------------------------------------------------------------------------

    def say_count(self) -> None:
        """Say how many runs there are, how many are marked, and what the order is."""
        table = self.table
        shown = len(table.keys)
        parts = [f"{shown:,}" if shown == self.total else f"{shown:,}/{self.total:,}"]
        if table.marks:
            listed = set(table.keys)
            hidden = sum(1 for key in table.marks if key not in listed)
            parts.append(f"{len(table.marks)} marked" + (f" ({hidden} not listed)" if hidden else ""))
        key, falls = self.order
        if key not in self.shown and self.order != ("created", True):  # newest first is what one expects
            parts.append(f"by {known.title_of(key).lower()} {'▼' if falls else '▲'}")
        if self.with_archived:
            parts.append("archived too")
        self.query_one("#count", Static).update(" · ".join(parts))

    def say_empty(self) -> None:
        """Say what to press when there is nothing to see."""
        if self.filter.strip():
            words = "no run is like that\nesc takes the filter away"
            words += "" if self.with_archived else ", A shows archived runs too"
        else:
            words = "no runs yet\n4 starts one; hetspec-core demo makes some in minutes"
        self.table.set_empty(words)

    def hints(self, text: str) -> Hints:
        """What could be typed next."""
        return Hints("", ()) if self._vocabulary is None else hints(text, self._vocabulary)

    def say_hint(self) -> None:
        """Say below the filter what could come next, while it is typed."""
        text = self.line.value
        self.remove_class("-wrong")
        self.set_class(self.line.has_focus, "-hint")
        if self.line.has_focus:
            found = self.hints(text)
            words = Content.assemble((f"{found.about}: ", "dim"), "  ".join(map(safe, found.words)))
            self.query_one("#hint", Static).update(words)

    def say_wrong(self, error: UsageError, text: str) -> None:
        """Say what is wrong with the filter; a word that is only begun is not called wrong."""
        if self.line.has_focus and self.hints(text).is_begun:
            self.say_hint()
            return
        self.add_class("-wrong", "-hint")
        self.query_one("#hint", Static).update(safe(f"✖ {error.message}  {error.hint}"))

    # --- the filter --------------------------------------------------------------------------------------------------

    def put_filter(self, text: str) -> None:
        """Put a filter in force; `load` shows what it gives."""
        self.filter, self._typed = text, None
        self.remove_class("-wrong")
        with self.line.prevent(Input.Changed):
            self.line.value = text

    def action_filter(self) -> None:
        """Go to the filter."""
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
            self.say_hint()

    def on_descendant_blur(self, event: DescendantBlur) -> None:
        if event.widget is self.line and not self.has_class("-wrong"):
            self.remove_class("-hint")

    def action_back_out(self) -> None:
        """Undo one thing: what was typed, the marks, the curves, the filter; then leave."""
        if self.line.has_focus:
            self.put_filter(self._before)
            self.remove_class("-hint")
            self.set_focus(self.table)
            self.load()
        elif self.table.marks:
            self.table.set_marks(())
        elif self.has_class("-curves"):
            self.action_overlay()
        elif self.filter or self.line.value:
            self.put_filter("")
            self.remove_class("-hint")
            self.load()
        else:
            self.run_worker(self.app.run_action("back"))

    # --- what the table says -----------------------------------------------------------------------------------------

    @on(PagedTable.Highlighted)
    def highlighted(self) -> None:
        self.draw_details()
        if self.has_class("-curves") and not self.table.marks:
            self.draw_curves()

    @on(PagedTable.Marked)
    def marked(self) -> None:
        self.say_count()
        if self.has_class("-curves"):
            self.draw_curves()

    def action_archived(self) -> None:
        """Show archived runs too, or leave them out again."""
        self.with_archived = not self.with_archived
        self.load()
