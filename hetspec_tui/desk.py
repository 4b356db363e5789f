"""Questions to the service, answered by threads, so that the event loop never waits for SQLite, files or processes.

A `Desk` answers one question. A `Feed` asks the same question again and again and shows answers that are new; it has
at most one question under way, however slow the answer. Feeds of a page stop while the page is not on top. The app's
`RunFeed` asks once a second for the overview of all runs, gives it to the page on top and reports ends. Every few
seconds it starts the queued runs that can start, because a supervisor that was killed starts none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from hetspec_core.errors import HetSpecError, ResourceError, UsageError
from hetspec_tui.formatting import duration, safe

if TYPE_CHECKING:
    from textual.dom import DOMNode
    from textual.worker import Worker

    from hetspec_core.service.overview import Observer, Overview
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench

Answer = TypeVar("Answer")
log = logging.getLogger("hetspec")

FASTEST_S = 0.1
"""No feed asks more often, so that the screen is drawn ten times a second at most."""

LOOK_S = 1.0
DISPATCH_S = 5.0
_WITH_777 = ("rxvt", "foot")  # the others that know 777 know 9 as well, and would show both

THREADS = 3
"""A look at the registry must not wait behind a plan that reads a large configuration."""


class Desk:
    """Asks the service in threads. Each thread has a workbench of its own, because a SQLite connection has one user.

    Args:
        home: folder of everything, as HETSPEC_HOME; the roots in force when absent.
        read_only: refuse whatever would change a run, a file or a preset.
    """

    def __init__(self, home: Path | None = None, *, read_only: bool = False) -> None:
        self.home = home
        self.read_only = read_only
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="desk")
        self._own = threading.local()
        self._opened: list[Workbench] = []

    async def ask(self, question: Callable[[Workbench], Answer]) -> Answer:
        """The answer to a question that changes nothing.

        Raises:
            HetSpecError: whatever the service says, or the desk is closed, while a page still asks.
        """
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, question)
        except RuntimeError as error:
            raise ResourceError("the dashboard is closing and answers no more questions") from error
        return await answer

    async def change(self, order: Callable[[Workbench], Answer]) -> Answer:
        """The outcome of an order that changes something.

        Raises:
            UsageError: the dashboard is read-only.
            HetSpecError: whatever the service says.
        """
        if self.read_only:
            raise UsageError(
                "this dashboard is read-only (--read-only)", hint="open it without --read-only to change runs"
            )
        return await self.ask(order)

    def close(self) -> None:
        """Let the threads end and close their workbenches. Runs at work go on."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._opened:
            self._opened.pop().close()

    def _answer(self, question: Callable[[Workbench], Any]) -> Any:
        workbench: Workbench | None = getattr(self._own, "workbench", None)
        if workbench is None:
            from hetspec_core.service.workbench import Workbench  # on first use: the first paint does not wait for it

            workbench = self._own.workbench = Workbench(self.home)
            self._opened.append(workbench)
        try:
            return question(workbench)
        except (OSError, sqlite3.Error) as error:  # a full disk, a locked database, a folder that was just deleted
            raise ResourceError(f"{type(error).__name__}: {error}", hint="`hetspec-core doctor` says more") from error
        except (HetSpecError, CancelledError):
            raise
        except Exception as error:  # an error in one run must not end the dashboard
            log.exception("a question to the service failed")
            raise HetSpecError(
                f"unexpected error: {type(error).__name__}: {error}",
                hint="the log of the dashboard has the traceback",
            ) from error


@dataclass
class Outcome:
    """How a command went: the runs that it was done to, run id -> reason of a refusal, further sentences."""

    done: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def say(self, done: str) -> str:
        """In a few lines: how many are `done`, and which are not, with the reasons."""
        lines = []
        if self.done:
            lines.append(f"{self.done[0] if len(self.done) == 1 else f'{len(self.done)} runs'} {done}")
        lines += self.notes[:5]
        lines += [reason for reason in dict.fromkeys(self.refused.values())][:5]
        if len(self.refused) > 5:
            lines.append(f"and {len(self.refused) - 5} more were refused")
        return "\n".join(lines)


def to_each(run_ids: Sequence[str], order: Callable[[Workbench, str], str | None]) -> Callable[[Workbench], Outcome]:
    """An order for each of some runs, for the desk; after a refusal it goes on with the next run.

    Args:
        run_ids: which.
        order: does it to one; may return a sentence for the user.
    """

    def carry_out(workbench: Workbench) -> Outcome:
        outcome = Outcome()
        for run_id in run_ids:
            try:
                note = order(workbench, run_id)
            except HetSpecError as error:
                outcome.refused[run_id] = f"{error.message}{'; ' + error.hint if error.hint else ''}"
                continue
            outcome.done.append(run_id)
            if note:
                outcome.notes.append(note)
        return outcome

    return carry_out


class HasDesk(Protocol):
    """The app, as screens know it."""

    @property
    def desk(self) -> Desk: ...

    def show_title(self, page: Any) -> None:
        """Draw the line above a page: which page it is, and what is open above it."""

    def take_up(self, page: Any) -> None:
        """Restore the saved state of a page that has just been mounted."""

    @property
    def overview(self) -> Overview | None:
        """The newest overview of the runs; None before the first one."""

    def look_now(self) -> None:
        """Ask for the overview of the runs at once."""


def is_whole(node: DOMNode) -> bool:
    """False as soon as a screen, or the app, begins to close: its widgets are removed one after another, while earlier
    questions are still answered.
    """
    return node.is_running and node.app.is_running


class Feed(Generic[Answer]):
    """One question, asked again and again.

    Args:
        ask: asks the desk.
        question: what is asked.
        show: is given every answer that differs from the one before, on the event loop.
        fail: is given an error when it is another than the last one.
        period_s: between an answer and the next question.
        node: whose worker asks; an answer that cannot be shown ends the app as any other fault does. One that comes
            when the node, or the app, is being closed is not shown.
    """

    def __init__(
        self,
        ask: Callable[[Callable[[Workbench], Answer]], Awaitable[Answer]],
        question: Callable[[Workbench], Answer],
        show: Callable[[Answer], None],
        *,
        fail: Callable[[HetSpecError], None],
        node: DOMNode,
        period_s: float = 1.0,
    ) -> None:
        self.period_s = max(period_s, FASTEST_S)
        self._ask, self._question, self._show, self._fail = ask, question, show, fail
        self._node = node
        self._worker: Worker[None] | None = None
        self._now = asyncio.Event()
        self._last: Answer | None = None
        self._trouble = ""

    def start(self) -> None:
        """Begin to ask, or go on after `stop`."""
        if self._worker is None or self._worker.is_finished:
            self._worker = self._node.run_worker(self._run(), group="feed")

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None

    def hurry(self) -> None:
        """Ask at once, because the answer has probably changed."""
        self._now.set()

    async def _run(self) -> None:
        while True:
            self._now.clear()
            try:
                answer = await self._ask(self._question)
            except HetSpecError as error:
                if is_whole(self._node) and str(error) != self._trouble:
                    self._trouble = str(error)
                    self._fail(error)
            else:
                self._trouble = ""
                if is_whole(self._node) and answer != self._last:
                    self._last = answer
                    self._show(answer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.period_s):
                    await self._now.wait()


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
        page = self._app.page_on_top
        if page is not None and page.is_mounted and page.is_whole:  # one that comes asks for it when it is there
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
        page = self._app.page_on_top
        if page is not None:
            page.show_error(error)

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
