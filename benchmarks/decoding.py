"""Milliseconds of a plain step and of a speculative cycle, by decoder: random weights of real shapes.

The time of a step or cycle does not depend on the values of the weights, only on shapes; accept lengths of random
weights mean nothing and are not shown. Every figure is the median over the steps of one answer behind a prompt of
`--context` tokens. `fast` replays CUDA graphs, `fused` compiles the programs first (`ready` says how long that took).

    python -m benchmarks.decoding                       # on a CUDA device
    python -m benchmarks.decoding --tiny                # a trial on any machine
    python -m benchmarks.decoding --sglang DIR          # SGLang of that directory beside it, with the same shapes
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
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
from hetspec_core.process import python_command
from hetspec_core.spec import DecodingSpec, TreeSpec

SHAPES = {"SmolLM2": "smollm2-llama-eagle", "7B": "llama2-7b-llama-eagle"}
TREES = ("6/10/60", "5/4/7")
SMALL_VOCABULARY = 8192
SGLANG_TOKENS = 160


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
    spec, sizes = resolve(recipe, stage="train").spec, sizes_of(recipe, tiny)
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


def sizes_of(recipe: str, tiny: bool = False) -> dict[str, Any]:
    """The base's sizes of a recipe, as a Llama configuration takes them."""
    architecture = resolve(recipe, stage="train").spec.base.architecture
    sizes = architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    return sizes | ({"num_hidden_layers": 2} if tiny else {})


def beside(site: Path, recipe: str, way: str, vocabulary: int, rows: list[int], context: int) -> dict[int, float]:
    """Milliseconds of SGLang by batch size, in a process of its own.

    Args:
        site: directory that SGLang is installed in.
        recipe: whose sizes.
        way: plain, or a tree.
        vocabulary: of the draft; 0 = whole.
        rows: batch sizes.
        context: tokens of a prompt.
    """
    with tempfile.TemporaryDirectory() as folder:
        base, draft, job = Path(folder, "base"), Path(folder, "draft"), Path(folder, "job.json")
        config = LlamaConfig(**sizes_of(recipe), architectures=["LlamaForCausalLM"], dtype="bfloat16").to_dict()
        for where, change in (
            (base, {}),
            (draft, {"architectures": ["LlamaForCausalLMEagle"], "num_hidden_layers": 1}),
        ):
            where.mkdir()
            (where / "config.json").write_text(json.dumps(config | change))
        given: dict[str, Any] = {"base": str(base), "rows": rows, "context": context, "tokens": SGLANG_TOKENS}
        if way != "plain":
            given |= {"draft": str(draft), "tree": way}
        if way != "plain" and vocabulary:
            torch.save(torch.arange(vocabulary), Path(folder, "tokens.pt"))
            given["token_map"] = str(Path(folder, "tokens.pt"))
        job.write_text(json.dumps(given))
        program = Path(__file__).parent / "sglang" / "cycles.py"
        result = Path(folder, "result.json")
        done = subprocess.run(
            python_command(str(program), str(job), str(result)),
            env=os.environ | sglang_environment(site),
            capture_output=True,
            text=True,
            timeout=200,
        )
        if not result.exists():
            raise RuntimeError(" ".join(done.stderr.split()[-60:]))
        return {int(size): ms for size, ms in json.loads(result.read_text())["rows"].items()}


def sglang_environment(site: Path) -> dict[str, str]:
    """What a process of SGLang needs that is installed in a directory, without network."""
    return {
        "PYTHONPATH": str(site),
        "SGLANG_ENABLE_JIT_DEEPGEMM": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCH_CUDA_ARCH_LIST": "9.0",
        "SGLANG_DISABLE_CUDNN_CHECK": "1",
    }


def profile(decoder: Decoder, replays: int = 5) -> str:
    """The kernels of the decoder's last program by time, microseconds and calls a replay."""
    program = next(reversed(decoder._programs.values())) if isinstance(decoder, FastDecoder) else None
    if program is None or not torch.cuda.is_available():
        return "nothing to profile"
    replay = program.advance if hasattr(program, "advance") else lambda: program.launch(Listener())
    with torch.inference_mode(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(replays):
            replay()
        torch.cuda.synchronize()
    kernels = sorted(seen.key_averages(), key=lambda entry: -entry.self_device_time_total)
    total = sum(entry.self_device_time_total for entry in kernels) / replays
    calls = sum(entry.count for entry in kernels) / replays
    lines = [f"    {total:9.0f} us in {calls:.0f} kernels"]
    for entry in kernels[:22]:
        lines.append(
            f"    {entry.self_device_time_total / replays:9.1f} us {entry.count / replays:6.0f} x {entry.key[:110]}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.decoding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="two layers, short answers")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--decoders", nargs="*", default=["reference", "fast", "fused"])
    parser.add_argument("--ways", nargs="*", default=["plain", *TREES], help="plain, or trees")
    parser.add_argument("--vocabularies", nargs="*", type=int, default=[0, SMALL_VOCABULARY], help="0 = whole")
    parser.add_argument("--sglang", type=Path, help="directory that SGLang is installed in")
    parser.add_argument("--profile", action="store_true", help="show the kernels of every program")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    context, tokens = (16, 12) if given.tiny else (given.context, 96)
    print(machine.table(), flush=True)
    lines = []
    for shape in given.shapes:
        for vocabulary in given.vocabularies:
            base, draft = pair(SHAPES[shape], vocabulary, device, given.tiny)
            made = {
                "reference": lambda base=base: ReferenceDecoder(base),
                "fast": lambda base=base: FastDecoder(base),
                "fused": lambda base=base: FastDecoder(base, compiled=True),
            }
            for name in given.decoders:
                for rows in given.rows:
                    for way in given.ways:
                        if way == "plain" and vocabulary and 0 in given.vocabularies:
                            continue
                        torch.compiler.reset()
                        proposer = None if way == "plain" else draft
                        length = tokens if name != "reference" else min(tokens, 24)
                        tree = TREES[0] if way == "plain" else way
                        try:
                            decoder = made[name]()
                            found = measure(decoder, proposer, tree, context, rows, length)
                            if given.profile:
                                print(profile(decoder), flush=True)
                            del decoder
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
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            for way in given.ways if given.sglang else ():
                try:
                    found = beside(given.sglang, SHAPES[shape], way, vocabulary, given.rows, context)
                    texts = {size: f"{ms:8.2f} ms" for size, ms in found.items()}
                except Exception as error:
                    texts = {0: f"failed: {type(error).__name__}: {str(error)[:300]}"}
                for size, text in texts.items():
                    lines.append(f"{shape:8} {vocabulary or 'whole':>6} batch {size} {way:8} {'SGLang':10}{text}")
                    print(lines[-1], flush=True)
    print("\n".join(["", f"context {context}, torch {torch.__version__}", *lines]), flush=True)


if __name__ == "__main__":
    main()
