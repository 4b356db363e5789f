"""The app's feed: once a second it asks for the overview of the runs, gives it to the page on top, and reports ends.

Every few seconds it also starts the queued runs that can start, because a supervisor that was killed starts none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetspec_tui.desk import Desk, Feed
from hetspec_tui.formatting import duration, safe
from hetspec_tui.page import Page
from hetspec_tui.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import App
    from textual.driver import Driver

    from hetspec_core.service.overview import Observer, Overview
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench

    Base = App[None]
else:
    Base = object

LOOK_S = 1.0
DISPATCH_S = 5.0
_WITH_777 = ("rxvt", "foot")  # the others that know 777 know 9 as well, and would show both


class Live(Base):
    """Mixed into the app: it looks at the runs, whichever page is on top.

    Attributes:
        terminal: writes to the terminal; None before the app runs, and where it runs without a terminal.
    """

    terminal: Driver | None = None

    desk: Desk
    settings: Settings
    overview: Overview | None = None
    _feed: Feed[Overview] | None = None
    _dispatcher: Feed[None] | None = None
    _observer: Observer | None = None
    _fully: bool = False

    def get_driver_class(self) -> type[Driver]:
        """Textual's class for this terminal; the driver that is made of it becomes `terminal`."""
        app = self

        class KnownDriver(super().get_driver_class()):
            def __init__(self, *words: Any, **options: Any) -> None:
                super().__init__(*words, **options)
                app.terminal = self

        return KnownDriver

    def start_live(self) -> None:
        self._feed = Feed(self.desk.ask, self._question, self._taken, fail=self._failed, node=self, period_s=LOOK_S)
        self._feed.start()
        if not self.desk.read_only:
            feed = Feed(self.desk.change, _dispatch, _nothing, fail=self._failed, node=self, period_s=DISPATCH_S)
            self._dispatcher = feed
            feed.start()

    def look_now(self) -> None:
        """Look at once, and at every run: one that was not at work may have changed."""
        self._fully = True
        if self._feed is not None:
            self._feed.hurry()

    def _question(self, workbench: Workbench) -> Overview:
        if self._observer is None:
            from hetspec_core.service.overview import (
                Observer,  # in the desk's thread: the first paint does not wait for it
            )

            self._observer = Observer()
        fully, self._fully = self._fully, False
        return self._observer.look(workbench, fully=fully)

    def _taken(self, overview: Overview) -> None:
        before, self.overview = self.overview, overview
        page = self.screen
        if isinstance(page, Page) and page.is_mounted and page.is_whole:  # one that comes asks for it when it is there
            page.show_overview(overview)
        if before is None:
            return
        old = {run.summary.run_id: run.summary.state for run in before.active}
        new = {run.summary.run_id: run.summary.state for run in overview.active}
        changed = {run_id for run_id in old.keys() | new.keys() if old.get(run_id) != new.get(run_id)}
        for run in _ended(overview):
            if run.run_id in old and run.run_id not in new:
                self.run_ended(run)
        if changed:
            self.touch(tuple(sorted(changed)))

    def _failed(self, error: Exception) -> None:
        page = self.screen
        if isinstance(page, Page):
            page.show_error(error)  # type: ignore[arg-type]

    def run_ended(self, run: RunSummary) -> None:
        """Notify the user that a run has ended, by the means that the settings name."""
        took = (run.ended or time.time()) - (run.started or run.created)
        text = f"{safe(run.name or run.run_id)} {run.state} after {duration(took)}"
        bad = run.state in ("failed", "lost")
        self.notify(text, title=f"{run.stage} run", severity="error" if bad else "information")
        if took < self.settings.notify_after_s:
            return
        if self.settings.notify in ("bell", "both"):
            self.bell()
        if self.settings.notify in ("desktop", "both") and self.terminal is not None:
            self.terminal.write(desktop_notice("HetSpec", text, os.environ))

    def touch(self, run_ids: tuple[str, ...]) -> None:
        """Tell every open page that these runs have changed; a page that is not mounted yet asks by itself."""
        for page in self.open_pages():
            if page.is_mounted:
                page.runs_touched(run_ids)

    def open_pages(self) -> Sequence[Page]:
        """Every page that is open."""
        return ()


def _dispatch(workbench: Workbench) -> None:
    """Start what waits and can start: a killed supervisor could not start the next."""
    workbench.dispatch()


def _nothing(_: object) -> None:
    """What was started is seen by the next look."""


def _ended(overview: Overview) -> list[RunSummary]:
    lost = [concern.run for concern in overview.concerns if concern.run is not None and concern.kind == "lost"]
    return [*overview.recent, *lost]


def desktop_notice(title: str, body: str, environment: Mapping[str, str]) -> str:
    """The sequence for this terminal: OSC 777 or OSC 9, wrapped so that tmux lets it through.

    Args:
        title: one line.
        body: one line.
        environment: of the process: TERM and TMUX.
    """
    title, body = safe(title).replace(";", ","), safe(body).replace(";", ",")
    if environment.get("TERM", "").startswith(_WITH_777):
        sequence = f"\x1b]777;notify;{title};{body}\x1b\\"
    else:
        sequence = f"\x1b]9;{title}: {body}\x1b\\"
    if environment.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence
