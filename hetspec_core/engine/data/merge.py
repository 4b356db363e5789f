"""Merging stores: `python -m hetspec_core.engine.data.merge DEST SRC...`.

Shards are hard-linked where the file system can do that (they are written once, so sharing them is safe), else copied.
A sample that several stores have is taken once, and one whose states are not finite is left out; stores that were made
before such samples were kept out are read through for that. The result appears whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from hetspec_core.engine.data.manifest import (
    STATES_CHECKED,
    TOKENIZER_FOLDER,
    Manifest,
    ShardEntry,
    check_sizes,
    disk_error,
    read_manifest,
    resolve_store,
    write_manifest,
)
from hetspec_core.engine.reporting import answer
from hetspec_core.errors import DataError
from hetspec_core.files import sync_folder


def merge(destination: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """Make one store of several.

    Args:
        destination: a folder that is not there yet.
        sources: stores, or run folders that hold one; in this order.

    Returns:
        Counts of the result, how many samples were there more than once, and `not_finite`: id of each sample that was
        left out -> where its first state is that is not finite.

    Raises:
        NotFoundError: a source has no manifest.
        CorruptFileError: a source's manifest or shard is damaged.
        DataError: the destination exists, or the sources differ in base, tokenizer, template, layers or type; every
            difference is named with both values.
        ResourceError: the disk is full; nothing is left behind.
    """
    folders = [resolve_store(source) for source in sources]
    if not folders:
        raise DataError("nothing to merge", hint="name at least one dataset")
    if destination.exists():
        raise DataError(f"{destination} exists already", hint="name a directory that is not there yet")
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if differences := manifests[0].identity.differences(manifest.identity):
            raise DataError(
                f"{folders[0]} and {folder} cannot be merged: {'; '.join(differences)}",
                hint="only datasets of the same base, tokenizer, template, layers and type belong together",
            )
        check_sizes(folder, manifest)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        broken = _not_finite(folders, manifests)
        merged, repeated = _fill(staging, folders, manifests, broken)
        if broken and not merged.counts.samples:
            raise DataError(
                f"no sample of {', '.join(map(str, folders))} has finite states", hint="generate the datasets again"
            )
        staging.chmod(0o755)
        staging.rename(destination)
        sync_folder(destination.parent)
    except OSError as error:
        raise disk_error(error, destination) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"folder": str(destination), "repeated": repeated, "not_finite": broken, **merged.counts.model_dump()}


def _not_finite(folders: Sequence[Path], manifests: Sequence[Manifest]) -> dict[str, str]:
    """Samples whose states are not finite, of stores that were written without that check."""
    unchecked = [folder for folder, each in zip(folders, manifests, strict=True) if not each.about.get(STATES_CHECKED)]
    found: dict[str, str] = {}
    if not unchecked:
        return found
    from hetspec_core.engine.data.hidden_states import HiddenStateStore  # seconds of torch that few merges need

    for folder in unchecked:
        store = HiddenStateStore([folder])
        for number in range(len(store)):
            if where := store[number].not_finite():
                found[store.ids[number]] = where
    return found


def _fill(
    staging: Path, folders: Sequence[Path], manifests: Sequence[Manifest], broken: Container[str]
) -> tuple[Manifest, int]:
    seen: set[str] = set()
    shards: list[ShardEntry] = []
    repeated = 0
    for folder, manifest in zip(folders, manifests, strict=True):
        for shard in manifest.shards:
            whole = [row for row, name in enumerate(shard.ids) if name not in broken]
            rows = [row for row in whole if shard.ids[row] not in seen]
            repeated += len(whole) - len(rows)
            seen.update(shard.ids)
            if not rows:
                continue
            name = f"shard-{len(shards):05d}.safetensors"
            link_or_copy(folder / shard.file, staging / name)
            shards.append(
                shard.model_copy(
                    update={
                        "file": name,
                        "ids": tuple(shard.ids[row] for row in rows),
                        "starts": tuple(shard.starts[row] for row in rows),
                        "lengths": tuple(shard.lengths[row] for row in rows),
                        "supervised": tuple(shard.supervised[row] for row in rows),
                    }
                )
            )
    about = {**manifests[0].about, STATES_CHECKED: True, "merged_from": [str(folder.absolute()) for folder in folders]}
    merged = manifests[0].model_copy(update={"about": about}).with_shards(tuple(shards))
    write_manifest(staging, merged)
    tokenizer = next((folder / TOKENIZER_FOLDER for folder in folders if (folder / TOKENIZER_FOLDER).is_dir()), None)
    if tokenizer is not None:
        shutil.copytree(tokenizer, staging / TOKENIZER_FOLDER)
    return merged, repeated


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file that is never changed, or copy it where links are not possible."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 22)
            writer.flush()
            os.fsync(writer.fileno())


def main(arguments: list[str] | None = None) -> int:
    """Command line of the merge; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.data.merge", description=merge.__doc__)
    parser.add_argument("destination", type=Path)
    parser.add_argument("sources", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    return answer(lambda: merge(given.destination, given.sources))


if __name__ == "__main__":
    sys.exit(main())
