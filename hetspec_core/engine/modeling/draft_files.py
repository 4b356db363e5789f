"""The files of a draft directory, in whatever layout: JSON and tensors in, a whole directory out. Nothing is unpickled
but plain tensors, and no code of a checkpoint runs. It does not know what the files mean.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetspec_core.errors import CheckpointError
from hetspec_core.paths import sync_folder

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "states.pt")


class DraftFiles:
    """A directory, read as far as it is asked.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        config = self.json(CONFIG)
        if config is None:
            raise CheckpointError(
                f"no draft in {self.folder}: {CONFIG} is missing", hint="name a draft directory or a run"
            )
        return config

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the weights; None when there is no such file.

        Raises:
            CheckpointError: it is damaged.
        """
        file = self.folder / name
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{file} is not JSON: {error}", hint="the file is damaged; fetch or write the draft again"
            ) from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{file} holds no table", hint="the file is damaged; fetch or write the draft again")
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU.

        Raises:
            CheckpointError: there are none, or a file is damaged or holds something else.
        """
        single = self.folder / WEIGHTS
        if single.is_file():
            return _read_safetensors(single)
        index = self.json(_INDEX)
        if index is not None:
            return self._read_shards(index)
        for name in _PICKLED:
            if (self.folder / name).is_file():
                return _read_pickled(self.folder / name)
        raise CheckpointError(
            f"{self.folder} has neither {WEIGHTS} nor {' nor '.join(_PICKLED)}", hint="name a draft directory or a run"
        )

    def _read_shards(self, index: dict[str, Any]) -> dict[str, Tensor]:
        places = index.get("weight_map")
        if not isinstance(places, dict) or any("/" in str(name) for name in places.values()):
            raise CheckpointError(f"{self.folder / _INDEX} has no weight_map of files beside it")
        found: dict[str, Tensor] = {}
        for name in sorted(set(places.values())):
            found |= _read_safetensors(self.folder / str(name))
        missing = sorted(places.keys() - found.keys())
        if missing:
            raise CheckpointError(f"the shards in {self.folder} lack {', '.join(missing[:4])}", hint="fetch them again")
        return found


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from error


def _read_pickled(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler anywhere; code that is not allowed also ends here
        raise _unreadable(file, error) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} does not hold tensors by name", hint="name a draft directory or a run")
    return tensors


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the draft's weights in {file} cannot be read: {first_line(error)}",
        hint="the file is truncated, damaged or no plain checkpoint; use an older checkpoint, or fetch it again",
    )


def first_line(error: Exception) -> str:
    """What an exception says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_draft_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    more: Mapping[str, Callable[[Path], None]] | None = None,
    *,
    make_parents: bool = True,
) -> None:
    """Write a directory of `config.json` and `model.safetensors`; it appears whole or not at all, and replaces an older
    one of the same name.

    Args:
        folder: where.
        config: for `config.json`.
        tensors: by name, contiguous, on the CPU.
        more: further files by name, each with a function that writes it.
        make_parents: make the folders above it. Not for a run: a deleted run does not come back.

    Raises:
        OSError: the disk is full or cannot be written; what stood there before still does.
    """
    if make_parents:
        folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(dict(tensors), staging / WEIGHTS, metadata={"format": "pt"})
        (staging / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True, default=str))
        for name, write in (more or {}).items():
            write(staging / name)
        for file in staging.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(staging)
        staging.chmod(0o755)
        replace_folder(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def replace_folder(staging: Path, folder: Path) -> None:
    """Put a finished directory in the place of another. The old one stands until the new one is complete."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
