"""Rows of JSON files, whatever they are called: a list of rows, one row a line, or one row a line inside a list.

The content decides, not the suffix. A row that cannot be decoded costs that row only, and is named by its line. What a
row should look like is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.documents import DocumentError, parse_json
from hetspec_core.engine.data.conversation import RowError
from hetspec_core.errors import CorruptFileError, DataError

_LOOKED_AT = 100  # lines that show whether a file holds one row a line
_ROW_KEYS = frozenset({"messages", "conversations", "conversation", "turns", "prompt", "text"})


@dataclass(frozen=True)
class Rows:
    """The rows of a source, by number from 0.

    Attributes:
        name: the source, for messages.
        unit: what numbers count: line or row.
        numbers: number (from 1) of each row in the source.
        get: row by index from 0; raises RowError when it cannot be decoded.
    """

    name: str
    unit: str
    numbers: Sequence[int]
    get: Callable[[int], Any]

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, index: int) -> str:
        """Where row `index` is: `line 12`."""
        return f"{self.unit} {self.numbers[index]}"


def json_rows(path: Path, name: str = "") -> Rows:
    """The rows of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: the file. A list is known by its first character; one object that spans the file is one row, or the one
            list in it; everything else is one row a line.
        name: what to call it; its path when empty.

    Raises:
        CorruptFileError: it cannot be read, or it is a list or an object that is broken and no line of it is a row.
        DataError: its value is neither a list nor an object.
    """
    name = name or str(path)
    try:
        raw = _as_utf8(path.read_bytes())
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}") from error
    rows = _lines(raw, name)
    if not rows:
        return rows
    is_list = _is_list(raw)
    if not is_list and (len(rows) > 1 or path.suffix.lower() != ".json") and _is_row(rows, 0):
        return rows
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that only the rows that have them cannot be read.
        content = parse_json(raw.decode("utf-8", "surrogateescape"), limit_bytes=None)
    except DocumentError as error:
        if _has_rows(rows) and _is_closed(raw) if is_list else path.suffix.lower() != ".json" or _has_rows(rows):
            return rows
        raise CorruptFileError(
            f"{path} {error}", hint="a JSON file holds a list of rows; one row per line is also read"
        ) from None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 and not _ROW_KEYS & content.keys() else [content]
    if not isinstance(content, list):
        raise DataError(f"{path} holds a {type(content).__name__}; a list of rows is needed")
    return Rows(name, "row", range(1, len(content) + 1), content.__getitem__)


def _lines(raw: bytes, name: str) -> Rows:
    """One row a line. Inside a list that spans the lines, its brackets and commas are taken off."""
    lines = raw.split(b"\n")
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    if numbers and _is_list(raw):
        lines = [line.strip().removesuffix(b",").rstrip() for line in lines]
        first, last = numbers[0] - 1, numbers[-1] - 1
        lines[first] = lines[first].removeprefix(b"[")
        lines[last] = lines[last].removesuffix(b"]").rstrip().removesuffix(b",")
        numbers = [number for number in numbers if lines[number - 1].strip()]
    return Rows(name, "line", numbers, lambda index: _decode(lines[numbers[index] - 1]))


def _is_list(raw: bytes) -> bool:
    return raw[:4096].lstrip()[:1] == b"["


def _is_closed(raw: bytes) -> bool:
    """Whether a list that spans lines ends with its bracket; one that does not was cut off, and rows of it are lost."""
    return b"\n" in raw.strip() and raw[-4096:].rstrip()[-1:] == b"]"


def _decode(line: bytes) -> Any:
    try:
        return parse_json(line)
    except DocumentError as error:
        raise RowError(f"it {error}") from None


def _has_rows(rows: Rows) -> bool:
    """Whether one of the first lines is a row by itself."""
    return any(_is_row(rows, index) for index in range(min(len(rows), _LOOKED_AT)))


def _is_row(rows: Rows, index: int) -> bool:
    try:
        return isinstance(rows.get(index), dict | str)
    except RowError:
        return False


def _as_utf8(raw: bytes) -> bytes:
    """The same text in UTF-8 without a byte order mark; bytes that are no text of their encoding stay what they are."""
    encoding = json.detect_encoding(raw[:4])
    if encoding in ("utf-8", "utf-8-sig"):
        return raw.removeprefix(b"\xef\xbb\xbf")
    width = 4 if encoding.startswith("utf-32") else 2
    try:
        text = raw[: len(raw) // width * width].decode(encoding, "surrogatepass")
    except UnicodeDecodeError:  # not that encoding after all; the rows say what is wrong with them
        return raw
    return text.encode("utf-8", "surrogatepass")
