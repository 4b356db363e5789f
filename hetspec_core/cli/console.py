"""Where the command line writes to: results to stdout, everything said on the way to stderr. It knows no runs.

What is printed is data of others more often than not, so neither console takes markup, emoji codes or highlighting from
a string; styles are given as objects. rich itself honours NO_COLOR, FORCE_COLOR, TERM and COLUMNS.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from hetspec_core.errors import HetSpecError


@cache
def console() -> Console:
    """The console of results (stdout)."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False)


@cache
def error_console() -> Console:
    """The console of progress, notes and errors (stderr)."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_json(data: Any, *, lines: bool = False) -> None:
    """Print JSON to stdout, indented, or on one line as part of a stream. Numbers that are not finite are null."""
    from pydantic_core import to_json

    text = to_json(data, inf_nan_mode="null", indent=None if lines else 2, fallback=str).decode()
    sys.stdout.write(text + "\n")
    if lines:
        sys.stdout.flush()


def note(message: str) -> None:
    """Say something on the way, to stderr."""
    error_console().print(message, style="dim", soft_wrap=True)


def print_error(error: HetSpecError, *, as_json: bool) -> None:
    """Show an error: a sentence and a hint on stderr, or an object {"error": ...} on stdout."""
    problems = list(getattr(error, "problems", ()))
    if as_json:
        record = {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        print_json({"error": record | ({"problems": problems} if problems else {})}, lines=True)
        return
    from rich.text import Text

    out = error_console()
    out.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    for problem in problems:
        out.print(Text(f"  - {problem}"), soft_wrap=True)
    if error.hint:
        out.print(Text.assemble(("hint: ", "bold cyan"), error.hint), soft_wrap=True)
