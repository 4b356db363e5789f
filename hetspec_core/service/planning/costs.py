"""What a run takes: samples, tokens and optimiser steps, memory by part, and bytes on disk.

What cannot be known without opening a source stays None, and so does everything that depends on it. Memory follows what
the engine allocates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hetspec_core.catalog import load_card
from hetspec_core.service.planning.facts import Facts
from hetspec_core.service.planning.parameters import ParameterCount, count_passes, head_dim
from hetspec_core.spec import Architecture, DatasetSpec, RunSpec

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}
TOKEN_BYTES = 5  # int32 token id and one byte of the assistant mask
SAMPLE_BYTES = 46  # an offset, and the content id in the shard's header
SHARD_BYTES = 2048  # the rest of a shard's header
TEMPLATE_TOKENS = 24  # turn marks of a chat template around a question and an answer
SELF_PROMPT_TOKENS = 64  # a question that the base writes itself
PADDING = 0.9  # share of a micro-batch that is no padding
CHECKPOINT_BYTES = 12  # per trained parameter: a float32 weight and two float32 moments
MOMENTARY_CHECKPOINTS = 2  # the best one, and the one that is being written before an older one goes
PROCESS_BYTES = 700 << 20  # a Python process with torch and transformers in it
CONTEXT_BYTES = 600 << 20  # what CUDA itself takes of a GPU
CHUNK_ELEMENTS = 1 << 26  # of one [rows, V] chunk of logits in the loss
CHUNK_COPIES = 6  # of a chunk over the draft's vocabulary that live at the same time, in float32
TARGET_COPIES = 1.5  # of a chunk over the base's whole vocabulary, when the draft's is reduced
ACTIVATIONS_PER_WIDTH = 8  # float32 values per token and layer kept for the backward pass, times H
ACTIVATIONS_PER_MLP = 4  # ... times the width of the MLP
QUEUED_BATCHES = 5  # captured batches between the forward and the disk
READ_AHEAD = {"cuda": 4, "cpu": 2}  # steps whose micro-batches are prepared at the same time
SLOT_STEP = 64
BENCH_PROMPT_TOKENS = 1024


@dataclass(frozen=True)
class Part:
    """A share of memory or disk.

    Attributes:
        name: of the share.
        bytes: its size.
        on_device: whether it is in the memory of each GPU when there is one; else in the host's.
        when: while the worker loads, while it works, or always. What is freed after loading is reused.
    """

    name: str
    bytes: int
    on_device: bool = False
    when: Literal["always", "loading", "working"] = "working"


def peak_bytes(parts: Iterable[Part]) -> int:
    """The peak of the parts of one memory."""
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
        supervised_share: of its tokens; 1 when it is not known.
        basis: source of the numbers: stored, probe, rows, or longest (only the limit is known).
    """

    samples: int | None
    mean_tokens: float
    supervised_share: float
    basis: str

    @property
    def tokens(self) -> int | None:
        return None if self.samples is None else math.ceil(self.samples * self.mean_tokens)


def estimate_data(spec: RunSpec, facts: Facts) -> DataEstimate:
    """The data that stage dataset makes or that stage train reads; without a dataset, what the recipe makes."""
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


def base_dtype(spec: RunSpec, device: str) -> str:
    """Number type of the base. On a processor `auto` is taken as float32, the larger of the two that it may be."""
    wanted = spec.resources.dtype
    return ("bfloat16" if device == "cuda" else "float32") if wanted == "auto" else wanted


def training_dtype(spec: RunSpec, device: str) -> str:
    """Number type that training computes in, by the same rule."""
    wanted = spec.training.precision
    return ("bfloat16" if device == "cuda" else "float32") if wanted == "auto" else wanted


def memory_parts(spec: RunSpec, base: ParameterCount, draft: ParameterCount | None, device: str) -> tuple[Part, ...]:
    """What one worker of the spec's stage holds at its peak.

    Args:
        spec: the run.
        base, draft: their parameters.
        device: cuda or cpu.
    """
    parts = [Part("process (torch, transformers)", PROCESS_BYTES, when="always")]
    if device == "cuda":
        parts.append(Part("CUDA context", CONTEXT_BYTES, on_device=True, when="always"))
    if spec.stage == "dataset":
        parts += _dataset(spec, base, device)
    elif spec.stage == "train":
        assert draft is not None  # a spec without a draft is refused before it is planned
        parts += _training(spec, base, draft, device)
    else:
        parts += _decoding(spec, base, draft, device)
    return tuple(part for part in parts if part.bytes > 0)


def _dataset(spec: RunSpec, base: ParameterCount, device: str) -> list[Part]:
    data, sizes = spec.dataset, spec.base.architecture
    element, stored = BYTES_OF[base_dtype(spec, device)], BYTES_OF[data.store_dtype]
    states = 1 + len(set(data.layers))
    tokens = max(data.tokens_per_batch, min(data.max_length, sizes.max_position_embeddings))
    batch = tokens * sizes.hidden_size * states
    parts = [
        Part("base weights", base.total * element, on_device=True),
        Part("activations", tokens * _forward_width(sizes) * element, on_device=True),
        Part("hidden-state batch", batch * (element + stored), on_device=True),
        Part("hidden states on their way to disk", QUEUED_BATCHES * batch * stored + (data.shard_megabytes << 20)),
    ]
    if data.answers == "base":
        length = min(max(data.max_length, data.max_new_tokens), sizes.max_position_embeddings)
        parts.append(Part("key/value cache", _cache(sizes, data.generation_batch, length, element), on_device=True))
        parts.append(Part("logits", 3 * 4 * data.generation_batch * sizes.vocab_size, on_device=True))
    return parts


def _training(spec: RunSpec, base: ParameterCount, draft: ParameterCount, device: str) -> list[Part]:
    training, sizes = spec.training, spec.base.architecture
    assert spec.draft is not None
    dtype = training_dtype(spec, device)
    element, stored = BYTES_OF[dtype], BYTES_OF[spec.dataset.store_dtype]
    own = spec.draft.architecture
    tokens = max(training.tokens_per_batch, min(training.max_length, sizes.max_position_embeddings))
    ends = (base.embedding + base.head) * element
    copies = spec.draft.checkpoint is None and spec.draft.init == "base_last_layers"
    copied = base.layers * own.num_hidden_layers // sizes.num_hidden_layers if copies else 0
    reduced = spec.draft.vocab_size is not None and spec.draft.vocab_size < sizes.vocab_size
    per_token = ACTIVATIONS_PER_WIDTH * own.hidden_size + ACTIVATIONS_PER_MLP * _inner_width(own)
    prepared = READ_AHEAD[device] * training.gradient_accumulation
    passes = count_passes(spec.algorithm).training
    algorithm = load_card("algorithms", spec.algorithm.name)
    states = 1 + len(algorithm.captured_layers(spec.algorithm.options, sizes.num_hidden_layers))
    return [
        Part("draft weights", 4 * draft.total, on_device=True),
        Part("draft weights in bfloat16", 2 * draft.total if dtype == "bfloat16" else 0, on_device=True),
        Part("gradients", 4 * draft.total, on_device=True),
        Part("optimizer", 8 * draft.total // _optimizer_shares(spec), on_device=True),
        Part("embedding and head of the base", ends, on_device=True),
        Part("rows of the reduced head", draft.head_products * element if reduced else 0, on_device=True),
        Part("activations", 4 * per_token * own.num_hidden_layers * passes * tokens, on_device=True),
        Part("logits", _chunk(sizes.vocab_size, spec.draft.vocab_size, tokens), on_device=True),
        Part("hidden-state batches", prepared * tokens * states * sizes.hidden_size * stored, on_device=True),
        Part("part of the base that is read", ends + (base.final_norm + copied) * element, when="loading"),
    ]


def _optimizer_shares(spec: RunSpec) -> int:
    """Ranks that the optimizer's moments are cut up over; weights and gradients of a layer come together at work."""
    wanted = spec.resources
    on_gpus = max(1, wanted.num_gpus, len(wanted.gpus)) if wanted.device != "cpu" else wanted.num_workers or 1
    return on_gpus * wanted.num_nodes if spec.training.strategy == "fsdp" else 1


def _decoding(spec: RunSpec, base: ParameterCount, draft: ParameterCount | None, device: str) -> list[Part]:
    sizes, element = spec.base.architecture, BYTES_OF[base_dtype(spec, device)]
    trees = spec.bench.trees if spec.stage == "bench" else (spec.decoding.tree,)
    nodes = 1 + max(tree.num_nodes for tree in trees)
    rows = max(1, len(spec.prompts)) if spec.stage == "generate" else 1
    length = min(BENCH_PROMPT_TOKENS + spec.decoding.max_new_tokens + nodes, sizes.max_position_embeddings)
    tokens = max(nodes, min(BENCH_PROMPT_TOKENS, length)) * rows
    parts = [
        Part("base weights", base.total * element, on_device=True),
        Part("key/value cache", _cache(sizes, rows, length, element), on_device=True),
        Part("activations", tokens * _forward_width(sizes) * element, on_device=True),
        Part("logits", 3 * 4 * rows * nodes * sizes.vocab_size, on_device=True),
    ]
    if draft is not None and spec.draft is not None and not spec.decoding.plain:
        parts.append(Part("draft weights", draft.total * element, on_device=True))
        own = count_passes(spec.algorithm).drafting * _cache(spec.draft.architecture, rows, length, element)
        parts.append(Part("draft's cache", own, on_device=True))
    return parts


def _cache(sizes: Architecture, rows: int, length: int, element: int) -> int:
    """Keys and values of `rows` rows of `length` tokens, rounded up to whole slots."""
    slots = -(-length // SLOT_STEP) * SLOT_STEP
    return 2 * sizes.num_hidden_layers * rows * slots * sizes.num_key_value_heads * head_dim(sizes) * element


def _forward_width(sizes: Architecture) -> int:
    """Values per token alive in one layer of a forward without gradients."""
    heads = (sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * head_dim(sizes)
    return 4 * sizes.hidden_size + 2 * heads + 3 * _inner_width(sizes)


def _inner_width(sizes: Architecture) -> int:
    """Width of the MLP that one token passes through."""
    if sizes.moe_intermediate_size and sizes.num_experts_per_tok:
        return max(sizes.intermediate_size, sizes.moe_intermediate_size * sizes.num_experts_per_tok)
    return sizes.intermediate_size


def _chunk(vocab: int, reduced: int | None, tokens: int) -> int:
    """Bytes of the loss's chunk of logits: rows by the base's vocabulary, columns by the draft's."""
    rows = min(tokens, max(1, CHUNK_ELEMENTS // vocab))
    if reduced is None or reduced >= vocab:
        return 4 * CHUNK_COPIES * rows * vocab
    return math.ceil(4 * rows * (TARGET_COPIES * vocab + CHUNK_COPIES * reduced))
