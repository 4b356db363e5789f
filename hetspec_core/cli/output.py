"""What commands use to speak: JSON or tables on stdout, progress and errors on stderr, and following a run."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from hetspec_core.cli.console import (
    console,
    error_console,
    note,
    print_data,
    print_error,
    print_json,
    print_log_line,
    print_text,
    say,
)
from hetspec_core.cli.follow import follow, launch

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
"""Type of the `--json` option, the same in every command."""

__all__ = [
    "JsonFlag",
    "console",
    "error_console",
    "follow",
    "launch",
    "note",
    "print_data",
    "print_error",
    "print_json",
    "print_log_line",
    "print_text",
    "say",
]


class _Notes(logging.Handler):
    """What the registry logs (a long look at the run folders, why it cannot be written), as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        note(record.getMessage())


_REGISTRY_LOG = logging.getLogger("hetspec.registry")
_REGISTRY_LOG.setLevel(logging.INFO)
_REGISTRY_LOG.addHandler(_Notes())
