"""Accept length of a published-layout EAGLE-1/2 checkpoint on the first turns of MT-Bench.

    python -m benchmarks.accept_length [--draft DIR] [--prompts FILE] [--questions 80] [--max-new-tokens 256] [--rows 8]

Draft and questions are looked for in `shared/` beside the checkout. Prompts are decoded several at a time, because
accept length does not depend on it; `hetspec-core bench` is for speeds. The aim with the tree 6/10/60: at least 2.4.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from hetspec_core.acceptance import AcceptStats, bootstrap_interval
from hetspec_core.config import resolve
from hetspec_core.engine.context import resolve_device, resolve_dtype
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.stages.bench import read_prompts
from hetspec_core.spec import BenchSpec, DecodingSpec, TreeSpec

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, default=SHARED / "models" / "smollm2-135m-eagle-quick")
    parser.add_argument("--prompts", type=Path, default=SHARED / "data" / "eval" / "mt_bench.jsonl")
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--tree", default="6/10/60")
    parser.add_argument("--rows", type=int, default=8)
    wanted = parser.parse_args()
    for path in (wanted.draft, wanted.prompts):
        if not path.exists():
            print(f"left out: {path} is not here; name one with --draft and --prompts")
            return

    spec = resolve("smollm2-llama-eagle", stage="bench").spec
    device = resolve_device(spec.resources)
    torch.manual_seed(0)
    base = BaseLM.load(spec.base, device=device, dtype=resolve_dtype(spec.resources, device))
    draft = load_draft(wanted.draft, base)
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    prompts = []
    for conversation in read_prompts(BenchSpec(prompts=f"{wanted.prompts}:{wanted.questions}")).conversations:
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        prompts.append(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids)
    decoding = DecodingSpec(tree=TreeSpec.parse(wanted.tree), max_new_tokens=wanted.max_new_tokens)
    completions: list[Completion] = []
    for start in range(0, len(prompts), wanted.rows):
        completions += generate(base, draft, prompts[start : start + wanted.rows], decoding)
        stats = AcceptStats.of(completions)
        print(f"{len(completions)} prompts: accept length {stats.accept_length:.3f}", flush=True)
    stats = AcceptStats.of(completions)
    interval = bootstrap_interval([completion.steps for completion in completions], 1000)
    print(f"{'tree':<16}{wanted.tree}, greedy, {wanted.max_new_tokens} new tokens")
    print(f"{'accept length':<16}{stats.accept_length:.3f}, 95 %: {interval}, {stats.num_steps} verify steps")
    print(f"{'histogram':<16}{stats.histogram}")


if __name__ == "__main__":
    main()
