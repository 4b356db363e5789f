"""How fast hidden states are captured, against plain Hugging Face forwards over the same tokens in the same process.

    python -m benchmarks.capture [--source FILE] [--samples 24] [--tokens-per-batch 2048] [--repeats 2] [--layers 0 15]
    python -m benchmarks.capture --random-weights qwen3-4b-instruct-2507 --samples 256 --tokens-per-batch 16384

Three ways, interleaved round by round so that a busy machine hurts all of them alike:

    plain      model(input_ids, attention_mask) in the data's order, right-padded, the same token budget of a batch
    decoder    the decoder alone (no head), in our batches of like length
    capture    ours, everything included: batches, forward, conversion, shards on disk, synced

Tokens are real tokens: padding is not counted. The ratio of two ways is that of their best rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import facts as machine_facts
from hetspec_core.config import resolve
from hetspec_core.config.resolve import load_base
from hetspec_core.engine.context import resolve_device, resolve_dtype
from hetspec_core.engine.data.capture import capture, plan_capture
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.hidden_states import HiddenStateWriter
from hetspec_core.engine.data.items import CaptureItem, content_id, encode_all
from hetspec_core.engine.data.manifest import StoreIdentity, read_manifest
from hetspec_core.engine.data.reading import read_conversations
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.spec import BaseSpec, DatasetSpec, ResourcesSpec

_TALK = "The reader turns a page, thinks of the sea, and asks the same question in other words. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smollm2-llama-eagle", help="recipe whose base is used")
    parser.add_argument("--random-weights", metavar="BASE", help="a base preset's shape with random weights and tokens")
    parser.add_argument("--source", help="conversations with answers; made-up ones of mixed lengths when absent")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="further layers to capture")
    parser.add_argument("--store-dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    resources = ResourcesSpec.model_validate({"device": given.device})
    device = resolve_device(resources)
    dtype = resolve_dtype(resources, device)
    if given.random_weights:
        base = _random_base(load_base(given.random_weights), device, dtype)
        items = _random_items(base, given)
    else:
        base = BaseLM.load(resolve(given.recipe, stage="dataset").spec.base, device=device, dtype=dtype)
        items = _items(base, given)
    tokens = sum(len(item.input_ids) for item in items)
    layers = tuple(sorted(given.layers))
    identity = StoreIdentity(
        base_fingerprint=base.fingerprint,
        tokenizer_hash="benchmark",
        template_hash="benchmark",
        hidden_size=base.hidden_size,
        vocab_size=base.vocab_size,
        layers=layers,
        norm="after_final_norm",
        dtype=given.store_dtype,
    )
    sizes: list[int] = []
    budget = given.tokens_per_batch
    ways: dict[str, Callable[[], None]] = {
        "plain": lambda: _plain(base, items, budget),
        "decoder": lambda: _decoder(base, items, budget),
        "capture": lambda: _capture(base, items, identity, budget, sizes),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm-up: kernels are chosen, memory is taken
    for _ in range(given.repeats):
        for name, way in ways.items():
            times[name].append(_timed(way, device))

    best = {name: min(seconds) for name, seconds in times.items()}
    facts: dict[str, Any] = {
        "machine": machine_facts(),
        "base": base.name,
        "dtype": str(base.dtype).removeprefix("torch."),
        "samples": len(items),
        "tokens": tokens,
        "tokens_per_batch": budget,
        "layers": layers,
        "store_dtype": given.store_dtype,
        "seconds": {name: {"best": best[name], "median": statistics.median(times[name])} for name in ways},
        "tokens_per_s": {name: tokens / best[name] for name in ways},
        "ratio_to_plain": best["plain"] / best["capture"],
        "ratio_to_decoder": best["decoder"] / best["capture"],
        "bytes_per_token": sizes[-1] / tokens,
    }
    if given.json:
        print(json.dumps(facts))
        return
    for name, value in facts["machine"].items():
        print(f"{name}: {value}")
    print(f"{base.name} in {facts['dtype']}: {len(items)} samples, {tokens:,} tokens, {budget} padded tokens a batch")
    for name in ways:
        print(f"  {name:<8} best {best[name]:8.3f} s   {facts['tokens_per_s'][name]:10,.0f} tokens/s")
    print(f"capture / plain   {facts['ratio_to_plain']:.2f}")
    print(f"capture / decoder {facts['ratio_to_decoder']:.2f}")
    stored = f"{given.store_dtype}, final state" + (f" and layers {list(layers)}" if layers else "")
    print(f"on disk: {facts['bytes_per_token']:,.1f} bytes a token ({stored})")


def _random_base(spec: BaseSpec, device: torch.device, dtype: torch.dtype) -> BaseLM:
    """The shape of a preset with random weights, made on the device: the speed does not depend on their values."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = spec.architecture.model_dump(exclude={"model_type", "extra"}, exclude_none=True)
    config = AutoConfig.for_model(spec.architecture.model_type, **sizes, **spec.architecture.extra)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return BaseLM(model, None, name=f"{spec.name} (random weights)", fingerprint="random")


def _random_items(base: BaseLM, given: argparse.Namespace) -> list[CaptureItem]:
    """Random tokens with the lengths of chat data: many short conversations, and a tail up to the longest."""
    draw = random.Random(0)
    lengths = [min(given.max_length, max(16, round(draw.lognormvariate(5.8, 0.9)))) for _ in range(given.samples)]
    return [
        CaptureItem(str(n), [draw.randrange(base.vocab_size) for _ in range(length)], [True] * length)
        for n, length in enumerate(lengths)
    ]


def _items(base: BaseLM, given: argparse.Namespace) -> list[CaptureItem]:
    template = ChatTemplate.for_tokenizer(base.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        source = given.source
        if source is None:
            rows = [
                [
                    {"role": "user", "content": f"Question {n}?"},
                    {"role": "assistant", "content": _TALK * (2 + n * 7 % 23)},
                ]
                for n in range(given.samples)
            ]
            path = Path(folder) / "rows.jsonl"
            path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
            source = str(path)
        reading = read_conversations(DatasetSpec(source=source, limit=given.samples))
    identify = partial(content_id, template_hash=template.hash, base_fingerprint=base.fingerprint, settings={})
    found = encode_all(reading.conversations, template, identify, max_length=given.max_length)
    return list(found.items.values())


def _in_order(items: list[CaptureItem], budget: int) -> list[list[CaptureItem]]:
    """Batches in the data's order within the same budget of padded tokens."""
    batches: list[list[CaptureItem]] = []
    for item in items:
        if batches:
            longest = max(len(other.input_ids) for other in (*batches[-1], item))
            if (len(batches[-1]) + 1) * longest <= budget:
                batches[-1].append(item)
                continue
        batches.append([item])
    return batches


def _padded(batch: list[CaptureItem], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(item.input_ids) for item in batch)
    ids = torch.tensor([item.input_ids + [0] * (longest - len(item.input_ids)) for item in batch], device=device)
    mask = torch.tensor(
        [[1] * len(item.input_ids) + [0] * (longest - len(item.input_ids)) for item in batch], device=device
    )
    return ids, mask


@torch.inference_mode()
def _plain(base: BaseLM, items: list[CaptureItem], budget: int) -> None:
    config = base.model.config
    ours = config._attn_implementation
    config._attn_implementation = "sdpa"  # Hugging Face's own choice, not ours
    try:
        for batch in _in_order(items, budget):
            ids, mask = _padded(batch, base.device)
            base.model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        config._attn_implementation = ours


@torch.inference_mode()
def _decoder(base: BaseLM, items: list[CaptureItem], budget: int) -> None:
    for numbers in plan_capture([len(item.input_ids) for item in items], budget):
        ids, _ = _padded([items[number] for number in numbers], base.device)
        base.decoder(input_ids=ids, use_cache=False)


def _capture(base: BaseLM, items: list[CaptureItem], identity: StoreIdentity, budget: int, sizes: list[int]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hetspec-capture-"))
    try:
        with HiddenStateWriter(folder, identity, about={}) as writer:
            capture(base, items, writer, tokens_per_batch=budget)
        sizes.append(read_manifest(folder).counts.bytes)
    finally:
        shutil.rmtree(folder)


def _timed(way: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
