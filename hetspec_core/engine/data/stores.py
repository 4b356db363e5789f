"""Stores described and merged: `python -m hetspec_core.engine.data.stores inspect DIR`, or `merge DEST SRC...`.

A description has counts, lengths, and samples as marked text. It needs the store and the tokenizer in it, not the base.

A merge hard-links shards where the file system can do that (they are written once, so sharing them is safe), and copies
them elsewhere. A sample that several stores have is taken once. A sample whose states are not finite is left out; the
states of stores that were written without that check are read for it. The result appears whole or not at all.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Container, Sequence
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
from hetspec_core.files import new_folder

_BUCKETS = 8


def inspect(folder: Path, *, samples: int = 2, seed: int = 0) -> dict[str, Any]:
    """Describe a store.

    Args:
        folder: the store, or the run folder that holds it.
        samples: how many samples to show as text.
        seed: which ones.

    Returns:
        `counts`, `identity`, `about`, `lengths` (quantiles and histogram), `supervised_share`, and `samples`: each with
        its id and `segments`, a list of {text, supervised} that make up the whole conversation.

    Raises:
        NotFoundError: there is no store.
        CorruptFileError: its manifest or a shard is damaged.
    """
    store = resolve_store(folder)
    manifest = read_manifest(store)
    check_sizes(store, manifest)
    lengths = sorted(itertools.chain.from_iterable(shard.lengths for shard in manifest.shards))
    supervised = list(itertools.chain.from_iterable(shard.supervised for shard in manifest.shards))
    counts = manifest.counts
    return {
        "folder": str(store),
        "counts": counts.model_dump(),
        "shards": len(manifest.shards),
        "identity": manifest.identity.model_dump(mode="json"),
        "about": manifest.about,
        "supervised_share": counts.supervised_tokens / counts.tokens if counts.tokens else 0.0,
        "supervised_per_sample": statistics.fmean(supervised) if supervised else 0.0,
        "bytes_per_token": counts.bytes / counts.tokens if counts.tokens else 0.0,
        "lengths": _describe(lengths),
        "samples": _show(store, samples, seed) if lengths and samples else [],
    }


def _describe(lengths: Sequence[int]) -> dict[str, Any]:
    if not lengths:
        return {}
    last = len(lengths) - 1
    quantiles = {name: lengths[round(share * last)] for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9))}
    low, high = lengths[0], lengths[-1]
    width = max(1, -(-(high - low + 1) // _BUCKETS))
    histogram = [
        {"from": start, "to": start + width - 1, "samples": sum(start <= length < start + width for length in lengths)}
        for start in range(low, high + 1, width)
    ]
    return {"min": low, **quantiles, "max": high, "mean": statistics.fmean(lengths), "histogram": histogram}


def _show(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    from hetspec_core.engine.data.hidden_states import open_store
    from hetspec_core.engine.data.shards import FIRST_SUPERVISED

    store = open_store([folder])
    text = _decoder(folder)
    shown = []
    for index in random.Random(seed).sample(range(len(store)), min(count, len(store))):
        sample = store[index]
        ids = sample.input_ids.tolist()
        marks = [position >= FIRST_SUPERVISED and mark for position, mark in enumerate(sample.assistant_mask.tolist())]
        segments = []
        for mark, group in itertools.groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
            tokens = [token for token, _ in group]
            segments.append({"text": text(tokens), "supervised": mark, "tokens": len(tokens)})
        shown.append({"id": sample.id, "tokens": len(ids), "supervised": sum(marks), "segments": segments})
    return shown


def _decoder(folder: Path) -> Callable[[list[int]], str]:
    """A function from token ids to text, special tokens included; to numbers where the store has no tokenizer."""
    place = folder / TOKENIZER_FOLDER
    if (place / "tokenizer.json").is_file():
        from tokenizers import Tokenizer  # what transformers would ask, in a tenth of a second instead of seconds

        tokenizer = Tokenizer.from_file(str(place / "tokenizer.json"))
        return lambda tokens: tokenizer.decode(tokens, skip_special_tokens=False)
    if place.is_dir():  # one that is written in Python
        from transformers import AutoTokenizer

        whole = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        return lambda tokens: whole.decode(tokens, clean_up_tokenization_spaces=False)
    return lambda tokens: " ".join(map(str, tokens))


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
    try:
        with new_folder(destination) as staging:
            broken = _not_finite(folders, manifests)
            merged, repeated = _fill(staging, folders, manifests, broken)
            if broken and not merged.counts.samples:
                raise DataError(
                    f"no sample of {', '.join(map(str, folders))} has finite states", hint="generate the datasets again"
                )
    except OSError as error:
        raise disk_error(error, destination) from error
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
    """Command line of both; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.data.stores")
    commands = parser.add_subparsers(dest="command", required=True)
    about = commands.add_parser("inspect", description="Describe a dataset.")
    about.add_argument("folder", type=Path)
    about.add_argument("--samples", type=int, default=2, help="samples to show as text")
    about.add_argument("--seed", type=int, default=0, help="which ones")
    joined = commands.add_parser("merge", description="Make one dataset of several.")
    joined.add_argument("destination", type=Path)
    joined.add_argument("sources", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "merge":
        return answer(lambda: merge(given.destination, given.sources))
    return answer(lambda: inspect(given.folder, samples=given.samples, seed=given.seed))


if __name__ == "__main__":
    sys.exit(main())
