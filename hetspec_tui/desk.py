"""Questions to the service, answered by threads, so that the event loop never waits for SQLite, files or processes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hetspec_core.errors import HetSpecError, ResourceError, UsageError

if TYPE_CHECKING:
    from hetspec_core.service.overview import Overview
    from hetspec_core.service.workbench import Workbench

Answer = TypeVar("Answer")
log = logging.getLogger("hetspec")

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
        """The answer to a question that only looks.

        Raises:
            HetSpecError: whatever the service says, or the desk is closed: what is left of a page may still ask.
        """
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, question)
        except RuntimeError as error:
            raise ResourceError("the dashboard is being left; nobody answers any more") from error
        return await answer

    async def change(self, order: Callable[[Workbench], Answer]) -> Answer:
        """The outcome of an order that changes something.

        Raises:
            UsageError: the dashboard was opened to look only.
            HetSpecError: whatever the service says.
        """
        if self.read_only:
            raise UsageError(
                "this dashboard only looks (--read-only)", hint="open it without --read-only to change runs"
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
        except Exception as error:  # what one run holds must not end the dashboard
            log.exception("a question to the service failed")
            raise HetSpecError(
                f"an unforeseen error: {type(error).__name__}: {error}",
                hint="the log of the dashboard has the traceback",
            ) from error


class HasDesk(Protocol):
    """The app, as screens know it."""

    @property
    def desk(self) -> Desk: ...

    def show_title(self, page: Any) -> None:
        """Draw the line above a page: which page it is, and what is open above it."""

    def take_up(self, page: Any) -> None:
        """Give a page that has just been mounted what it was at the last start."""

    @property
    def overview(self) -> Overview | None:
        """What is going on, as it was seen last; None before the first look."""

    def look_now(self) -> None:
        """Look at the runs at once, not in a second."""
