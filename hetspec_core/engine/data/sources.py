"""Sources of rows: a file, a saved dataset, the hub, or a list that ships with HetSpec.

Parquet, saved datasets and the hub are read by the `datasets` library. The content of a JSON file decides how it is
read, not its suffix: a list of rows, one row a line, or one row a line inside a list. Every row has its line or row
number, and a row that cannot be decoded is left out alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.documents import DocumentError, parse_json
from hetspec_core.engine.data.conversation import RowError
from hetspec_core.errors import CorruptFileError, DataError, NotFoundError
from hetspec_core.paths import roots
from hetspec_core.prompts import PREFIX as SHIPPED_PREFIX
from hetspec_core.prompts import shipped_path

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
        path: the file. A list is recognised by its first character; one object that spans the file is one row, or the
            one list in it; everything else is one row a line.
        name: for messages; its path when empty.

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
    """One row a line. Inside a list that spans the lines, its brackets and commas are removed."""
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
    """Whether a list that spans lines ends with its bracket; otherwise it was cut off, and rows are missing."""
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
    """The same text in UTF-8 without a byte order mark; bytes that are no text of their encoding are kept."""
    encoding = json.detect_encoding(raw[:4])
    if encoding in ("utf-8", "utf-8-sig"):
        return raw.removeprefix(b"\xef\xbb\xbf")
    width = 4 if encoding.startswith("utf-32") else 2
    try:
        text = raw[: len(raw) // width * width].decode(encoding, "surrogatepass")
    except UnicodeDecodeError:  # not that encoding after all; the rows say what is wrong with them
        return raw
    return text.encode("utf-8", "surrogatepass")


HUB_PREFIX = "hub:"
_HUB_NAME = re.compile(r"(?P<repo>[^/@:\s]+/[^/@:\s]+)(?:@(?P<revision>[^:\s]+))?(?::(?P<file>\S+))?")
_ALLOWED = (
    "a .jsonl, .json or .parquet file, a saved dataset directory, hub:owner/name[@revision][:file] or shipped:NAME"
)


def open_rows(source: str, *, split: str = "train") -> Rows:
    """The rows of a source.

    Args:
        source: file, directory, hub:owner/name[@revision][:file] or shipped:NAME.
        split: split of a hub dataset or saved dataset dictionary.

    Raises:
        NotFoundError: the file, directory, split or hub dataset is not there, or there is no network to fetch it.
        DataError: the source is of no known kind, or has no rows.
        CorruptFileError: the file cannot be read.
    """
    if source.startswith(HUB_PREFIX):
        rows = _hub(source, split)
    elif source.startswith(SHIPPED_PREFIX):
        rows = json_rows(shipped_path(source), source)
    else:
        rows = _local(Path(source).expanduser(), split)
    if not rows:
        raise DataError(f"{source} has no rows", hint="name a dataset with at least one conversation")
    return rows


def _local(path: Path, split: str) -> Rows:
    if path.is_dir():
        return _saved(path, split)
    if not path.exists():
        raise NotFoundError(f"no dataset {path}: there is no such file or directory", hint=f"allowed: {_ALLOWED}")
    if not path.is_file():
        raise DataError(f"{path} is no regular file", hint=f"allowed: {_ALLOWED}")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            return json_rows(path)
        case ".parquet":
            return _parquet(path)
    raise DataError(f"{path} is of no known kind ({path.suffix or 'no suffix'})", hint=f"allowed: {_ALLOWED}")


def _parquet(path: Path) -> Rows:
    datasets = _datasets()
    try:
        table = datasets.Dataset.from_parquet(str(path), cache_dir=str(_cache()))
    except Exception as error:  # pyarrow and datasets raise errors of many kinds for a broken file
        raise CorruptFileError(
            f"{path} cannot be read as parquet: {_cause(error)}", hint="write the file again"
        ) from error
    return _table(str(path), table)


def _saved(path: Path, split: str) -> Rows:
    datasets = _datasets()
    try:
        table = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise DataError(
            f"{path} is a directory, but not a saved dataset (there is no dataset_info.json or dataset_dict.json)",
            hint=f"allowed: {_ALLOWED}",
        ) from None
    except Exception as error:
        raise CorruptFileError(f"{path} cannot be read as a saved dataset: {_cause(error)}") from error
    return _table(str(path), _pick_split(str(path), table, split))


def _hub(source: str, split: str) -> Rows:
    parts = _HUB_NAME.fullmatch(source.removeprefix(HUB_PREFIX))
    if parts is None:
        raise DataError(f"{source!r} names no hub dataset", hint="write hub:owner/name[@revision][:file]")
    datasets = _datasets()
    repo, revision, file = parts["repo"], parts["revision"], parts["file"]
    try:
        table = datasets.load_dataset(repo, revision=revision, data_files=file, cache_dir=str(_cache()))
    except Exception as error:  # network, rights, missing repository, unreadable files: all of their own kinds
        raise NotFoundError(
            f"dataset {repo}{f'@{revision}' if revision else ''} could not be fetched from the hub: {_cause(error)}",
            hint="check the name and the network (set HF_TOKEN when it is gated); or copy it here and name the file",
        ) from error
    return _table(source, _pick_split(source, table, split))


def _pick_split(name: str, table: Any, split: str) -> Any:
    if not isinstance(table, dict):
        return table
    if split in table:
        return table[split]
    raise NotFoundError(
        f"{name} has no split {split!r}; there are: {', '.join(table)}", hint="set dataset.split to one of them"
    )


def _table(name: str, table: Any) -> Rows:
    def get(index: int) -> Any:
        try:
            return _without_none(table[index])
        except (ValueError, OverflowError) as error:  # Arrow: a value that is no UTF-8, or that no Python type holds
            raise RowError(f"it cannot be decoded: {_cause(error)}") from None

    return Rows(name, "row", range(1, len(table) + 1), get)


def _without_none(value: Any) -> Any:
    """Arrow gives every row all columns, and None where a row had none: such keys are left out again."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _cache() -> Path:
    return roots().cache / "datasets"


def _datasets() -> Any:
    import datasets  # a second of imports that JSON does not need

    datasets.disable_progress_bars()
    return datasets


def _cause(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
