"""How much there is to do and to store: samples, tokens, optimiser steps, bytes on disk.

What cannot be known without opening a source stays None, and so does everything that depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hetspec_core.service.planning.facts import Facts
from hetspec_core.service.planning.parameters import ParameterCount
from hetspec_core.spec import DatasetSpec, RunSpec

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
TOKEN_BYTES = 5  # int32 token id and one byte of the assistant mask
SAMPLE_BYTES = 46  # an offset, and the content id in the shard's header
SHARD_BYTES = 2048  # the rest of a shard's header
TEMPLATE_TOKENS = 24  # turn marks of a chat template around a question and an answer
SELF_PROMPT_TOKENS = 64  # a question that the base writes itself
PADDING = 0.9  # share of a packed micro-batch that is no padding
CHECKPOINT_BYTES = 12  # per trained parameter: a float32 weight and two float32 moments
MOMENTARY_CHECKPOINTS = 2  # the best one, and the one that is being written before an older one goes


@dataclass(frozen=True)
class Part:
    """A share of memory or disk.

    Attributes:
        name: what it is.
        bytes: how large it is.
        on_device: whether it lies in a GPU's memory when there is one (per device); else on the host.
        when: while the worker loads, while it works, or always: what is loaded and dropped makes room for the rest.
    """

    name: str
    bytes: int
    on_device: bool = False
    when: Literal["always", "loading", "working"] = "working"


def peak_bytes(parts: Iterable[Part]) -> int:
    """The most that parts of one memory take at the same time."""
    sums = {"always": 0, "loading": 0, "working": 0}
    for part in parts:
        sums[part.when] += part.bytes
    return sums["always"] + max(sums["loading"], sums["working"])


@dataclass(frozen=True)
class DataEstimate:
    """The data of a run.

    Attributes:
        samples: conversations, None = not known.
        mean_tokens: of one conversation.
        supervised_share: of its tokens; 1 where it is not known.
        basis: where the numbers come from: stored, probe, rows, or longest (nothing but the limit is known).
    """

    samples: int | None
    mean_tokens: float
    supervised_share: float
    basis: str

    @property
    def tokens(self) -> int | None:
        return None if self.samples is None else math.ceil(self.samples * self.mean_tokens)


def estimate_data(spec: RunSpec, facts: Facts) -> DataEstimate:
    """The data that stage dataset makes, or that stage train reads: what the recipe makes if it names no dataset."""
    limit = spec.training.max_length if spec.stage == "train" else spec.dataset.max_length
    longest = min(limit, spec.base.architecture.max_position_embeddings)
    stored, probe = facts.stored, facts.probe
    if stored is not None and stored.samples > 0:
        mean = min(float(longest), stored.tokens / stored.samples)
        return DataEstimate(stored.samples, mean, stored.supervised_tokens / max(1, stored.tokens), "stored")
    samples = _count_samples(spec.dataset, facts.source.conversations)
    if probe is not None and probe.samples > 0:
        mean = min(float(longest), probe.tokens / probe.samples)
        return DataEstimate(samples, mean, probe.supervised_tokens / max(1, probe.tokens), "probe")
    text = SELF_PROMPT_TOKENS if spec.dataset.source == "self" else facts.source.mean_tokens
    if text is None:
        return DataEstimate(samples, float(longest), 1.0, "longest")
    written = spec.dataset.max_new_tokens if spec.dataset.answers == "base" else 0
    mean = min(float(longest), text + TEMPLATE_TOKENS + written)
    return DataEstimate(samples, mean, min(1.0, written / mean) if written else 1.0, "rows")


def _count_samples(dataset: DatasetSpec, rows: int | None) -> int | None:
    if dataset.range is not None:
        first, end = dataset.range
        rows = end - first if rows is None else max(0, min(rows, end) - first)
    if dataset.limit is not None:
        rows = dataset.limit if rows is None else min(rows, dataset.limit)
    return rows


def store_bytes(spec: RunSpec, data: DataEstimate) -> int | None:
    """Bytes of the hidden states on disk: shards as `engine/data/shards.py` writes them."""
    if data.samples is None or data.tokens is None:
        return None
    raw = data.tokens * bytes_per_token(spec) + data.samples * SAMPLE_BYTES
    return raw + math.ceil(raw / (spec.dataset.shard_megabytes << 20)) * SHARD_BYTES


def bytes_per_token(spec: RunSpec) -> int:
    """Bytes of one token: states of the final and of each further layer, its id and its mask."""
    states = 1 + len(set(spec.dataset.layers))
    return BYTES_OF[spec.dataset.store_dtype] * spec.base.architecture.hidden_size * states + TOKEN_BYTES


def steps_of_training(spec: RunSpec, data: DataEstimate, world_size: int) -> int | None:
    """Optimiser steps: `max_steps` if given, else those of the epochs; None when the data is not known."""
    training = spec.training
    if training.max_steps is not None:
        return training.max_steps
    if data.samples is None or data.tokens is None:
        return None
    held = training.eval_fraction if training.eval_dataset is None else 0.0
    samples, tokens = data.samples * (1 - held), data.tokens * (1 - held)
    batches = min(samples, tokens / (PADDING * training.tokens_per_batch))  # a micro-batch has a sample or more
    return max(1, math.ceil(batches * training.epochs / (training.gradient_accumulation * world_size)))


def disk_parts(
    spec: RunSpec, facts: Facts, base: ParameterCount, draft: ParameterCount | None, data: DataEstimate
) -> tuple[Part, ...]:
    """What a run adds to the disk; hidden states are left out when their number is not known."""
    parts: list[Part] = []
    if facts.base.presence == "convertible":
        parts.append(Part("base, converted to float32 once", 4 * base.total))
    elif facts.base.presence == "absent" and spec.base.source.kind == "hub":
        parts.append(Part("base, fetched once (2 bytes a parameter)", 2 * base.total))
    if spec.stage == "dataset" and (size := store_bytes(spec, data)) is not None:
        parts.append(Part("hidden states", size))
    if spec.stage == "train" and draft is not None:
        kept = spec.training.save_total_limit + MOMENTARY_CHECKPOINTS
        parts.append(Part(f"checkpoints, {kept} at the most", kept * CHECKPOINT_BYTES * draft.total))
        parts.append(Part("draft", 4 * draft.total))
    return tuple(parts)
