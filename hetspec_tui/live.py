"""The app's feed: once a second it asks for the overview of the runs, gives it to the page on top, and reports ends.

Every few seconds it also starts the queued runs that can start, because a supervisor that was killed starts none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetspec_tui.desk import Feed
from hetspec_tui.formatting import duration, safe
from hetspec_tui.page import Page

if TYPE_CHECKING:
    from hetspec_core.service.overview import Observer, Overview
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench

LOOK_S = 1.0
DISPATCH_S = 5.0
_WITH_777 = ("rxvt", "foot")  # the others that know 777 know 9 as well, and would show both


class RunFeed:
    """Looks at the runs, whichever page is on top.

    Args:
        app: the `HetSpecApp`, which knows this module: asks by its desk, shows by its pages, and notifies.

    Attributes:
        overview: of the last look; None before the first.
        feed: asks for it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.overview: Overview | None = None
        self.feed: Feed[Overview] = Feed(
            app.desk.ask, self._question, self._taken, fail=self._failed, node=app, period_s=LOOK_S
        )
        self._dispatcher: Feed[None] = Feed(
            app.desk.change, _dispatch, _nothing, fail=self._failed, node=app, period_s=DISPATCH_S
        )
        self._observer: Observer | None = None
        self._fully = False

    def start(self) -> None:
        """Look from now on; in a dashboard that may change things, start queued runs as well."""
        self.feed.start()
        if not self._app.desk.read_only:
            self._dispatcher.start()

    def look_now(self) -> None:
        """Look at once, and at every run: one that was not at work may have changed."""
        self._fully = True
        self.feed.hurry()

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
        page = self._app.screen
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
        page = self._app.screen
        if isinstance(page, Page):
            page.show_error(error)  # type: ignore[arg-type]

    def run_ended(self, run: RunSummary) -> None:
        """Notify the user that a run has ended, by the means that the settings name."""
        took = (run.ended or time.time()) - (run.started or run.created)
        text = f"{safe(run.name or run.run_id)} {run.state} after {duration(took)}"
        bad = run.state in ("failed", "lost")
        self._app.notify(text, title=f"{run.stage} run", severity="error" if bad else "information")
        if took < self._app.settings.notify_after_s:
            return
        if self._app.settings.notify in ("bell", "both"):
            self._app.bell()
        if self._app.settings.notify in ("desktop", "both") and self._app.terminal is not None:
            self._app.terminal.write(desktop_notice("HetSpec", text, os.environ))

    def touch(self, run_ids: tuple[str, ...]) -> None:
        """Tell every open page that these runs have changed; a page that is not mounted yet asks by itself."""
        for page in self._app.open_pages():
            if page.is_mounted:
                page.runs_touched(run_ids)


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
