"""`hetspec`, the dashboard: its pages, the screens above them, and the keys of every page.

Closing or killing it stops no run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from textual import actions, on, work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.notifications import SeverityLevel
from textual.screen import Screen

from hetspec_core import __version__
from hetspec_core.documents import one_at_a_time
from hetspec_core.errors import HetSpecError
from hetspec_core.paths import check_home
from hetspec_tui import command, pages
from hetspec_tui.desk import Desk, RunFeed
from hetspec_tui.dialogs import Details
from hetspec_tui.faults import Faults, open_log
from hetspec_tui.key_order import QUIT_AT_ONCE, KeyOrder, keys_of
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenComparison, OpenPage, OpenRun, RunsTouched
from hetspec_tui.settings import dashboard_files, place_of, read_state, read_user_files, write_state
from hetspec_tui.widgets.bars import Tab, TitleBar

if TYPE_CHECKING:
    from textual.driver import Driver

    from hetspec_core.service.overview import Overview

# Textual handles none of these, and a process that one of them ends leaves its terminal raw, with mouse reports on.
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
TERMINAL_CHECK_S = 1.0
"""Seconds between two looks whether the terminal is still there: only the process that it controls gets SIGHUP."""
FEW_COLOURS = "ansi-dark"
"""The theme where the terminal has sixteen colours: its own, which are readable together."""

DEFAULT_THEME = "textual-dark"
log = logging.getLogger("hetspec")

# Textual reads the arguments of an action as Python's syntax, while threads of the desk read formulas.
actions.parse = lru_cache(maxsize=1024)(one_at_a_time(actions.parse))


class HetSpecApp(Faults, KeyOrder, App[None]):
    """The terminal dashboard.

    Attributes:
        desk: asks the workbench in a thread of its own.
        live: looks at the runs.
        terminal: writes to the terminal; None before the app runs, and where it runs without a terminal.
    """

    TITLE = f"HetSpec {__version__}"
    CSS_PATH = "frame.tcss"
    DEFAULT_MODE = pages.HOME
    ENABLE_COMMAND_PALETTE = False  # the key below opens it, with an id of ours
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(entry.key, f"page({entry.name!r})", entry.title, show=False, id=f"page.{entry.name}")
            for entry in pages.PAGES
        ),
        Binding("escape", "back", "Back", show=False, id="app.back"),
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding("ctrl+p", "palette", "Palette", key_display="^p", id="app.palette"),
        Binding("ctrl+o", "jump", "Jump", show=False, id="app.jump"),
        Binding("ctrl+t", "themes", "Theme", show=False, id="app.themes"),
        Binding("ctrl+s", "picture", "Screenshot", show=False, id="app.picture"),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False, id="app.suspend"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+q", "quit", "Quit at once", show=False, priority=True, id="app.quit_now"),
    ]

    def __init__(self, desk: Desk | None = None) -> None:
        self.desk = desk or Desk()
        self.files = dashboard_files(self.desk.home)
        self.user = read_user_files(self.files.settings, self.files.keys, self.files.themes)
        self.settings, self.problems = self.user.settings, self.user.problems
        self._remembered = read_state(self.files.state, self.problems)
        self.pages = pages.available()
        vars(self)["DEFAULT_MODE"] = self._first_page()  # Textual's constructor reads it
        self.terminal: Driver | None = None
        super().__init__()
        self.live = RunFeed(self)
        self._trail: list[str] = []
        for entry in self.pages:
            self.add_mode(entry.name, partial(self._make_page, entry))
        if not self.settings.animations:
            self.animation_level = "none"
        self.set_keymap(self.user.keys)
        self.quit_keys = keys_of(QUIT_AT_ONCE, self.BINDINGS, self.user.keys)
        self._choose_theme()

    def _choose_theme(self) -> None:
        for theme in self.user.themes:
            self.register_theme(theme)
        usual = FEW_COLOURS if self.console.color_system in ("standard", None) and not self.no_color else ""
        for name in map(str, (self.settings.theme, self._remembered.get("theme", ""), usual)):
            if name in self.available_themes:
                self.theme = name
                break
            if name:
                place = place_of(self.files.settings if name == self.settings.theme else self.files.state, "theme")
                self.problems.append(f"{place}: there is no theme {name!r}; ctrl+t shows those there are")
        self._unchosen = self.theme if self.theme in (usual, DEFAULT_THEME) else ""

    def _first_page(self) -> str:
        """The name of the page to start with: that of the settings, else the last one, else the dashboard."""
        names = [entry.name for entry in self.pages]
        wanted = self.settings.first_page or self._remembered.get("page")
        if wanted in names:
            return str(wanted)
        if self.settings.first_page:
            self.problems.append(
                f"{place_of(self.files.settings, 'first_page')}: first_page is one of {', '.join(names)}"
            )
        return pages.HOME

    # --- beginning and end --------------------------------------------------------------------------------------------

    def get_driver_class(self) -> type[Driver]:
        """Textual's class for this terminal; the driver that is made of it becomes `terminal`."""
        app = self

        class KnownDriver(super().get_driver_class()):
            def __init__(self, *words: Any, **options: Any) -> None:
                super().__init__(*words, **options)
                app.terminal = self

        return KnownDriver

    def on_load(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self.end_by_signal, number)

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self.set_timer(0.1, self.draw_all))
        self.call_after_refresh(self._after_first_paint)
        if not self.is_headless and sys.__stdin__ is not None and os.isatty(sys.__stdin__.fileno()):
            self.set_interval(TERMINAL_CHECK_S, partial(self._end_without_terminal, sys.__stdin__.fileno()))

    def _end_without_terminal(self, terminal: int) -> None:
        poll = select.poll()
        poll.register(terminal, 0)  # a hang-up is reported without being asked for
        if any(flags & select.POLLHUP for _, flags in poll.poll(0)):
            self.end_by_signal(signal.SIGHUP)

    def draw_all(self) -> None:
        """Draw everything again: another program has used the terminal."""
        for screen in self.screen_stack:
            screen.refresh(layout=True)

    def _after_first_paint(self) -> None:
        self.live.start()
        if self.user.keys:
            self._check_keys()
        self._tell_problems()

    def _tell_problems(self) -> None:
        if not self.problems:
            return
        text = "\n\n".join(self.problems)
        self.problems = []
        log.warning("user files: %s", text)
        if len(text) > 200:
            self.push_screen(Details("Some of your settings are invalid", text))
        else:
            self.notify(text, title="Settings", severity="warning", timeout=15, markup=False)

    @work(thread=True, exit_on_error=False)
    def _check_keys(self) -> None:
        """Find keys that are bound twice."""
        self.problems += command.key_problems(self.files.keys, self.user.keys)
        self.call_later(self._tell_problems)

    def end_by_signal(self, number: signal.Signals) -> None:
        """Leave as after `q`, with the exit status that a shell gives to a process ended by signal `number`."""
        self.call_later(self.exit, return_code=128 + number)

    def exit(self, result: None = None, return_code: int = 0, message: Any = None) -> None:
        self.remember()
        super().exit(result, return_code, message)

    def on_unmount(self) -> None:
        self.desk.close()

    def remember(self) -> None:
        """Save the state of the pages for the next start."""
        known: dict[str, Any] = dict(self._remembered.get("pages") or {})
        for name, stack in self._stacks().items():
            if stack and isinstance(stack[0], Page) and stack[0].is_mounted:
                known[name] = stack[0].state()
        theme = (
            self._remembered.get("theme", "") if self.theme == self._unchosen else self.theme
        )  # the user did not choose it
        self._remembered = {"page": self.current_mode, "theme": theme, "pages": known}
        try:
            write_state(self.files.state, self._remembered)
        except OSError as error:
            log.warning("the state cannot be written: %s", error)

    def take_up(self, page: Any) -> None:
        """Restore the saved state of a page that has just been mounted."""
        known = self._remembered.get("pages")
        state = known.get(page.page_name) if isinstance(known, dict) else None
        if page.page_name and isinstance(state, dict):
            try:
                page.restore(state)
            except Exception:  # another version wrote it, or a user edited it
                log.exception("the state of %s does not fit", page.page_name)
                self.notify("The saved state of this page cannot be read.", severity="warning")

    # --- where we are -------------------------------------------------------------------------------------------------

    def _make_page(self, entry: pages.PageEntry) -> Page:
        page: Page = pages.make(entry.target)
        page.page_name = entry.name
        return page

    def show_title(self, page: Any) -> None:
        """Draw the line above a page, with the screens below it in the breadcrumb."""
        mode = next((name for name, stack in self._stacks().items() if page in stack), self.current_mode)
        above = [screen for screen in self.get_screen_stack(mode)[1:] if isinstance(screen, Page)]
        crumbs = [one.crumb for one in above[: above.index(page) + 1]] if page in above else []
        for bar in page.query(TitleBar):
            tabs = [Tab(entry.name, "" if page.OWN_DIGITS else entry.key, entry.title) for entry in self.pages]
            bar.show(tabs, mode, crumbs, ["read-only"] if self.desk.read_only else [])

    async def go_to(self, name: str, about: dict[str, Any] | None = None) -> None:
        """Open a page; of the page that is open already, or that is to show something, close what is above it."""
        if all(entry.name != name for entry in self.pages):
            self.notify(f"There is no page {name!r} in this installation.", severity="warning", markup=False)
            return
        stays = name == self.current_mode
        if not stays:
            self._trail = [old for old in self._trail if old not in (self.current_mode, name)] + [self.current_mode]
            await self.switch_mode(name)
        if stays or about is not None:
            while len(self.screen_stack) > 1:
                await self.pop_screen()
        if about is not None and isinstance(self.screen, Page):
            self.screen.receive(about)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "page":
            return any(entry.name == parameters[0] for entry in self.pages)
        return super().check_action(action, parameters)

    async def action_page(self, name: str) -> None:
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
    def tell_touched(self, message: RunsTouched) -> None:
        """Tell every page about runs that a screen has changed."""
        self.live.touch(message.run_ids)
        self.look_now()

    @property
    def page_on_top(self) -> Page | None:
        """The screen, if it is a page."""
        return self.screen if isinstance(self.screen, Page) else None

    @property
    def overview(self) -> Overview | None:
        """Of the last look at the runs."""
        return self.live.overview

    def look_now(self) -> None:
        """Look at the runs at once."""
        self.live.look_now()

    # --- keys of every screen -----------------------------------------------------------------------------------------

    @work
    async def action_help(self) -> None:
        """Show every key that does something here, and do what is chosen."""
        from hetspec_tui.screens.overlays import HelpScreen, help_lines

        below = self.screen
        order, lines = help_lines(self)
        title = f"Keys: {below.crumb}" if isinstance(below, Page) else "Keys"
        number = await self.push_screen_wait(HelpScreen(lines, title))
        if number is not None:
            await self.run_action(order[number].binding.action, order[number].node)

    def action_palette(self) -> None:
        from hetspec_tui.palette import PROVIDERS, Palette

        if not isinstance(self.screen, Palette):
            palette = Palette(providers=PROVIDERS, placeholder="a page, run, preset, theme or action")
            self.push_screen(palette)

    @work
    async def action_jump(self) -> None:
        from hetspec_tui.screens.overlays import JumpScreen

        targets = [widget for widget in self.screen.focus_chain if widget.region.area]
        if targets:
            chosen = await self.push_screen_wait(JumpScreen(targets))
            if chosen is not None:
                chosen.focus()

    @work
    async def action_themes(self) -> None:
        from hetspec_tui.screens.overlays import ThemeScreen

        if await self.push_screen_wait(ThemeScreen()):
            self.remember()

    @work
    async def action_picture(self) -> None:
        from pathlib import Path

        from hetspec_tui.pictures import save_picture

        own = self.settings.screenshots
        folder = Path(own).expanduser() if own else self.files.screenshots
        name = f"hetspec-{self.current_mode}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            files = await asyncio.to_thread(save_picture, folder, name, self.export_screenshot())
        except OSError as error:
            self.notify(f"{folder} cannot be written: {error.strerror}", severity="error", markup=False)
            return
        self.notify("\n".join(map(str, files)), title="Screenshot", markup=False)

    def action_help_quit(self) -> None:
        """Ctrl-C, where there is no selected text to copy: stop what this page is doing, else say how to quit."""
        if isinstance(self.screen, Page) and self.screen.interrupt():
            return
        ways = [active.binding for active in self.active_bindings.values() if active.binding.action.endswith("quit")]
        keys = " or ".join(dict.fromkeys(way.key for way in ways if way.action.removeprefix("app.") == "quit"))
        self.notify(f"{keys} quits the dashboard; runs go on without it.", title="Quit?", timeout=4)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Show a toast without markup; warnings and errors are also logged."""
        if severity != "information":
            log.warning("%s %s", title, message)
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=False)

    def _stacks(self) -> dict[str, list[Screen[Any]]]:
        """The screens of every page that has been opened, the page itself first."""
        stacks: dict[str, list[Screen[Any]]] = {}
        for entry in self.pages:
            with suppress(KeyError):  # not opened yet
                stacks[entry.name] = self.get_screen_stack(entry.name)
        return stacks

    def open_pages(self) -> Sequence[Page]:
        """Every page that is open, on top or not."""
        return [screen for stack in self._stacks().values() for screen in stack if isinstance(screen, Page)]


def main() -> NoReturn:
    """Run the dashboard and exit with its status: 0 after a quit, 1 after a crash, 8 where HETSPEC_HOME cannot be used,
    128 + n after signal n.
    """
    options = command.read_command_line()
    try:
        if not options.config:
            check_home()
        app = HetSpecApp(Desk(read_only=options.read_only))
    except HetSpecError as error:  # a home that cannot be used
        sys.exit(command.refuse(error))
    if options.config:
        sys.exit(command.report(app.files, app.user.keys, app.problems))
    open_log(app.files.log)
    app.run()
    sys.exit(app.return_code or 0)


if __name__ == "__main__":
    main()
