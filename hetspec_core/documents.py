"""Readers of JSON and TOML with bounds, and of Python's syntax in several threads.

Python's own readers of JSON and TOML raise more than their syntax errors: RecursionError for deep nesting, ValueError
for numbers of thousands of digits, UnicodeDecodeError, and they block at a named pipe. The readers here raise
`DocumentError` for the content and OSError for the file system.

CPython 3.11 counts the depth of the syntax tree that it builds in one counter for all threads. Two threads that build a
tree at the same time can read each other's count, and one of them raises SystemError ("AST constructor recursion depth
mismatch"). Every reader of syntax in a program with threads therefore holds one lock.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import stat
import threading
import tomllib
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar

Words = ParamSpec("Words")
Answer = TypeVar("Answer")

MIB = 1024 * 1024
LIMIT_BYTES = 16 * MIB
"""The largest document that is read unless the caller says otherwise. Tokenizers are the largest that are expected."""

INT64 = 2**63
"""Integers from -INT64 up to INT64 - 1 fit into SQLite, TOML and every reader of JSON."""

DEEPEST = 100
"""Levels of tables and lists that a TOML document may have."""

_LONG_KEY = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){%d}""" % (DEEPEST + 1)  # noqa: UP031
)
"""A dotted key of more parts than `DEEPEST`. Python's reader takes a time that grows with the square of the parts."""


class DocumentError(ValueError):
    """A document that cannot be read. The message is the end of a sentence that begins with the document's name."""


def parse_json(text: str | bytes, *, strict_numbers: bool = False, limit_bytes: int | None = LIMIT_BYTES) -> Any:
    """The value of a JSON text.

    Args:
        text: the document; bytes are read as UTF-8 (a byte order mark is taken off).
        strict_numbers: refuse NaN, infinities, and integers beyond 64 bits, wherever they are.
        limit_bytes: refuse a longer document; None for no limit.

    Raises:
        DocumentError: it is too long, not UTF-8, not JSON, nested too deeply, or has a number that is refused.
    """
    options: dict[str, Any] = {}
    if strict_numbers:
        options = {"parse_constant": _no_constant, "parse_int": _small_integer, "parse_float": _finite_float}
    return _guarded(lambda: json.loads(_decoded(text, limit_bytes), **options), "JSON")


def read_json(
    path: Path, *, strict_numbers: bool = False, limit_bytes: int = LIMIT_BYTES, streams: bool = False
) -> Any:
    """The value of a JSON file; arguments and errors as of `parse_json` and `read_bounded`.

    Raises:
        OSError: the file cannot be opened or read.
        DocumentError: as of `parse_json`, or the path is no regular file.
    """
    return parse_json(read_bounded(path, limit_bytes, streams=streams), strict_numbers=strict_numbers, limit_bytes=None)


def parse_toml(text: str | bytes, *, limit_bytes: int | None = LIMIT_BYTES) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        DocumentError: it is too long, not UTF-8, not TOML, nested deeper than `DEEPEST`, or has an integer beyond 64
            bits.
    """

    def read() -> dict[str, Any]:
        content = _decoded(text, limit_bytes)
        if _LONG_KEY.search(content):
            raise DocumentError(f"is not read as TOML: it has a key of more than {DEEPEST} parts")
        table = tomllib.loads(content)
        _check_values(table)
        return table

    return _guarded(read, "TOML")


def read_toml(path: Path, *, limit_bytes: int = LIMIT_BYTES, streams: bool = False) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        OSError: the file cannot be opened or read.
        DocumentError: as of `parse_toml`, or the path is no regular file.
    """
    return parse_toml(read_bounded(path, limit_bytes, streams=streams), limit_bytes=None)


def read_bounded(path: Path, limit_bytes: int = LIMIT_BYTES, *, streams: bool = False) -> bytes:
    """All bytes of a regular file. A named pipe or a device is refused at once instead of being waited for.

    Args:
        path: the file.
        limit_bytes: refuse a longer one.
        streams: read pipes and devices too: for a file that the user named, which may be `<(command)` of a shell.

    Raises:
        OSError: the file cannot be opened or read.
        DocumentError: it is no regular file, or it has more than `limit_bytes`.
    """
    with open_regular(path, streams=streams) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise DocumentError(f"has more than {limit_bytes / MIB:g} MiB, the most that is read")
    return data


def open_regular(path: Path, *, streams: bool = False) -> BinaryIO:
    """Open a regular file for reading. A named pipe or a device is refused at once instead of being waited for.

    Args:
        path: of the file.
        streams: take a pipe or a device too, as of `read_bounded`.

    Raises:
        OSError: the file cannot be opened.
        DocumentError: it is no regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if streams else os.O_NONBLOCK))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise DocumentError("is a folder, no file")
        if not stat.S_ISREG(mode) and not streams:
            raise DocumentError("is no regular file")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _decoded(text: str | bytes, limit_bytes: int | None) -> str:
    if limit_bytes is not None and len(text) > limit_bytes:
        raise DocumentError(f"has more than {limit_bytes / MIB:g} MiB, the most that is read")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8 text: byte {text[error.start]:#04x} at offset {error.start}") from None


def _guarded(read: Callable[[], Any], language: str) -> Any:
    try:
        return read()
    except DocumentError:
        raise
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise DocumentError(f"is not {language}: {error}") from None
    except RecursionError:
        raise DocumentError(f"is not read as {language}: it is nested too deeply") from None
    except ValueError as error:  # Python's limit for the digits of an integer; dates that no calendar has
        raise DocumentError(f"is not read as {language}: {_first_sentence(error)}") from None


def _first_sentence(error: ValueError) -> str:
    text = str(error)
    return "it has a number of more than 4,300 digits" if "integer string conversion" in text else text


def _no_constant(word: str) -> float:
    raise DocumentError(f"has the number {word}, which is not finite")


def _small_integer(digits: str) -> int:
    if len(digits) > 20 or not -INT64 <= int(digits) < INT64:
        raise DocumentError(f"has the integer {_short(digits)}, beyond 64 bits (-2^63 to 2^63 - 1)")
    return int(digits)


def _short(digits: str) -> str:
    return digits if len(digits) <= 24 else f"{digits[:24]}..."


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise DocumentError(f"has the number {digits[:24]}, which is not finite")
    return number


def _check_values(value: Any) -> None:
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > DEEPEST:
            raise DocumentError(f"is not read as TOML: it is nested deeper than {DEEPEST} levels")
        if isinstance(item, dict):
            pending.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            pending.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, int) and not -INT64 <= item < INT64:
            raise DocumentError(
                f"has an integer of {len(str(abs(item)))} digits; integers go from -2^63 to 2^63 - 1 (64 bits)"
            )


def flatten(tree: Mapping[str, Any], prefix: str = "", *, keep_empty: bool = True) -> dict[str, Any]:
    """Nested tables by dotted key. Lists are values.

    Args:
        tree: a table as JSON and TOML give it; keys that have dots already stay as they are.
        prefix: what every key begins with.
        keep_empty: whether a table without keys is a value; otherwise it is left out.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and (value or not keep_empty):  # not Mapping: it runs for each setting of all runs
            flat |= flatten(value, f"{name}.", keep_empty=keep_empty)
        else:
            flat[name] = value
    return flat


_TABLE_HEADER = re.compile(r"^\s*\[\[?(?P<key>[^\[\]]+)\]\]?\s*(#.*)?$")
_ASSIGNMENT = re.compile(
    r"""^\s*(?P<key>(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Dotted key -> line (from 1) of TOML that is known to parse.

    tomllib gives no positions. This reads table headers and the beginnings of assignments. It may take a line inside a
    text or list of several lines for one, so its result is good for messages only.
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, assignment = _TABLE_HEADER.match(line), _ASSIGNMENT.match(line)
        if header is not None:
            table = _key_parts(header["key"]) or table
            lines.setdefault(table, number)
        elif assignment is not None:
            lines.setdefault((*table, *_key_parts(assignment["key"])), number)
    return lines


def nearest_line(lines: Mapping[tuple[str, ...], int], key: tuple[str, ...]) -> int | None:
    """Line of a key, or of the inline table that holds it."""
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            return lines[key[:length]]
    return None


def _key_parts(dotted: str) -> tuple[str, ...]:
    """The parts of a TOML key, by TOML's own reader."""
    try:
        data: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    parts: list[str] = []
    while isinstance(data, dict):
        name, data = next(iter(data.items()))
        parts.append(name)
    return tuple(parts)


_SYNTAX_LOCK = threading.RLock()  # reentrant: a finalizer that runs while a tree is built may read syntax itself


def one_at_a_time(read: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """The function with a lock, which all functions of this kind share."""

    @wraps(read)
    def locked(*words: Words.args, **options: Words.kwargs) -> Answer:
        with _SYNTAX_LOCK:
            return read(*words, **options)

    return locked


@one_at_a_time
def parse_module(text: str) -> ast.Module:
    """The syntax tree of a file; errors as of `ast.parse`."""
    return ast.parse(text)


@one_at_a_time
def parse_expression(text: str) -> ast.expr:
    """The syntax tree of an expression; errors as of `ast.parse`."""
    return ast.parse(text, mode="eval").body
