"""Where rows come from: a file, a saved dataset, the hub, or a list that ships with HetSpec.

Parquet, saved datasets and the hub are read by the `datasets` library, JSON by `json_rows`. Every row comes with its
place (line or row number). It knows nothing of what a row should look like.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hetspec_core.engine.data.conversation import RowError
from hetspec_core.engine.data.json_rows import Rows, json_rows
from hetspec_core.errors import CorruptFileError, DataError, NotFoundError
from hetspec_core.paths import roots
from hetspec_core.prompts import PREFIX as SHIPPED_PREFIX
from hetspec_core.prompts import shipped_path

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
            f"dataset {repo}{f'@{revision}' if revision else ''} could not be had from the hub: {_cause(error)}",
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
