"""Shares of a dataset that several workers make together, and the logs of unfinished work.

    shares/K/hidden_states/        the store of worker K, as a run has one
    shares/K/conversations.jsonl   its finished answers
    shares/K/prompts.jsonl         its attempts at prompts
    shares/K/share.json            its figures, when it has done all of its share

Samples are dealt out by their content ids, so the shares of one number of workers never overlap. A sample in any share,
or in the run's own store, is not made again, also when the run is resumed with another number of workers. At the end
one worker moves the shares into the run's store and removes them.

A log is a JSON-lines file that records are appended to, one write each; it survives a kill in the middle of a write.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from hetspec_core.engine.data.hidden_states import HiddenStateStore, HiddenStateWriter
from hetspec_core.engine.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    check_sizes,
    disk_error,
    read_manifest,
    write_manifest,
)
from hetspec_core.engine.data.stores import link_or_copy
from hetspec_core.engine.run_folder import Share
from hetspec_core.errors import CorruptFileError, DataError
from hetspec_core.files import append_line, sync_folder, write_atomic
from hetspec_core.paths import RunPaths

_SYNC_PERIOD_S = 1.0


class AppendLog:
    """Records of an unfinished task, from which it resumes after a kill.

    Opening reads the file; half a line at the end (a kill during a write) is cut off. A record is written when `append`
    returns, and synced to the disk at most a second later.

    Args:
        path: the file; made when missing, its folder must exist.

    Raises:
        CorruptFileError: a line that is not the last is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self.records = self._read()
        except BaseException:
            os.close(self._handle)
            raise
        self._synced_s = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._handle, whole)
        return _parse(self.path, content[:whole])

    def append(self, record: dict[str, Any]) -> None:
        """Add one record.

        Raises:
            ResourceError: the disk is full; the records before are intact.
        """
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        before = os.fstat(self._handle).st_size
        try:
            append_line(self._handle, line)
            if time.monotonic() - self._synced_s > _SYNC_PERIOD_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._handle, before)
            raise disk_error(error, self.path) from error
        self.records.append(record)

    def sync(self) -> None:
        os.fsync(self._handle)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._handle)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Whole records of a log that another process may be writing; none when there is no such file.

    Raises:
        CorruptFileError: a whole line is no JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return _parse(path, content[: content.rfind(b"\n") + 1])


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise CorruptFileError(
                f"line {number} of {path} is not what was written", hint="delete the line, then resume the run"
            )
        records.append(record)
    return records


_FACTS = "share.json"


class Workplace:
    """The folder that a worker writes to, and what the other workers have written.

    Args:
        run: the run folder.
        share: the part of the work that the worker does; the whole work goes into the run folder itself.

    Attributes:
        own: folder of the worker, laid out as a run folder.
    """

    def __init__(self, run: RunPaths, share: Share) -> None:
        self.share = share
        self._run = run
        self.own = run if share.is_whole else RunPaths(run.shares / str(share.number))
        if not share.is_whole:
            run.shares.mkdir(exist_ok=True)  # one by one, so that a deleted run folder is not made again
            self.own.folder.mkdir(exist_ok=True)

    def open_log(self, name: str, key: Callable[[dict[str, Any]], Hashable]) -> AppendLog:
        """The worker's own log of this name; a worker that does all of the work adds the records of the others."""
        log = AppendLog(self.own.folder / name)
        if self.share.is_whole:
            known = {key(record) for record in log.records}
            for record in self.records_of_others(name):
                if key(record) not in known:
                    known.add(key(record))
                    log.append(record)
        return log

    def records_of_others(self, name: str) -> list[dict[str, Any]]:
        """Whole records in all other logs of this name, now."""
        return [record for folder in self._others() for record in read_records(folder / name)]

    def ids_of_others(self) -> set[str]:
        """Samples in all other stores."""
        return {sample_id for manifest in self._manifests().values() for sample_id in manifest.ids}

    def finish_share(self, facts: dict[str, Any]) -> None:
        """Record that all of the share is in its store, with its figures."""
        write_atomic(self.own.folder / _FACTS, json.dumps(facts), make_folder=False)

    def gather(self, writer: HiddenStateWriter) -> list[dict[str, Any]]:
        """Move all shares into the run's store; returns the figures of each."""
        take_in(writer, list(self._manifests()))
        facts: list[dict[str, Any]] = []
        for folder in self._others():
            try:
                facts.append(json.loads((folder / _FACTS).read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue
        return facts

    def clear(self) -> None:
        """Remove all shares, after `gather`."""
        shutil.rmtree(self._run.shares, ignore_errors=True)

    def _others(self) -> list[Path]:
        shares = sorted(path for path in self._run.shares.glob("*") if path.is_dir())
        return [folder for folder in [self._run.folder, *shares] if folder != self.own.folder]

    def _manifests(self) -> dict[Path, Manifest]:
        stores = [RunPaths(folder).hidden_states for folder in self._others()]
        return {store: read_manifest(store) for store in stores if (store / MANIFEST_NAME).is_file()}


def take_in(writer: HiddenStateWriter, sources: Sequence[Path]) -> int:
    """Add the samples of other stores to a store that is open for writing, in one change of its manifest.

    Shards are linked where the file system can do that. After a kill at any moment the next writer of the store finds
    it unchanged, or with all of the shards, or adds those that were linked by then. Samples that the store has are left
    out, so a second call does nothing.

    Args:
        writer: the store; nothing may be pending in it.
        sources: folders of stores.

    Returns:
        How many samples came in.

    Raises:
        DataError: a source differs in identity; every difference is named.
        CorruptFileError: a source's manifest or shard is damaged.
        ResourceError: the disk is full; the store is unchanged.
    """
    before = len(writer.done)
    taken = [int(Path(shard.file).stem.removeprefix("shard-")) for shard in writer.manifest.shards]
    number = max(taken, default=-1) + 1
    added: list[ShardEntry] = []
    halves: list[tuple[Path, set[str]]] = []
    for folder in sources:
        manifest = read_manifest(folder)
        if differences := writer.manifest.identity.differences(manifest.identity):
            raise DataError(
                f"{folder} does not belong to {writer.folder} (there / here): {'; '.join(differences)}",
                hint="start a new run instead of adding to this one",
            )
        check_sizes(folder, manifest)
        for shard in manifest.shards:
            fresh = set(shard.ids) - writer.done
            if len(fresh) < len(shard.ids):  # as when a run was taken up by another number of workers
                halves += [(folder, fresh)] if fresh else []
                continue
            name = f"shard-{number + len(added):05d}.safetensors"
            try:
                link_or_copy(folder / shard.file, writer.folder / name)
            except OSError as error:
                raise disk_error(error, writer.folder / name) from error
            added.append(shard.model_copy(update={"file": name}))
            writer.done.update(shard.ids)
    if added:
        sync_folder(writer.folder)
        manifest = writer.manifest.with_shards((*writer.manifest.shards, *added))
        write_manifest(writer.folder, manifest)
        writer.manifest = manifest
    for folder, wanted in halves:
        store = HiddenStateStore([folder])
        for index, sample_id in enumerate(store.ids):
            if sample_id in wanted and sample_id not in writer.done:
                writer.add(store[index])
    writer.flush()
    return len(writer.done) - before
