"""The base of all screens: header, footer, the smallest size, and questions to the desk and the user."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Vertical
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Static

from hetspec_core.errors import HetSpecError, SpecError, UsageError
from hetspec_tui.desk import Desk, Feed, HasDesk, is_whole
from hetspec_tui.dialogs import Confirm, Details, Prompt
from hetspec_tui.widgets.bars import KeyBar, TitleBar

if TYPE_CHECKING:
    from hetspec_core.service.export import Form
    from hetspec_core.service.overview import Overview
    from hetspec_core.service.workbench import Workbench

Answer = TypeVar("Answer")
Choice = TypeVar("Choice")

SMALLEST = Size(60, 16)
TOAST_LINES = 4
TOAST_LETTERS = 300
EDITORS = ("nano", "vi")
"""Tried in this order where neither $VISUAL nor $EDITOR is set."""


class Page(Screen[None]):
    """Base of the screens. A subclass gives `CRUMB` and `compose_page`; it may override `receive`, `state`, `restore`.

    Attributes:
        CRUMB: its word in the breadcrumb; `crumb` may say more, such as the name of a run.
        OWN_DIGITS: whether digits open its panes, so that the header shows the pages without theirs.
        CHANGES: names of its actions that change a run, a file or a preset: a read-only dashboard disables them.
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
        """Show what another screen asked for (`OpenPage.about`)."""

    def state(self) -> dict[str, Any]:
        """What is saved for the next start: JSON types only (sort, filter, columns, the chosen row...)."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Apply a saved `state`; called once after mounting. It may come from another version."""

    def interrupt(self) -> bool:
        """Stop what the page is doing, as Ctrl-C asks for; whether there was something to stop."""
        return False

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        """Some runs were started, stopped or labelled by another screen (`pages.RunsTouched`); () = any."""

    def show_overview(self, overview: Overview) -> None:
        """The overview has changed (a run reported something, began, ended); called while the page is on top."""

    # --- asking the desk ----------------------------------------------------------------------------------------------

    @property
    def desk_app(self) -> HasDesk:
        return cast(HasDesk, self.app)

    @property
    def desk(self) -> Desk:
        return self.desk_app.desk

    async def ask(self, question: Callable[[Workbench], Answer]) -> Answer | None:
        """The desk's answer to a question that looks; None after an error, which is shown, and when the page closes."""
        return await self._shown(self.desk.ask(question))

    async def change(self, order: Callable[[Workbench], Answer]) -> Answer | None:
        """The outcome of an order that changes something; None as in `ask`. A page that closes does not stop it."""
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
        """False once the page or the app is closing; some widgets may be missing then."""
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

    async def ask_file(self, what: str, usual: str) -> tuple[Path, Form] | None:
        """The file to write and its form; None when the user has left a question, or the name has no known suffix.

        Args:
            what: what is written, as in "Write WHAT to which file?".
            usual: the proposed name, in the present folder.
        """
        from hetspec_core.service.export import form_of

        hint = ".csv, .json or .md says in which form"
        name = await self.ask_user(Prompt(f"Write {what} to which file?", str(Path.cwd() / usual), hint))
        if not name or not name.strip():
            return None
        path = Path(name.strip()).expanduser()
        try:
            form = form_of(path)
        except HetSpecError as error:
            self.show_error(error)
            return None
        over = Confirm(f"Write over {path.name}?", f"{path} is there already.", yes="Write over")
        if path.exists() and not await self.ask_user(over):
            return None
        return path, form

    def edit_file(self, path: Path) -> None:
        """Open a file in the user's editor while the dashboard waits."""
        named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        words = shlex.split(named) if named else [name for name in EDITORS if shutil.which(name)][:1]
        if not words or shutil.which(words[0]) is None:
            seen = f"$EDITOR is {named!r}, which is not there" if named else "$EDITOR is not set"
            self.show_error(UsageError(f"no editor: {seen}", hint="set EDITOR to the name of one, e.g. EDITOR=nano"))
        else:
            self.run_outside(words, path)

    def run_outside(self, command: Sequence[str], path: Path) -> None:
        """Run a program on a path in this terminal while the dashboard waits; copy the path where that cannot be."""
        try:
            with self.app.suspend():
                status = subprocess.run([*command, str(path)], check=False).returncode
        except SuspendNotSupported:
            self.app.copy_to_clipboard(str(path))
            self.show_error(UsageError("this terminal cannot run it", hint=f"the path is on the clipboard: {path}"))
            return
        except OSError as error:
            self.show_error(UsageError(f"{command[0]} could not be started: {error.strerror or error}"))
            return
        self.app.refresh(layout=True)
        if status != 0:
            self.show_error(UsageError(f"{command[0]} ended with status {status}", hint=f"the file is {path}"))

    def on_resize(self, event: Resize) -> None:
        size = event.size
        too_small = size.width < SMALLEST.width or size.height < SMALLEST.height
        self.set_class(too_small, "-too-small")
        self.query_one("#too-small", Static).update(
            f"terminal too small: need {SMALLEST.width}x{SMALLEST.height}, is {size.width}x{size.height}"
        )
