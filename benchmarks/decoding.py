"""Milliseconds of a plain step and of a speculative cycle, by decoder: random weights of real shapes.

The time of a step or cycle does not depend on the values of the weights, only on shapes; accept lengths of random
weights mean nothing and are not shown. Every figure is the median over the steps of one answer behind a prompt of
`--context` tokens. `fast` replays CUDA graphs, `fused` compiles the programs first (`ready` says how long that took).

    python -m benchmarks.decoding                       # on a CUDA device
    python -m benchmarks.decoding --tiny                # a trial on any machine
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import machine
from hetspec_core.config import resolve
from hetspec_core.engine.decoding.completion import Listener
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.chat import Step
from hetspec_core.spec import DecodingSpec, TreeSpec

SHAPES = {"SmolLM2": "smollm2-llama-eagle", "7B": "llama2-7b-llama-eagle"}
TREES = ("6/10/60", "5/4/7")
SMALL_VOCABULARY = 8192


class Laps(Listener):
    """Keeps when tokens and steps came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        if row == 0:
            self.times.append(time.perf_counter())

    def on_step(self, row: int, step: Step) -> None:
        if row == 0:
            self.times.append(time.perf_counter())

    @property
    def milliseconds(self) -> float:
        """Median time between two."""
        laps = [later - earlier for earlier, later in zip(self.times[2:], self.times[3:], strict=False)]
        return 1e3 * statistics.median(laps)


def pair(recipe: str, vocabulary: int, device: torch.device, tiny: bool) -> tuple[BaseLM, DraftLM]:
    """Base and draft of a recipe's shapes, with random weights."""
    spec = resolve(recipe, stage="train").spec
    sizes = spec.base.architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    if tiny:
        sizes |= {"num_hidden_layers": 2}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    model = model.to(dtype).eval()
    base = BaseLM(model, None, name=recipe, fingerprint="random")
    ids = torch.arange(vocabulary) if vocabulary else None
    draft = build_draft(spec.draft.model_copy(update={"init": "random"}), spec.algorithm, base, vocab=ids)  # type: ignore[union-attr]
    return base, draft.to(device).to(dtype).eval().bind(base)


def measure(decoder: Decoder, draft: DraftLM | None, tree: str, context: int, rows: int, tokens: int) -> dict[str, Any]:
    """Milliseconds of a step or cycle, and seconds until the program was ready."""
    prompts = [torch.randint(5, 8000, (context,)).tolist() for _ in range(rows)]
    decoding = DecodingSpec(tree=TreeSpec.parse(tree), max_new_tokens=tokens, ignore_eos=True)
    started = time.perf_counter()
    decoder.generate(prompts, decoding.model_copy(update={"max_new_tokens": min(4, tokens)}), draft)
    decoder.generate(prompts, decoding, draft)
    ready, laps = time.perf_counter() - started, Laps()
    decoder.generate(prompts, decoding, draft, listener=laps)
    return {"ms": laps.milliseconds, "ready_s": ready, "notices": list(decoder.notices)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.decoding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="two layers, short answers")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--decoders", nargs="*", default=["reference", "fast", "fused"])
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context, tokens = (16, 12) if given.tiny else (given.context, 96)
    print(machine.table(), flush=True)
    lines = []
    for shape in given.shapes:
        for vocabulary in (0, SMALL_VOCABULARY):
            base, draft = pair(SHAPES[shape], vocabulary, device, given.tiny)
            made = {
                "reference": lambda base=base: ReferenceDecoder(base),
                "fast": lambda base=base: FastDecoder(base),
                "fused": lambda base=base: FastDecoder(base, compiled=True),
            }
            for name in given.decoders:
                for rows in given.rows:
                    for way in ("plain", *TREES):
                        if (way == "plain" and vocabulary) or (name == "fused" and rows > 1 and way == TREES[1]):
                            continue
                        torch.compiler.reset()
                        proposer = None if way == "plain" else draft
                        length = tokens if name != "reference" else min(tokens, 24)
                        tree = TREES[0] if way == "plain" else way
                        try:
                            found = measure(made[name](), proposer, tree, context, rows, length)
                            text = f"{found['ms']:8.2f} ms   ready {found['ready_s']:6.1f} s {found['notices'] or ''}"
                        except Exception as error:  # one figure less, the others are still wanted
                            text = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:160]}"
                        line = f"{shape:8} {vocabulary or 'whole':>6} batch {rows} {way:8} {name:10}{text}"
                        print(line, flush=True)
                        lines.append(line)
                        gc.collect()
                        if device.type == "cuda":
                            torch.cuda.empty_cache()
            del base, draft, made
    print("\n".join(["", f"context {context}, torch {torch.__version__}", *lines]), flush=True)


if __name__ == "__main__":
    main()
