"""EAGLE's offline training data, read in place: one torch file per conversation, in folders of many.

A file holds `input_ids` [T], `hidden_state` [T, H] (after the final norm) and `loss_mask` [T] (which tokens are the
assistant's), each perhaps with a leading batch of one. Only plain tensors are unpickled. The files do not name their
base. Every file is read once for its length and kept in a cache of lengths. A file whose states are not finite is left
out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.data.shards import STORE_DTYPES, Sample, count_supervised
from hetspec_core.engine.reporting import first_line
from hetspec_core.errors import CorruptFileError, DataError
from hetspec_core.files import write_atomic
from hetspec_core.paths import roots

SUFFIX = ".ckpt"
_KEYS = ("input_ids", "hidden_state", "loss_mask")
_NAMES = {dtype: name for name, dtype in STORE_DTYPES.items()}


def holds_eagle_files(folder: Path) -> bool:
    """Whether there is such a file in the folder or below it."""
    return next(_walk(folder), None) is not None


class EagleFiles:
    """Folders of torch files as one set of samples, by number.

    Attributes:
        not_finite: file of each sample that was left out -> where its first state is that is not finite.

    Raises:
        DataError: there are no files, none has finite states, or they are of different bases.
        CorruptFileError: a file is damaged or holds something else.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.supervised: list[int] = []
        self._files: list[Path] = []
        self.not_finite: dict[str, str] = {}
        sizes: set[tuple[int, str]] = set()
        for folder in self.folders:
            for file, seen in _look_into(folder):
                if seen["not_finite"]:
                    self.not_finite[f"{folder.name}/{file.relative_to(folder)}"] = seen["not_finite"]
                    continue
                self.ids.append(f"{folder.name}/{file.relative_to(folder)}")
                self._files.append(file)
                self.lengths.append(seen["length"])
                self.supervised.append(seen["supervised"])
                sizes.add((seen["hidden_size"], seen["dtype"]))
        if self.not_finite and not self._files:
            name, where = next(iter(self.not_finite.items()))
            raise DataError(
                f"none of the {len(self.not_finite)} files has finite states: {name}, {where}",
                hint="generate them again in a number type that the base does not overflow",
            )
        if not self._files:
            raise DataError(f"no {SUFFIX} files in {', '.join(map(str, folders))}")
        if len(sizes) > 1:
            told = "; ".join(f"hidden size {size} in {dtype}" for size, dtype in sorted(sizes))
            raise DataError(f"the files are of different bases: {told}", hint="name the folder of one of them")
        [(hidden_size, dtype)] = sizes
        self.identity = StoreIdentity(
            base_fingerprint="",  # not known
            tokenizer_hash="",
            template_hash="",
            hidden_size=hidden_size,
            vocab_size=0,  # not known
            layers=(),
            norm="after_final_norm",
            dtype=dtype,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.ids):
            raise IndexError(f"sample {index} of a dataset of {len(self.ids)}")
        return _sample(self.ids[index], _read(self._files[index]))


def _sample(name: str, found: dict[str, Tensor]) -> Sample:
    return Sample(
        id=name,
        input_ids=found["input_ids"].to(torch.int32),
        assistant_mask=found["loss_mask"].bool(),
        hidden=found["hidden_state"],
    )


def _walk(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob(f"*{SUFFIX}") if file.is_file())


def _look_into(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every file with its length, supervised tokens, hidden size and type; from the cache where nothing changed."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    cache = roots().cache / "eagle-files" / f"{name}.json"
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    seen: dict[str, dict[str, Any]] = {}
    files = sorted(_walk(folder))
    for file in files:
        stat = file.stat()
        key, stamp = str(file.relative_to(folder)), [stat.st_size, stat.st_mtime_ns]
        before = known.get(key) if isinstance(known, dict) else None
        if before is not None and before.get("stamp") == stamp and "not_finite" in before:
            seen[key] = before
            continue
        found = _read(file)
        seen[key] = {
            "stamp": stamp,
            "length": len(found["input_ids"]),
            "supervised": count_supervised(found["loss_mask"].bool()),
            "hidden_size": int(found["hidden_state"].shape[1]),
            "dtype": _NAMES[found["hidden_state"].dtype],
            "not_finite": _sample(str(file), found).not_finite(),
        }
    if seen != known and seen:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, json.dumps(seen))
    for file in files:
        yield file, seen[str(file.relative_to(folder))]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler anywhere; code that is not allowed also ends here
        hint = "move it away, or fetch it again"
        raise CorruptFileError(f"{file} cannot be read: {first_line(error)}", hint=hint) from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), Tensor) for key in _KEYS):
        seen = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise CorruptFileError(f"{file} holds {seen}; needed are {', '.join(_KEYS)}", hint="see docs/datasets.md")
    ids, states, mask = (found[key] for key in _KEYS)
    ids, mask = ids.reshape(-1), mask.reshape(-1)
    states = states.squeeze(0) if states.ndim == 3 else states
    if states.ndim != 2 or not len(ids) == len(mask) == len(states) or states.dtype not in _NAMES:
        shapes = ", ".join(f"{key} {list(found[key].shape)} {found[key].dtype}" for key in _KEYS)
        raise CorruptFileError(f"the tensors in {file} do not belong together: {shapes}", hint="see docs/datasets.md")
    return {"input_ids": ids, "hidden_state": states, "loss_mask": mask}
