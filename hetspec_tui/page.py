"""What all screens have in common: header with breadcrumb, footer, the smallest size, and asking the desk.

It knows no particular screen. Screens derive from it and do not know each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Footer, Header, Static

from hetspec_core.errors import HetSpecError
from hetspec_tui.desk import Desk, HasDesk

if TYPE_CHECKING:
    from hetspec_core.service import Workbench

Answer = TypeVar("Answer")

SMALLEST = Size(60, 16)


class Page(Screen[None]):
    """Base of the screens. A subclass gives `CRUMB` and `compose_page`; it may override `receive`, `state`, `restore`.

    Attributes:
        CRUMB: its word in the breadcrumb.
    """

    CRUMB: ClassVar[str] = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall"), (50, "-high")]  # noqa: RUF012

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="page"):
            yield from self.compose_page()
        yield Static(id="too-small", markup=False)
        yield Footer(show_command_palette=False)

    def compose_page(self) -> ComposeResult:
        """The widgets between header and footer."""
        yield from ()

    # --- what a page is told, and what it keeps -----------------------------------------------------------------------

    def receive(self, about: dict[str, Any]) -> None:
        """Show what another screen asked for (`messages.OpenPage.about`)."""

    def state(self) -> dict[str, Any]:
        """What to find again at the next start: JSON types only (sort, filter, columns, the chosen row...)."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave at the last start; called once after mounting. It may be of another version."""

    # --- asking the desk ----------------------------------------------------------------------------------------------

    @property
    def desk(self) -> Desk:
        """The app's desk."""
        return cast(HasDesk, self.app).desk

    async def ask(self, question: Callable[[Workbench], Answer]) -> Answer | None:
        """The desk's answer to a question that looks; None after an error, which is shown to the user."""
        return await self._shown(self.desk.ask(question))

    async def change(self, order: Callable[[Workbench], Answer]) -> Answer | None:
        """The outcome of an order that changes something; None after an error, which is shown to the user."""
        return await self._shown(self.desk.change(order))

    async def _shown(self, answer: Awaitable[Answer]) -> Answer | None:
        try:
            return await answer
        except HetSpecError as error:
            self.show_error(error)
            return None

    def show_error(self, error: HetSpecError) -> None:
        """Show what was seen and what to do."""
        text = f"{error.message}\n{error.hint}" if error.hint else error.message
        self.notify(text, title="Not done", severity="error", markup=False)

    # --- size ---------------------------------------------------------------------------------------------------------

    def on_resize(self, event: Resize) -> None:
        size = event.size
        too_small = size.width < SMALLEST.width or size.height < SMALLEST.height
        self.set_class(too_small, "-too-small")
        self.query_one("#too-small", Static).update(
            f"terminal too small: need {SMALLEST.width}x{SMALLEST.height}, is {size.width}x{size.height}"
        )
