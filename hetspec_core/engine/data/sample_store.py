"""Samples to train on, from wherever they lie: HetSpec's stores, or EAGLE's files. Training knows this and no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hetspec_core.engine.data.eagle_files import EagleFiles, holds_eagle_files
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.data.manifest import MANIFEST_NAME, StoreIdentity
from hetspec_core.engine.data.shards import Sample
from hetspec_core.errors import DataError


class SampleStore(Protocol):
    """Samples by number.

    Attributes:
        folders: where they lie.
        ids: of the samples.
        lengths: tokens of each.
        supervised: tokens of each that a draft can be asked to predict.
    """

    folders: tuple[Path, ...]
    ids: list[str]
    lengths: list[int]
    supervised: list[int]

    @property
    def identity(self) -> StoreIdentity:
        """What all samples share; an empty fingerprint and a vocabulary of 0 are not known."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def open_samples(paths: Sequence[Path]) -> SampleStore:
    """Open stores, run folders that hold one, or folders of EAGLE's files, as one set of samples.

    Raises:
        NotFoundError, CorruptFileError, DataError: as `HiddenStateStore` and `EagleFiles`; also for some of each.
    """
    foreign = [path for path in paths if not (path / MANIFEST_NAME).is_file() and holds_eagle_files(path)]
    if not foreign:
        return open_store(paths)
    if len(foreign) < len(paths):
        raise DataError(
            f"{foreign[0]} holds EAGLE's files, and the other datasets are HetSpec's",
            hint="train on one kind of them at a time: HetSpec's name their base, EAGLE's do not",
        )
    return EagleFiles(foreign)
