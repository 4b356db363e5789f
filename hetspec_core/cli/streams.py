"""The standard streams of the command line: what they can encode, what is read from them, and a full device."""

from __future__ import annotations

import codecs
import os
import sys
from typing import IO

from hetspec_core.errors import HetSpecError, ResourceError, UsageError

_ESCAPES = "hetspec-escapes"


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
