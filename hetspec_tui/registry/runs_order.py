"""In which order a list of runs stands, and which columns it has. A page with a list derives from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on, work

from hetspec_tui.pickers import Choice, Choose, ChooseMany
from hetspec_tui.registry import columns as known
from hetspec_tui.registry.runs_beside import RunsBeside
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service.pages import Vocabulary


class RunsOrder(RunsBeside):
    """A page with a table of runs whose order and columns are chosen.

    Attributes:
        order: key of a column, metric or setting, and whether the largest comes first.
        shown: keys of the columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order = ("created", True)
        self.shown: tuple[str, ...] = known.DEFAULT

    def order_changed(self) -> None:
        """Ask for the runs in their new order."""

    async def columns_changed(self) -> None:
        """Ask for the rows in their new columns."""

    def show_columns(self) -> None:
        """Give the table its columns."""
        self.table.set_columns(known.columns_of(self.shown), self.order)

    async def vocabulary(self) -> Vocabulary | None:
        """The names that runs have values under now."""
        from hetspec_core.service.pages import Pages

        return await self.ask(lambda workbench: Pages(workbench).vocabulary())

    async def _all_keys(self) -> list[str]:
        """Every column there can be: those shown, the other known ones, metrics, settings."""
        words = await self.vocabulary()
        further = [*words.metrics, *words.settings] if words is not None else []
        return list(dict.fromkeys([*self.shown, *known.KNOWN, *further]))

    def sort_by(self, key: str) -> None:
        """Order by a column; by the same one again turns the order round."""
        if not known.is_sortable(key):
            self.notify(f"{known.title_of(key)} have no order.", severity="warning", timeout=3, markup=False)
            return
        self.order = (key, not self.order[1]) if key == self.order[0] else (key, known.falls_first(key))
        self.show_columns()
        self.order_changed()

    @on(PagedTable.HeadingClicked)
    def heading_clicked(self, event: PagedTable.HeadingClicked) -> None:
        self.sort_by(event.column)

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.sort_by(self.order[0])

    @work(group="dialog", exclusive=True)
    async def action_sort(self) -> None:
        """Choose what the runs are ordered by."""
        keys = [key for key in await self._all_keys() if known.is_sortable(key)]
        falls = "▼" if self.order[1] else "▲"
        choices = [
            Choice(key, known.title_of(key), (f"{falls} now; again turns it round" if key == self.order[0] else "")
                   or (key if known.title_of(key).lower() != key else ""))
            for key in keys
        ]  # fmt: skip
        key = await self.app.push_screen_wait(Choose("Order by", choices, self.order[0]))
        if key is not None:
            self.sort_by(key)

    @work(group="dialog", exclusive=True)
    async def action_columns(self) -> None:
        """Choose the columns and their order."""
        choices = [Choice(key, known.title_of(key), key) for key in await self._all_keys()]
        chosen = await self.app.push_screen_wait(ChooseMany("Columns", choices, self.shown))
        if chosen:
            self.shown = tuple(chosen)
            self.show_columns()
            await self.columns_changed()
