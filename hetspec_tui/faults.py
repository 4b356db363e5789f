"""What the dashboard makes of a fault of its own: it is told without secrets, and nobody is told one while leaving."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from textual.css.query import NoMatches
from textual.dom import NoScreen
from textual.widget import MountError
from textual.worker import WorkerFailed

if TYPE_CHECKING:
    from textual.app import App

    Base = App[None]
else:
    Base = object

log = logging.getLogger("hetspec")


class Faults(Base):
    """Mixed into the app."""

    def _handle_exception(self, error: Exception) -> None:
        """As Textual's. While the app is being left its parts go one by one, and a screen that was just being put
        together may find one gone already: nobody is there who could miss it.
        """
        cause = error.error if isinstance(error, WorkerFailed) else error
        if isinstance(cause, NoMatches | MountError | NoScreen) and (self._exit or not self.is_running):
            log.info("on leaving: %s", cause)
            return
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """Say what went wrong without the values of variables, among which there may be secrets."""
        from rich.segment import Segments
        from rich.traceback import Traceback

        log.exception("the dashboard has crashed")
        trace = Traceback(show_locals=False, width=None)
        self._exit_renderables.append(Segments(self.console.render(trace, self.console.options)))
        self._close_messages_no_wait()
