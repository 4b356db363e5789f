"""Training checkpoints on disk: written whole or not at all, checked when read, and removed when superseded.

    checkpoints/step-000500/
        draft/                        the draft, as any draft directory
        training_state.safetensors    optimizer, random generators, sums of the running metrics window
        state.json                    counters, plan, and the size and CRC-32 of every other file

A checkpoint is written into a hidden folder beside its final path, synced, and renamed; `state.json` is written last.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetspec_core.engine.data.stores import link_or_copy
from hetspec_core.errors import CheckpointError, ResourceError
from hetspec_core.files import is_full, new_folder

FORMAT_VERSION = 1
RECORD = "state.json"
TENSORS = "training_state.safetensors"
DRAFT = "draft"
_NAME = re.compile(r"step-(\d{6,})")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class TrainingCheckpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        path: its folder.
        step: optimiser steps taken.
        record: what the loop recorded.
        tensors: what the loop stored, on the CPU.
    """

    path: Path
    step: int
    record: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def draft(self) -> Path:
        return self.path / DRAFT


class TrainingCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: `checkpoints/` of the run; made when missing.
        limit: newest checkpoints that are kept, in addition to the best one.
        make_parents: make the folders above it. False for a run, so that a deleted run is not made again.
    """

    def __init__(self, folder: Path, *, limit: int, make_parents: bool = True) -> None:
        self.folder = folder
        self.limit = limit
        folder.mkdir(parents=make_parents, exist_ok=True)
        for stray in folder.glob(".step-*"):  # left by a kill in the middle of writing
            shutil.rmtree(stray, ignore_errors=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in ascending order."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def save(
        self, step: int, *, write_draft: Callable[[Path], None], tensors: dict[str, Tensor], record: dict[str, Any]
    ) -> Path:
        """Write the checkpoint of a step and make it durable.

        Args:
            step: optimiser steps taken.
            write_draft: writes the draft directory at the path it is given.
            tensors: everything else to store, on any device.
            record: counters and plan; JSON values.

        Raises:
            ResourceError: the disk is full; the checkpoints before this one are intact.
        """
        target = self.path(step)
        try:
            with new_folder(target) as staging:
                _check_room(staging, tensors)
                write_draft(staging / DRAFT)
                on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                save_file(on_cpu, staging / TENSORS)
                _write_record(staging, record | {"format_version": FORMAT_VERSION, "step": step})
        except BaseException as error:
            if is_full(error):
                raise ResourceError(
                    f"no room on the disk for checkpoint {target}",
                    hint="free some space and resume the run: the checkpoints before this one are intact",
                ) from error
            raise
        return target

    def prune(self, best_step: int | None) -> None:
        """Remove all but the newest `limit` checkpoints and the best one."""
        for step in self.steps()[: -self.limit]:
            if step != best_step:
                doomed = self.path(step)
                hidden = doomed.with_name(f".{doomed.name}.old")  # a half-removed one must not look like a checkpoint
                doomed.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)

    def load(self, step: int) -> TrainingCheckpoint:
        """Read the checkpoint of a step.

        Raises:
            CheckpointError: a file is missing, truncated or altered; the file is named.
        """
        folder = self.path(step)
        record = self.check(step)
        try:
            tensors = load_file(folder / TENSORS)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / TENSORS} cannot be read: {error}") from error
        return TrainingCheckpoint(path=folder, step=step, record=record, tensors=tensors)

    def check(self, step: int) -> dict[str, Any]:
        """Compare every file of a checkpoint with what was written, and return its record.

        Raises:
            CheckpointError: a file is missing, truncated or altered; the file is named.
        """
        record = _read_record(self.path(step) / RECORD)
        for name, facts in record.pop("files").items():
            _check_file(self.path(step) / name, facts)
        return record

    def load_newest(self, on_skip: Callable[[CheckpointError], None]) -> TrainingCheckpoint | None:
        """The newest checkpoint that is whole, or None when there is no checkpoint.

        Args:
            on_skip: called with the error of every newer one that cannot be used.

        Raises:
            CheckpointError: there are checkpoints, and not one is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except CheckpointError as error:
                on_skip(error)
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self.folder} is whole",
                hint=f"restore one from a copy; or delete {self.folder} and resume to train from the beginning",
            )
        return None


def publish_draft(checkpoint: Path, target: Path) -> None:
    """Make `target` the draft of a checkpoint; an older draft is replaced when the new one is complete.

    The files are hard links where the file system has them: drafts are never changed in place.
    """
    with new_folder(target) as staging:
        shutil.copytree(
            checkpoint / DRAFT, staging, copy_function=lambda a, b: link_or_copy(Path(a), Path(b)), dirs_exist_ok=True
        )


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record with the facts of every other file of the checkpoint, and a checksum of itself."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    content = record | {"files": files}
    text = json.dumps(content | {"checksum": _record_checksum(content)}, indent=1, sort_keys=True)
    (folder / RECORD).write_text(text)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        checksum = record.pop("checksum")
        whole = checksum == _record_checksum(record) and isinstance(record["files"], dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not whole:
        raise CheckpointError(f"{path} is damaged: its checksum differs")
    if record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {record.get('format_version')}; this version reads {FORMAT_VERSION}",
            hint="resume with the version of HetSpec that wrote it",
        )
    return record


def _record_checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _check_file(path: Path, facts: dict[str, int]) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    if size != facts["bytes"]:
        raise CheckpointError(f"{path} is truncated or altered: {size} bytes, {facts['bytes']} were written")
    if _crc32(path) != facts["crc32"]:
        raise CheckpointError(f"{path} is altered: its checksum differs from the one that was written")


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _check_room(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Raise OSError before gigabytes are written that cannot fit."""
    needed = sum(tensor.nbytes for tensor in tensors.values()) * 3 // 2  # two moments a weight here, and the draft
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
