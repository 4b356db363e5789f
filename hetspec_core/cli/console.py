"""Where the command line writes to: results to stdout, everything said on the way to stderr. It knows no runs.

What is printed is data of others more often than not: names, answers, templates, error texts, logs. So this module is
the only one of the command line that writes to stdout and stderr, and everything that it writes goes through
`terminal_text`; colours come from HetSpec alone. Neither console takes markup, emoji codes or highlighting from a
string; styles are given as objects. rich itself honours NO_COLOR, FORCE_COLOR, TERM and COLUMNS.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from hetspec_core.terminal_text import ascii_escapes, clean_line, plain, say, visible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    from hetspec_core.errors import HetSpecError

__all__ = [
    "console",
    "error_console",
    "note",
    "print_data",
    "print_error",
    "print_json",
    "print_log_line",
    "print_text",
    "say",
]


@cache
def console() -> Console:
    """The console of results (stdout)."""
    return _clean_console(stderr=False)


@cache
def error_console() -> Console:
    """The console of progress, notes and errors (stderr)."""
    return _clean_console(stderr=True)


def _clean_console(*, stderr: bool) -> Console:
    from rich.console import Console
    from rich.segment import Segment

    class CleanConsole(Console):
        """A console whose text holds no control characters but those that rich itself adds as styles and controls."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            """The segments of a renderable, cleaned; tables render their cells by this too, so widths are right."""
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else visible(segment.text)
                yield segment if text == segment.text else Segment(text, segment.style)

    return CleanConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_data(text: str) -> None:
    """Write a document (CSV, TOML, SVG) to stdout: byte for byte into a pipe or file, visible on a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)


def print_text(text: str, *, out: TextIO | None = None) -> None:
    """Write a piece of a text, such as an answer that comes in pieces, and show it at once."""
    stream = sys.stdout if out is None else out
    say(text, file=stream, end="")
    stream.flush()


def print_log_line(line: bytes) -> None:
    """Write one line of a log to stdout: as it is into a pipe, with no control but colours on a terminal.

    Args:
        line: without its newline. Colours end with it; NO_COLOR takes them out.
    """
    if not sys.stdout.isatty():
        sys.stdout.write(line.decode(errors="replace") + "\n")
        return
    text = clean_line(line, longest=None)
    coloured = "\x1b" in text and not os.environ.get("NO_COLOR")
    sys.stdout.write((f"{text}\x1b[0m" if coloured else plain(text)) + "\n")


def print_json(data: Any, *, lines: bool = False) -> None:
    """Print JSON to stdout, indented, or on one line as part of a stream. Numbers that are not finite are null.

    DEL, C1 and marks of direction are escaped, so that the text is safe on a terminal and has the same value.
    """
    from pydantic_core import to_json

    text = to_json(data, inf_nan_mode="null", indent=None if lines else 2, fallback=str).decode()
    sys.stdout.write(ascii_escapes(text) + "\n")
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
