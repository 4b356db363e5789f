"""The store of hidden states: shards that are written once, and a manifest that names them.

Durability: a shard is written under a temporary name, synced, renamed, and then entered in the manifest. After a kill
at any moment the store is as before that shard, or has the shard. When the store is opened for writing again, a
complete shard that the manifest does not name is added, and temporary files are removed.

Training reads samples through `SampleStore`, from these stores or from EAGLE's files (`open_samples`).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from hetspec_core.engine.data.eagle_files import EagleFiles, holds_eagle_files
from hetspec_core.engine.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    StoreIdentity,
    check_sizes,
    read_manifest,
    resolve_store,
    write_manifest,
)
from hetspec_core.engine.data.shards import (
    STORE_DTYPES,
    TEMPORARY_PREFIX,
    Sample,
    Shard,
    count_supervised,
    read_entry,
    write_shard,
)
from hetspec_core.errors import CorruptFileError, DataError, RunError
from hetspec_core.files import take_lock

__all__ = ["STORE_DTYPES", "HiddenStateStore", "HiddenStateWriter", "Sample", "count_supervised", "open_store"]


class HiddenStateWriter:
    """Adds samples to a store, new or half made. One writer at a time; others are refused.

    Args:
        folder: the store; made when missing.
        identity: common to all its samples.
        about: names and settings for the manifest.
        shard_bytes: size at which a shard is closed.
        make_parents: make the folders above it. False for a run, so that a deleted run is not made again.

    Raises:
        DataError: the folder holds a store of another identity; every difference is named.
        RunError: another process writes to this store.
        ResourceError: the disk is full; what was there before is intact.
    """

    def __init__(
        self,
        folder: Path,
        identity: StoreIdentity,
        *,
        about: Mapping[str, Any],
        shard_bytes: int = 256 << 20,
        make_parents: bool = True,
    ) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._pending: list[Sample] = []
        self._pending_bytes = 0
        folder.mkdir(parents=make_parents, exist_ok=True)
        self._lock = _lock(folder)
        try:
            self.manifest = self._open(identity, about)
            self.done = self.manifest.ids
        except BaseException:
            self._lock.close()
            raise

    def _open(self, identity: StoreIdentity, about: Mapping[str, Any]) -> Manifest:
        for stray in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            stray.unlink()
        if not (self.folder / MANIFEST_NAME).exists():
            manifest = Manifest(identity=identity, about=dict(about))
            write_manifest(self.folder, manifest)
        manifest = read_manifest(self.folder)
        if differences := manifest.identity.differences(identity):
            raise DataError(
                f"the dataset in {self.folder} does not match this run (dataset / run): {'; '.join(differences)}",
                hint="start a new run instead of adding to this one",
            )
        # A user deletes a damaged shard by hand: its samples count as not captured.
        present = tuple(shard for shard in manifest.shards if (self.folder / shard.file).exists())
        check_sizes(self.folder, manifest.with_shards(present))
        shards = present + tuple(self._adopt(manifest, {shard.file for shard in present}))
        if shards != manifest.shards:
            manifest = manifest.with_shards(shards)
            write_manifest(self.folder, manifest)
        return manifest

    def _adopt(self, manifest: Manifest, named: set[str]) -> list[ShardEntry]:
        """The entries of complete shards that a kill kept out of the manifest."""
        found: list[ShardEntry] = []
        known = {i for shard in manifest.shards if shard.file in named for i in shard.ids}
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            if path.name in named:
                continue
            entry = read_entry(path, manifest.identity)
            if known & set(entry.ids):
                raise CorruptFileError(
                    f"{path} repeats samples of other shards and is not in the manifest", hint="move it away"
                )
            known.update(entry.ids)
            found.append(entry)
        return found

    def add(self, sample: Sample) -> None:
        """Add one sample; closes the shard when it is large enough.

        The tensors must be on the CPU, of the store's type, and must not be changed afterwards.

        Raises:
            DataError: the sample is there already, or its tensors do not fit the store.
            ResourceError: the disk is full.
        """
        identity = self.manifest.identity
        if sample.id in self.done:
            raise DataError(f"sample {sample.id} is in the store already")
        rows = len(sample.input_ids)
        states = [sample.hidden, *sample.layers.values()]
        if tuple(sorted(sample.layers)) != identity.layers or any(
            tuple(state.shape) != (rows, identity.hidden_size) or state.dtype != STORE_DTYPES[identity.dtype]
            for state in states
        ):
            shapes = [f"{tuple(state.shape)} {state.dtype}" for state in states]
            raise DataError(
                f"sample {sample.id}: states {', '.join(shapes)} of layers {sorted(sample.layers)} do not fit "
                f"a store of ({rows}, {identity.hidden_size}) {identity.dtype} with layers {list(identity.layers)}"
            )
        self._pending.append(sample)
        self.done.add(sample.id)
        self._pending_bytes += sum(state.nbytes for state in states) + 5 * rows
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the samples held in memory as one shard and make it durable.

        Raises:
            ResourceError: the disk is full; the store is unchanged, and the samples are still held.
        """
        if not self._pending:
            return
        taken = [int(Path(shard.file).stem.removeprefix("shard-")) for shard in self.manifest.shards]
        path = self.folder / f"shard-{max(taken, default=-1) + 1:05d}.safetensors"
        entry = write_shard(path, self._pending, self.manifest.identity)
        manifest = self.manifest.with_shards((*self.manifest.shards, entry))
        write_manifest(self.folder, manifest)
        self.manifest = manifest
        self._pending, self._pending_bytes = [], 0

    def close(self, *, flush: bool = True) -> None:
        """Write what is held and release the lock."""
        try:
            if flush:
                self.flush()
        finally:
            self._lock.close()

    def __enter__(self) -> HiddenStateWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(flush=kind is None)


class HiddenStateStore:
    """Samples of one or several stores of the same identity, by number. Tensors are views of the mapped files.

    Raises:
        NotFoundError: a folder has no manifest.
        CorruptFileError: a manifest cannot be read, or a shard is missing or of another size.
        DataError: the stores are of different bases, templates, layers or types; every difference is named.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if not folders:
            raise DataError("no dataset is named", hint="give the run id or directory of at least one dataset")
        self.folders = tuple(folders)
        self.manifests = tuple(read_manifest(folder) for folder in folders)
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.supervised: list[int] = []
        self._shards: list[tuple[Path, ShardEntry]] = []
        self._ends: list[int] = []  # number of samples up to and including shard i
        first = self.manifests[0]
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            if differences := first.identity.differences(manifest.identity):
                raise DataError(
                    f"{self.folders[0]} and {folder} cannot be used together: {'; '.join(differences)}",
                    hint="use datasets of the same base, template, layers and type",
                )
            check_sizes(folder, manifest)
            for shard in manifest.shards:
                self.ids.extend(shard.ids)
                self.lengths.extend(shard.lengths)
                self.supervised.extend(shard.supervised)
                self._shards.append((folder, shard))
                self._ends.append(len(self.ids))
        self._open: dict[int, Shard] = {}

    @property
    def manifest(self) -> Manifest:
        """The manifest of the first store; all share its identity."""
        return self.manifests[0]

    @property
    def identity(self) -> StoreIdentity:
        return self.manifest.identity

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.ids):
            raise IndexError(f"sample {index} of a dataset of {len(self.ids)}")
        number = bisect.bisect_right(self._ends, index)
        folder, entry = self._shards[number]
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = Shard(folder / entry.file, self.identity)
        row = index - (self._ends[number] - len(entry.ids))
        return shard.sample(entry.ids[row], entry.starts[row], entry.lengths[row])


def open_store(paths: Sequence[Path]) -> HiddenStateStore:
    """Open stores or run folders that hold one, as one store.

    Raises:
        NotFoundError, CorruptFileError, DataError: as `HiddenStateStore`.
    """
    return HiddenStateStore([resolve_store(Path(path)) for path in paths])


def _lock(folder: Path) -> BinaryIO:
    """The open file that holds the lock of a store; the kernel releases it when the process ends."""
    file = take_lock(folder / ".lock", make_folder=False)
    if file is None:
        raise RunError(
            f"another process is writing to {folder}", hint="wait for it, or cancel its run, then start this one again"
        )
    return os.fdopen(file, "wb")


class SampleStore(Protocol):
    """Samples by number.

    Attributes:
        folders: of the files.
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
        """What all samples have in common; an empty fingerprint and a vocabulary of 0 mean not known."""
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
