"""The standard streams of the command line: what it reads from stdin, prints to stdout, and says on stderr.

Much of what is printed is data from elsewhere: names, answers, templates, error texts, logs. So this is the only module
of the command line that writes to stdout and stderr, and everything that it writes goes through `terminal_text`; only
HetSpec adds colours. Neither console reads markup, emoji codes or highlighting from a string; styles are given as
objects. rich itself honours NO_COLOR, FORCE_COLOR, TERM and COLUMNS.
"""

from __future__ import annotations

import codecs
import json
import logging
import math
import os
import sys
import time
from functools import cache
from typing import IO, TYPE_CHECKING, Any

from hetspec_core.errors import HetSpecError, ResourceError, UsageError
from hetspec_core.quantities import format_duration
from hetspec_core.terminal_text import ascii_escapes, clean_line, plain, say, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

_ESCAPES = "hetspec-escapes"


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

        def on_broken_pipe(self) -> None:
            """Leave a reader that has closed the pipe to `main`, as for every other write; rich would exit with 1."""
            raise BrokenPipeError

    return CleanConsole(stderr=stderr, markup=False, emoji=False, highlight=False)


def print_data(text: str) -> None:
    """Write a document (CSV, TOML, SVG) to stdout: byte for byte into a pipe or file, visible on a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)


def print_line(text: str | Text, *, style: str = "") -> None:
    """Print one line of a result to stdout; it is not folded at the width of the terminal."""
    console().print(text, style=style, soft_wrap=True)


def print_text(text: str, *, out: TextIO | None = None) -> None:
    """Write a piece of a text, such as part of an answer, and flush it."""
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
    """Print a remark to stderr."""
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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows under their columns.

    Args:
        columns: headings, shown on a terminal only.
        rows: cells; anything but text is shown as JSON, None as a dash.
        title: line above the table, on a terminal only.
    """
    cells = [[cell_text(cell) for cell in row] for row in rows]
    if not console().is_terminal:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:  # whole lines, whatever their length: a pipe folds nothing
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if title:
        console().print(Text(title))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=number == 0)
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table)


def cell_text(value: object) -> str:
    """A value as a cell: printable text as it is, None as a dash, the rest as JSON, so that it stays on its line."""
    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print labels with their values, one pair a line; a value that is empty is left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in facts:
        if value:
            table.add_row(label, Text(value))
    console().print(table)


def format_number(value: float | None) -> str:
    """Four significant digits, whole numbers whole, thousands apart; an absent value is a dash."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_age(then: float) -> str:
    """Time since `then` (unix seconds) in its largest unit: 42s, 3m, 2h, 4d."""
    return format_duration(time.time() - then).split(" ")[0]


def format_time(then: float | None) -> str:
    """Local date and time; a dash when absent."""
    return "-" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


# --- the streams themselves ----------------------------------------------------------------------------------------


def accept_any_text() -> None:
    r"""Write a character that stdout or stderr cannot encode as `\uXXXX`, which is also how JSON writes it."""
    codecs.register_error(_ESCAPES, _escaped)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ESCAPES)


def read_stdin() -> str:
    """All of stdin.

    Raises:
        UsageError: it is closed, or not UTF-8 text.
    """
    data = _stdin().read()
    return data if isinstance(data, str) else _decoded(data)


def read_stdin_line() -> str | None:
    """The next line of stdin without its end; None at the end of the input.

    Raises:
        UsageError: it is closed, or the line is not UTF-8 text.
    """
    line = _stdin().readline()
    if not line:
        return None
    return (line if isinstance(line, str) else _decoded(line)).rstrip("\r\n")


def check_words(words: list[str]) -> None:
    """Refuse words of the command line that are not UTF-8 text, except names of files that exist.

    Raises:
        UsageError: one of them is not.
    """
    for number, word in enumerate(words, 1):
        if not word.isascii() and not _is_text(word) and not os.path.lexists(word):
            raise UsageError(
                f"word {number} of the command line is not UTF-8 text: {word!a}",
                hint="type it in a terminal that uses UTF-8, or rename what it names",
            )


def stdout_error() -> HetSpecError | None:
    """Why stdout cannot be written; None if it can.

    Raises:
        BrokenPipeError: its reader has closed the pipe.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return ResourceError(f"standard output cannot be written: {reason}", hint="write to another place")
    except ValueError:  # it is closed
        return None
    return None


def silence(stream: IO[str]) -> None:
    """Point a stream that cannot be written at /dev/null, so that flushing its buffer at exit raises nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2)), error.end


def _stdin() -> IO[bytes] | IO[str]:
    """The byte stream of stdin; stdin itself if a program has replaced it by a text stream."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed, and text is to be read from it")
    return getattr(sys.stdin, "buffer", sys.stdin)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not UTF-8 text: byte {data[error.start]:#04x} at offset {error.start}",
            hint="convert it first, for example with iconv -f LATIN1 -t UTF-8",
        ) from None


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Notes(logging.Handler):
    """The messages that the registry logs (a long scan of the run folders, a failed write), as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        note(record.getMessage())


_REGISTRY_LOG = logging.getLogger("hetspec.registry")
_REGISTRY_LOG.setLevel(logging.INFO)
_REGISTRY_LOG.addHandler(_Notes())
