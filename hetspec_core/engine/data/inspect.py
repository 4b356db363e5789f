"""What is in a store: `python -m hetspec_core.engine.data.inspect DIR`. Counts, lengths, and samples as marked text.

It reads the store and the tokenizer that lies in it; it needs no base.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hetspec_core.engine.data.manifest import TOKENIZER_FOLDER, check_sizes, read_manifest, resolve_store
from hetspec_core.engine.reporting import answer

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


def main(arguments: list[str] | None = None) -> int:
    """Command line of the inspection; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.data.inspect", description="Describe a dataset.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=2, help="samples to show as text")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    given = parser.parse_args(arguments)
    return answer(lambda: inspect(given.folder, samples=given.samples, seed=given.seed))


if __name__ == "__main__":
    sys.exit(main())
