"""`hetspec`: the dashboard's entry. It starts the app, and gives the terminal back however the app ends.

It knows the pages by name and the signals; what the screens show is their own business.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from functools import partial
from typing import Any, ClassVar, NoReturn

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType

from hetspec_core import __version__
from hetspec_tui import pages
from hetspec_tui.desk import Desk
from hetspec_tui.messages import OpenComparison, OpenPage, OpenRun, RunsTouched
from hetspec_tui.page import Page
from hetspec_tui.widgets.title_bar import Tab, TitleBar

# Textual handles none of these, and a process that one of them ends leaves its terminal raw, with mouse reports on.
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class HetSpecApp(App[None]):
    """The terminal dashboard."""

    TITLE = f"HetSpec {__version__}"
    CSS_PATH = "frame.tcss"
    DEFAULT_MODE = pages.HOME
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(entry.key, f"page({entry.name!r})", entry.title, show=False, id=f"page.{entry.name}")
            for entry in pages.PAGES
        ),
        Binding("escape", "back", "Back", show=False, id="app.back"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, desk: Desk | None = None) -> None:
        super().__init__()
        self.desk = desk or Desk()
        self.pages = pages.available()
        self._trail: list[str] = []
        for entry in self.pages:
            self.add_mode(entry.name, partial(pages.make, entry.target))

    def on_unmount(self) -> None:
        self.desk.close()

    def on_load(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self.end_by_signal, number)

    def end_by_signal(self, number: signal.Signals) -> None:
        """Leave as after `q`, with the exit status that a shell gives to a process ended by signal `number`."""
        self.exit(return_code=128 + number)

    # --- where we are -------------------------------------------------------------------------------------------------

    def show_title(self, page: Any) -> None:
        """Draw the line above a page, with the screens below it in the breadcrumb."""
        mode = next((name for name, stack in self._screen_stacks.items() if page in stack), self.current_mode)
        above = [screen for screen in self.get_screen_stack(mode)[1:] if isinstance(screen, Page)]
        crumbs = [one.crumb for one in above[: above.index(page) + 1]] if page in above else []
        for bar in page.query(TitleBar):
            tabs = [Tab(entry.name, entry.key, entry.title) for entry in self.pages]
            bar.show(tabs, mode, crumbs, ["read-only"] if self.desk.read_only else [])

    async def go_to(self, name: str, about: dict[str, Any] | None = None) -> None:
        """Open a page; of the page that is open already, close what is above it."""
        if all(entry.name != name for entry in self.pages):
            self.notify(f"There is no page {name!r} in this installation.", severity="warning", markup=False)
            return
        if name == self.current_mode or about is not None:
            await self._close_above(name)
        if name != self.current_mode:
            self._trail = [old for old in self._trail if old != self.current_mode] + [self.current_mode]
            await self.switch_mode(name)
        if about is not None and isinstance(self.screen, Page):
            self.screen.receive(about)

    async def _close_above(self, name: str) -> None:
        if name == self.current_mode:
            while len(self.screen_stack) > 1:
                await self.pop_screen()

    async def action_page(self, name: str) -> None:
        """Open a page."""
        await self.go_to(name)

    async def action_back(self) -> None:
        """Close the screen that is above a page; from a page, go to the one before it."""
        if len(self.screen_stack) > 1:
            await self.pop_screen()
        elif self.current_mode != pages.HOME:
            await self.switch_mode(self._trail.pop() if self._trail else pages.HOME)
        else:
            self.notify("This is the first page. q quits, ? shows the keys.", timeout=3, markup=False)

    @on(TitleBar.Chosen)
    async def open_tab(self, message: TitleBar.Chosen) -> None:
        await self.go_to(message.name)

    @on(OpenPage)
    async def open_page(self, message: OpenPage) -> None:
        await self.go_to(message.page, message.about)

    @on(OpenRun)
    async def open_run(self, message: OpenRun) -> None:
        await self._push(pages.RUN, message.run_id)

    @on(OpenComparison)
    async def open_comparison(self, message: OpenComparison) -> None:
        await self._push(pages.COMPARISON, message.run_ids)

    async def _push(self, target: str, word: Any) -> None:
        if not pages.installed(target):
            self.notify("This screen is not part of this installation.", severity="warning")
            return
        await self.push_screen(pages.make(target, word))

    @on(RunsTouched)
    def tell_pages(self, message: RunsTouched) -> None:
        """Let every screen that is open know, also those that are not on top."""
        for stack in self._screen_stacks.values():
            for screen in stack:
                if isinstance(screen, Page):
                    screen.runs_touched(message.run_ids)


def main() -> NoReturn:
    """Run the dashboard and exit with its status: 0 after a quit, 1 after a crash, 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="hetspec",
        description="The terminal dashboard of HetSpec. Every command of it is also there as `hetspec-core`.",
    )
    parser.add_argument("--version", action="version", version=f"HetSpec {__version__}")
    parser.add_argument("--read-only", action="store_true", help="look only: start, stop and change nothing")
    options = parser.parse_args()
    if not has_terminal():
        parser.error("the dashboard needs a terminal; in scripts and pipes use hetspec-core")
    app = HetSpecApp(Desk(read_only=options.read_only))
    app.run()
    sys.exit(app.return_code or 0)


def has_terminal() -> bool:
    """Whether keys can be read and a screen be drawn; a driver named from outside (a web server) needs no terminal."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))


if __name__ == "__main__":
    main()
