"""Tokens per second of a real pair on the first turns of MT-Bench: plain, `auto` and named shapes, beside its rivals.

    python -m benchmarks.real_pair [--draft DIR] [--prompts FILE] [--questions 20] [--max-new-tokens 256]
    python -m benchmarks.real_pair --sglang DIR         # SGLang of that directory, plain and with the draft

The base is the packaged SmolLM2-135M-Instruct; one prompt at a time, greedy, in the serving type of the machine. All
ways answer a prompt before the next one comes. Rivals are Hugging Face's `generate` (dynamic cache) and SGLang. Speeds
are all tokens over all seconds, prefill included (`end to end`) and without it (`decode`). Draft and questions are
looked for in `shared/` beside the checkout; a draft without token counts proposes from its whole vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.accept_length import SHARED
from benchmarks.decoding import sglang_environment
from hetspec_core.config import resolve
from hetspec_core.engine.backends.builtin import choosing_decoder
from hetspec_core.engine.context import resolve_device, set_threads
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.decoding.draft_vocab import special_tokens
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.decoding.opening import can_compile, open_decoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.stages.bench import read_prompts
from hetspec_core.process import python_command
from hetspec_core.spec import BenchSpec, DecodingSpec, TreeSpec


@dataclass
class Total:
    """What one way of answering needed so far."""

    tokens: int = 0
    steps: int = 0
    decode_s: float = 0.0
    whole_s: float = 0.0
    prompts: int = 0
    shapes: Counter[str] = field(default_factory=Counter)

    @property
    def end_to_end(self) -> float:
        return self.tokens / self.whole_s if self.whole_s else 0.0

    @property
    def decode(self) -> float:
        return (self.tokens - self.prompts) / self.decode_s if self.decode_s else 0.0


def hugging_face(base: BaseLM, most: int) -> Callable[[list[int], Total], None]:
    """`generate` of transformers; a call for one token says what prefill takes."""
    ends = {"eos_token_id": sorted(base.stop_ids), "pad_token_id": 0, "do_sample": False}

    @torch.inference_mode()
    def answer(ids: list[int], total: Total) -> None:
        given: Any = torch.tensor([ids], device=base.device)
        mask, seconds = torch.ones_like(given), []
        for count in (1, most):
            at = time.perf_counter()
            output = base.model.generate(given, attention_mask=mask, max_new_tokens=count, **ends)
            length = output.shape[1] - len(ids)  # waits for the device
            seconds.append(time.perf_counter() - at)
        total.tokens, total.prompts = total.tokens + length, total.prompts + 1
        total.whole_s, total.decode_s = total.whole_s + seconds[1], total.decode_s + seconds[1] - seconds[0]

    return answer


def sglang(
    site: Path, base: BaseLM, draft: Path, prompts: list[list[int]], way: str, most: int, tokens: Tensor | None
) -> Total:
    """SGLang of a directory on the same prompts, in a process of its own.

    Args:
        site: the directory.
        base: whose weights it serves.
        draft: folder of the draft.
        prompts: token ids.
        way: plain, or a tree.
        most: new tokens of an answer.
        tokens: [V] ids that the draft proposes, or None = all.
    """
    total = Total()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        base.model.save_pretrained(folder / "base", safe_serialization=True)
        config = json.loads((folder / "base" / "config.json").read_text())
        config.pop("quantization_config", None)
        (folder / "base" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
        job: dict[str, Any] = {"base": str(folder / "base"), "prompts": prompts, "tokens": most}
        job["stop_ids"] = sorted(base.stop_ids)
        if way != "plain":
            job |= {"draft": str(draft), "tree": way}
            if tokens is not None:
                torch.save(tokens, folder / "tokens.pt")
                job["token_map"] = str(folder / "tokens.pt")
        (folder / "job.json").write_text(json.dumps(job))
        program = Path(__file__).parent / "sglang" / "cycles.py"
        done = subprocess.run(
            python_command(str(program), str(folder / "job.json"), str(folder / "result.json")),
            env=os.environ | sglang_environment(site),
            capture_output=True,
            text=True,
            timeout=240,
        )
        if not (folder / "result.json").exists():
            raise RuntimeError(" ".join(done.stderr.split()[-60:]))
        result = json.loads((folder / "result.json").read_text())
        for answer in result.get("answers", []):
            total.tokens, total.prompts = total.tokens + answer["tokens"], total.prompts + 1
            total.whole_s, total.steps = total.whole_s + answer["seconds"], total.steps + answer["steps"]
    total.decode_s = total.whole_s
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, default=SHARED / "models" / "smollm2-135m-eagle-quick")
    parser.add_argument("--prompts", type=Path, default=SHARED / "data" / "eval" / "mt_bench.jsonl")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--trees", nargs="*", default=["auto", "3/2/5", "6/10/60"])
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens that the draft proposes; 0 = all")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--no-hugging-face", action="store_true")
    parser.add_argument("--sglang", type=Path, help="directory that SGLang is installed in")
    parser.add_argument("--sglang-ways", nargs="*", default=["plain", "6/10/60"])
    wanted = parser.parse_args()
    for path in (wanted.draft, wanted.prompts):
        if not path.exists():
            print(f"left out: {path} is not here; name one with --draft and --prompts")
            return
    print(machine.table(), flush=True)
    spec = resolve("smollm2-llama-eagle", stage="bench").spec
    device = resolve_device(spec.resources)
    set_threads(spec.resources)
    dtype = getattr(torch, wanted.dtype)
    base = BaseLM.load(spec.base, device=device, dtype=dtype)
    draft = load_draft(wanted.draft, base)
    # The rival's base is its own: the decoder may lay out weights anew.
    other = base if wanted.no_hugging_face else BaseLM.load(spec.base, device=device, dtype=dtype)
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    prompts: list[list[int]] = []
    for conversation in read_prompts(BenchSpec(prompts=f"{wanted.prompts}:{wanted.questions}")).conversations:
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        prompts.append(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids)

    counted = draft.token_counts is not None and wanted.vocabulary
    tokens = draft.reduced_vocab(wanted.vocabulary, special_tokens(base)).ids if counted else None
    results: dict[str, Total] = {}
    inner = open_decoder(base, "auto", compiled=can_compile())
    decoder = choosing_decoder(inner)
    decoder.on_choice = lambda choice: print(choice.sentence, flush=True)
    inner.on_notice = lambda notice: print(notice, flush=True)
    vocabulary = wanted.vocabulary if counted else "whole"
    shape = {"draft_vocab": vocabulary, "max_new_tokens": wanted.max_new_tokens}
    ways = {"plain": DecodingSpec(plain=True, max_new_tokens=wanted.max_new_tokens)}
    ways |= {tree: DecodingSpec(tree=TreeSpec.parse(tree), **shape) for tree in wanted.trees}

    def own(way: DecodingSpec) -> Callable[[list[int], Total], None]:
        def answer(ids: list[int], total: Total) -> None:
            found = decoder.generate([ids], way, draft)[0]
            total.tokens, total.prompts = total.tokens + len(found.tokens), total.prompts + 1
            total.whole_s, total.decode_s = total.whole_s + found.total_s, total.decode_s + found.decode_s
            total.steps += len(found.steps)
            total.shapes[found.tree] += 1

        return answer

    answers = {name: own(way) for name, way in ways.items()}
    if not wanted.no_hugging_face:
        answers = {"Hugging Face": hugging_face(other, wanted.max_new_tokens), **answers}
    for name, answer in answers.items():
        at = time.perf_counter()
        for ids in prompts[:2]:
            answer(ids, Total())
        print(f"warm: {name}, {time.perf_counter() - at:.1f} s", flush=True)
    for name in answers:
        results[name] = Total()
    for number, ids in enumerate(prompts, start=1):
        turn = number % len(answers)  # the first on a prompt bears what its length costs once
        for name in [*answers][turn:] + [*answers][:turn]:
            answers[name](ids, results[name])
        if number % 10 == 0:
            print(f"after {number} prompts", *(line(name, results) for name in results), sep="\n", flush=True)
    if wanted.sglang:
        for way in wanted.sglang_ways:
            try:
                results[f"SGLang {way}"] = sglang(
                    wanted.sglang, other, wanted.draft, prompts, way, wanted.max_new_tokens, tokens
                )
                print(line(f"SGLang {way}", results), flush=True)
            except Exception as error:  # one figure less, the others are still wanted
                print(f"SGLang {way} failed: {type(error).__name__}: {str(error)[-600:]}", flush=True)

    print(
        f"\n{decoder.used} decoder, {'compiled' if isinstance(inner, FastDecoder) and inner.compiled else 'as it is'}"
    )
    print(f"{len(prompts)} prompts, at most {wanted.max_new_tokens} tokens, {wanted.dtype}, vocabulary {vocabulary}")
    for name in results:
        print(line(name, results))


def line(name: str, results: dict[str, Total]) -> str:
    """Speeds of a way, and what they are of own plain decoding and of Hugging Face's."""
    total = results[name]
    text = f"{name:18}{total.end_to_end:9.1f} tokens/s end to end {total.decode:9.1f} decode"
    for rival in ("plain", "Hugging Face", "SGLang plain"):
        if rival in results and rival != name and results[rival].end_to_end:
            text += f"  {total.end_to_end / results[rival].end_to_end:5.2f} x {rival}"
    if total.steps:
        text += f"  accept length {(total.tokens - total.prompts) / total.steps:.2f}"
    shapes = ", ".join(f"{shape} {count}" for shape, count in total.shapes.items() if shape)
    return f"{text}  {shapes}"


if __name__ == "__main__":
    main()
