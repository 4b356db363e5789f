"""The base of all screens: header, footer, the smallest size, and questions to the desk and the user."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Static

from hetspec_core.errors import HetSpecError, SpecError
from hetspec_tui.desk import Desk, HasDesk
from hetspec_tui.dialogs import Details
from hetspec_tui.polling import Feed, is_whole
from hetspec_tui.widgets.bars import KeyBar, TitleBar

if TYPE_CHECKING:
    from hetspec_core.service.overview import Overview
    from hetspec_core.service.workbench import Workbench

Answer = TypeVar("Answer")
Choice = TypeVar("Choice")

SMALLEST = Size(60, 16)
TOAST_LINES = 4
TOAST_LETTERS = 300


class Page(Screen[None]):
    """Base of the screens. A subclass gives `CRUMB` and `compose_page`; it may override `receive`, `state`, `restore`.

    Attributes:
        CRUMB: its word in the breadcrumb; `crumb` may say more, such as the name of a run.
        OWN_DIGITS: whether digits open its panes, so that the header shows the pages without theirs.
        CHANGES: names of its actions that change a run, a file or a preset: a dashboard that only looks disables them.
    """

    CRUMB: ClassVar[str] = ""
    CHANGES: ClassVar[frozenset[str]] = frozenset()
    OWN_DIGITS: ClassVar[bool] = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall"), (50, "-high")]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.page_name = ""  # given by the app to those that stand in the navigation
        self._feeds: list[Feed[Any]] = []

    def compose(self) -> ComposeResult:
        yield TitleBar()
        with Vertical(id="page"):
            yield from self.compose_page()
        yield Static(id="too-small", markup=False)
        yield KeyBar()

    def compose_page(self) -> ComposeResult:
        """The widgets between header and footer."""
        yield from ()

    @property
    def crumb(self) -> str:
        """Its word in the breadcrumb now. Call `show_crumb` when it has changed."""
        return self.CRUMB

    def on_mount(self) -> None:
        self.desk_app.take_up(self)

    def show_crumb(self) -> None:
        """Draw the line above the screen again."""
        self.desk_app.show_title(self)

    def on_screen_resume(self) -> None:
        self.show_crumb()
        for feed in self._feeds:
            feed.start()

    def on_screen_suspend(self) -> None:
        for feed in self._feeds:
            feed.stop()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in self.CHANGES and self.desk.read_only:
            return None  # shown, and struck out
        return super().check_action(action, parameters)

    # --- what a page is told, and what it keeps -----------------------------------------------------------------------

    def receive(self, about: dict[str, Any]) -> None:
        """Show what another screen asked for (`messages.OpenPage.about`)."""

    def state(self) -> dict[str, Any]:
        """What to find again at the next start: JSON types only (sort, filter, columns, the chosen row...)."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave at the last start; called once after mounting. It may be of another version."""

    def interrupt(self) -> bool:
        """Stop what the page is doing, as Ctrl-C asks for; whether there was something to stop."""
        return False

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        """Some runs were started, stopped or labelled by another screen (`messages.RunsTouched`); () = any."""

    def show_overview(self, overview: Overview) -> None:
        """What is going on has changed (a run at work said something, began, ended); called while it is on top."""

    # --- asking the desk ----------------------------------------------------------------------------------------------

    @property
    def desk_app(self) -> HasDesk:
        """The app, as pages know it."""
        return cast(HasDesk, self.app)

    @property
    def desk(self) -> Desk:
        """The app's desk."""
        return self.desk_app.desk

    async def ask(self, question: Callable[[Workbench], Answer]) -> Answer | None:
        """The desk's answer to a question that looks; None after an error, which is shown, and for a page that goes."""
        return await self._shown(self.desk.ask(question))

    async def change(self, order: Callable[[Workbench], Answer]) -> Answer | None:
        """The outcome of an order that changes something; None as in `ask`, though a page that goes stops no order."""
        return await self._shown(self.desk.change(order))

    async def ask_user(self, question: Screen[Choice]) -> Choice | None:
        """The user's answer to a dialog or picker. Call it in a worker."""
        return await self.app.push_screen_wait(question)

    def feed(
        self, question: Callable[[Workbench], Answer], show: Callable[[Answer], None], *, period_s: float = 1.0
    ) -> Feed[Answer]:
        """Ask a question again and again while the page is on top, and show what is new. Call it from `on_mount`."""
        made = Feed(self.desk.ask, question, show, fail=self.show_error, node=self, period_s=period_s)
        self._feeds.append(made)
        if self.is_current:
            made.start()
        return made

    async def _shown(self, answer: Awaitable[Answer]) -> Answer | None:
        try:
            found = await answer
        except HetSpecError as error:
            self.show_error(error)
            return None
        return found if self.is_whole else None

    @property
    def is_whole(self) -> bool:
        """False from the moment on at which the page, or the app, begins to be taken apart: parts are missing then."""
        return is_whole(self)

    def show_error(self, error: HetSpecError) -> None:
        """Show what was seen and what to do: a toast, or a screen to read and copy when it is long."""
        text = f"{error}" if isinstance(error, SpecError) else f"{error.message}\n{error.hint}".strip()
        logging.getLogger("hetspec").warning("not done: %s", text)
        if not self.is_whole:
            return  # the page is being closed
        if text.count("\n") > TOAST_LINES or len(text) > TOAST_LETTERS:
            self.app.push_screen(Details("Not done", text))
        else:
            self.notify(text, title="Not done", severity="error", markup=False)

    # --- size ---------------------------------------------------------------------------------------------------------

    def on_resize(self, event: Resize) -> None:
        size = event.size
        too_small = size.width < SMALLEST.width or size.height < SMALLEST.height
        self.set_class(too_small, "-too-small")
        self.query_one("#too-small", Static).update(
            f"terminal too small: need {SMALLEST.width}x{SMALLEST.height}, is {size.width}x{size.height}"
        )
