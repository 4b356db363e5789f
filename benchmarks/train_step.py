"""Time and memory of one optimiser step, by precision and vocabulary, through the real feed, loss and optimizer.

Base and hidden states are random tensors of a recipe's sizes: nothing is downloaded, and the figures do not depend on
what the weights say. Half of each sample's tokens are supervised.

    python -m benchmarks.train_step --recipe smollm2-llama-eagle --tokens-per-batch 2048 --steps 12
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import machine
from hetspec_core.config import resolve
from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.context import peak_memory_bytes
from hetspec_core.engine.data.hidden_states import HiddenStateStore, HiddenStateWriter, Sample, open_store
from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.training.evaluation import HeldOut
from hetspec_core.engine.training.feed import BatchFeed
from hetspec_core.engine.training.loop import accumulate_gradients, build_optimizer, clip_gradients
from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.state import MetricsWindow
from hetspec_core.spec import RunSpec

WARMUP_STEPS = 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smollm2-llama-eagle")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each variant, after a warm-up")
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--length", type=int, default=512, help="longest sample; lengths are spread evenly below it")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[0, 8192], help="0 = the base's own")
    parser.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    arguments = parser.parse_args()
    spec = resolve(arguments.recipe, stage="train").spec
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(machine.table())
    print(f"\n{arguments.recipe}: {arguments.tokens_per_batch} tokens a step, samples of up to {arguments.length}\n")
    print("precision  vocabulary  step ms (min)  tokens/s  supervised/s  eval ms/sample  peak GPU bytes/token")
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), spec, arguments.samples, arguments.length)
        for precision in arguments.precisions:
            for vocabulary in arguments.vocabularies:
                measure(spec, store, device, precision, vocabulary, arguments.steps, arguments.tokens_per_batch)


def write_store(folder: Path, spec: RunSpec, samples: int, length: int) -> HiddenStateStore:
    """Random hidden states as a dataset would hold them."""
    sizes = spec.base.architecture
    identity = StoreIdentity(
        base_fingerprint="random",
        tokenizer_hash="random",
        template_hash="random",
        hidden_size=sizes.hidden_size,
        vocab_size=sizes.vocab_size,
        layers=spec.dataset.layers,
        norm="after_final_norm",
        dtype="bfloat16",
    )
    random = torch.Generator().manual_seed(0)
    with HiddenStateWriter(folder, identity, about={}) as writer:
        for number in range(samples):
            tokens = length - (length // 2) * number // samples
            writer.add(
                Sample(
                    id=str(number),
                    input_ids=torch.randint(0, sizes.vocab_size, (tokens,), generator=random, dtype=torch.int32),
                    assistant_mask=torch.arange(tokens) >= tokens // 2,
                    hidden=torch.randn(tokens, sizes.hidden_size, generator=random).bfloat16(),
                    layers={
                        layer: torch.randn(tokens, sizes.hidden_size, generator=random).bfloat16()
                        for layer in spec.dataset.layers
                    },
                )
            )
    return open_store([folder])


def random_base(spec: RunSpec, device: torch.device, dtype: torch.dtype) -> BaseLM:
    """A base of the recipe's widths with random ends; one layer, since training uses none."""
    sizes = spec.base.architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, "num_hidden_layers": 1}))
    model = model.to(dtype)  # type: ignore[arg-type]
    model.config.num_hidden_layers = spec.base.architecture.num_hidden_layers  # which layers a draft would read
    return BaseLM(model, None, name=spec.base.name, fingerprint="random")


def measure(
    spec: RunSpec,
    store: HiddenStateStore,
    device: torch.device,
    precision: str,
    vocabulary: int,
    steps: int,
    tokens_per_batch: int,
) -> None:
    """Print one line of the table."""
    assert spec.draft is not None
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bfloat16" else "no")
    processes = Processes(accelerator)
    base = random_base(spec, device, DTYPES[precision])
    ids = torch.arange(vocabulary) if 0 < vocabulary < base.vocab_size else None
    draft = build_draft(spec.draft.model_copy(update={"init": "random"}), spec.algorithm, base, vocab=ids).to(device)
    algorithm = build_algorithm(spec.algorithm)
    model = accelerator.prepare_model(draft)
    optimizer = build_optimizer(draft.parameters(), spec.training.optimizer, device)
    noise = torch.Generator(device).manual_seed(0)
    window = MetricsWindow(device, processes)
    training = spec.training.model_copy(
        update={"seed": 0, "tokens_per_batch": tokens_per_batch, "gradient_accumulation": 1}
    )
    feed = BatchFeed(
        store,
        range(len(store)),
        training,
        mask_kind=algorithm.mask,
        layers=draft.captured_layers,
        device=device,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory_bytes(device).get("gpu", 0)
    times: list[float] = []
    tokens = supervised = 0
    for number in range(WARMUP_STEPS + steps):
        started = time.perf_counter()
        step = feed.next_step()
        accumulate_gradients(model, step, algorithm, processes, noise, window)
        window.add_step(clip_gradients(draft.trainable_parameters(), spec.training.optimizer.clip_norm), step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARMUP_STEPS:
            times.append(time.perf_counter() - started)
            tokens += step.num_tokens
            supervised += int(step.batches[0].num_supervised)
    feed.close()
    peak = peak_memory_bytes(device).get("gpu", 0)
    held_out = HeldOut(
        store,
        range(8),
        training,
        device=device,
        depth=spec.decoding.tree.depth,
        layers=draft.captured_layers,
    )
    held_out.measure(draft, algorithm, processes)
    started = time.perf_counter()
    held_out.measure(draft, algorithm, processes)
    evaluation = (time.perf_counter() - started) / 8
    step_ms = f"{statistics.median(times) * 1e3:.0f} ({min(times) * 1e3:.0f})"
    per_token = f"{(peak - before) / tokens_per_batch:>20,.0f}" if device.type == "cuda" else f"{'-':>20}"
    print(
        f"{precision:<9}  {vocabulary or base.vocab_size:>10,}  {step_ms:>13}  {tokens / sum(times):>8,.0f}  "
        f"{supervised / sum(times):>12,.0f}  {evaluation * 1e3:>14.1f}  {per_token}",
        flush=True,
    )


if __name__ == "__main__":
    main()
