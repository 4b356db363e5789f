"""The dashboard's log file: what went wrong, in words, for after the toast has gone. A terminal that is drawn on has no
room for a log, so nothing else goes to it.
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

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
