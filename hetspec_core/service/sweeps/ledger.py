"""Which run is which cell of a sweep, kept in a file beside the runs. It knows keys and ids, not what they mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
from pydantic_core import to_json

from hetspec_core.documents import read_json
from hetspec_core.errors import CorruptFileError, RunError
from hetspec_core.files import write_atomic


@dataclass(frozen=True)
class SubmittedCell:
    """A cell that was submitted."""

    run_id: str
    label: str
    stage: str
    parent: str = ""


class SweepLedger:
    """The cells of one sweep that have a run.

    Args:
        data: the data root.
        name: of the sweep.
    """

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.path = data / "sweeps" / f"{name}.json"

    @property
    def exists(self) -> bool:
        """Whether the sweep was ever submitted here."""
        return self.path.is_file()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the sweep against other commands.

        Raises:
            RunError: another command is at it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(self.path.with_suffix(".lock"))
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(
                f"another command is at sweep {self.name}", hint="wait for it, or stop it; its runs go on"
            ) from None
        try:
            yield
        finally:
            held.release()

    def read(self) -> dict[str, SubmittedCell]:
        """Cell -> its newest run.

        Raises:
            CorruptFileError: the file cannot be read.
        """
        if not self.exists:
            return {}
        try:
            return {key: SubmittedCell(**entry) for key, entry in read_json(self.path)["cells"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(
                f"{self.path} cannot be read: {error}", hint="remove it; the runs stay, and a sweep submits new ones"
            ) from None

    def write(self, cells: dict[str, SubmittedCell]) -> None:
        """Keep these cells, all of them."""
        kept = {key: asdict(entry) for key, entry in cells.items()}
        write_atomic(self.path, to_json({"sweep": self.name, "cells": kept}, indent=1) + b"\n")
