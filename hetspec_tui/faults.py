"""Faults of the dashboard itself: its log file, and what it shows of an exception (no values of variables)."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
_MOST_BYTES = 1_000_000


def open_log(path: Path) -> None:
    """Write what is logged, also by libraries, to a file of limited size; without it where it cannot be written."""
    handler: logging.Handler
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.raiseExceptions = False  # a full disk must not write a traceback over the screen
    logging.captureWarnings(True)


class Faults(Base):
    """Mixed into the app. `_handle_exception` is the only private name of Textual that the dashboard uses."""

    _has_exited = False

    def exit(self, result: None = None, return_code: int = 0, message: Any = None) -> None:
        self._has_exited = True
        super().exit(result, return_code, message)

    def _handle_exception(self, error: Exception) -> None:
        """As Textual's, but for two cases.

        After `exit` the widgets are removed one by one, and a screen that is still composing may not find one of them;
        such an error is logged only. Any other error is shown without the values of local variables, which may be
        secrets: Textual renders an error that has `__rich__` by that method.
        """
        cause = error.error if isinstance(error, WorkerFailed) else error
        if isinstance(cause, NoMatches | MountError | NoScreen) and (self._has_exited or not self.is_running):
            log.info("on leaving: %s", cause)
            return
        log.error("the dashboard has crashed", exc_info=cause)
        if not hasattr(error, "__rich__"):
            from rich.traceback import Traceback

            shown = Traceback.from_exception(type(cause), cause, cause.__traceback__, show_locals=False, width=None)
            vars(error)["__rich__"] = lambda: shown
        super()._handle_exception(error)
