"""What the servers of the SGLang check are held against: built-in decoding, the offline engine, and each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.sglang_matrix import ANSWERS, DEVICE, Check
from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.sglang.servers import ServerPool
from hetspec_core.sglang.steps import step_counts
from hetspec_core.spec import DecodingSpec, ResourcesSpec, TreeSpec


def measure_engine(check: Check, pool: ServerPool, draft: Path) -> dict[str, Any]:
    from hetspec_core.sglang.offline import EngineJob, run_engine

    job = EngineJob(
        spec=pool.spec.model_copy(update={"batch_sizes": (1, 8)}),
        base=pool.base_folder,
        served=pool.export(draft),
        tree=TreeSpec.parse("5/4/7"),
        resources=ResourcesSpec(dtype="bfloat16"),
        prompts=check.prompts,
        decoding=DecodingSpec(max_new_tokens=check.options.max_new_tokens),
    )
    log = check.out / "logs" / "engine.log"
    found = run_engine(job, log, timeout_s=max(60.0, check.left_s() - 10))
    figures = {}
    for batch in found.pop("batches"):
        answers, total_s = batch["answers"], batch["total_s"]
        counts = [count for each in answers for count in step_counts(each["meta"], len(each["tokens"]), 5)]
        tokens, steps = sum(len(each["tokens"]) for each in answers), len(counts)
        ANSWERS[f"engine, {batch['batch_size']} at once"] = [each["tokens"] for each in answers]
        figures[batch["batch_size"]] = {
            "tokens": tokens,
            "verify_steps": steps,
            "accept_length": AcceptStats(counts).accept_length,
            "tokens_per_s": tokens / total_s,
        }
    return {**found, **figures[1], "by batch size": figures}


def measure_builtin(check: Check, base_spec: Any, drafts: dict[str, Path]) -> None:
    """Accept lengths of HetSpec's own decoding, while servers start; so its speeds say little."""
    prompts = check.prompts[: check.options.questions]
    for dtype in ("float32", "bfloat16"):
        try:
            base = BaseLM.load(base_spec, device=DEVICE, dtype=getattr(torch, dtype))
        except Exception as error:
            check.note(f"builtin {dtype}", {"error": str(error)})
            continue
        ways = [("plain", "", "1/1/1")]
        ways += [("llama", "llama", "5/4/7")]
        if dtype == "bfloat16":
            ways += [("llama", "llama", tree) for tree in ("3/1/3", "6/10/59")]
            ways += [("qwen3", "qwen3", "6/10/59"), ("qwen3_moe", "qwen3_moe", "6/10/59")]
            ways += [("latent", "latent", "6/10/59")]
        for name, draft, tree in ways:
            key = f"builtin {name}{'' if not draft else ' ' + tree} {dtype}"

            def run(draft: str = draft, tree: str = tree, key: str = key, base: BaseLM = base) -> dict[str, Any]:
                loaded = load_draft(drafts[draft], base) if draft else None
                decoding = DecodingSpec(
                    tree=TreeSpec.parse(tree), max_new_tokens=check.options.max_new_tokens, plain=not draft
                )
                began = time.perf_counter()
                done = generate(base, loaded, prompts, decoding)
                stats = AcceptStats.of(done)
                ANSWERS[key] = [completion.tokens for completion in done]
                return {
                    "tokens": sum(len(completion.tokens) for completion in done),
                    "verify_steps": stats.num_steps,
                    "accept_length": stats.accept_length,
                    "histogram": stats.histogram,
                    "s, all prompts at once": time.perf_counter() - began,
                }

            check.attempt(key, run, 90)


def compare_answers(check: Check, base_spec: Any) -> dict[str, Any]:
    """Where answers of two ways part first, and how close the two tokens are there by the base in float32.

    Only as far as both ways were asked: a limit of tokens that cut one off is no difference.
    """
    pairs = (
        ("builtin plain float32", "plain float32"),
        ("builtin llama 5/4/7 float32", "llama 5/4/7 float32"),
        ("builtin plain float32", "llama 5/4/7 float32"),
        ("plain float32", "llama 5/4/7 float32"),
        ("builtin plain bfloat16", "plain"),
        ("builtin llama 6/10/59 bfloat16", "llama 6/10/59"),
        ("plain", "llama 6/10/59"),
        ("llama 5/4/7", "engine, 1 at once"),
        ("llama 6/10/59", "llama 6/10/59 again"),
        ("llama 6/10/59", "llama 6/10/59 with the plugin"),
        ("llama 3/1/3", "llama 3/1/3 with a plugin that fails"),
    )
    base = BaseLM.load(base_spec, device=DEVICE, dtype=torch.float32)
    found = {}
    for one, other in pairs:
        if one not in ANSWERS or other not in ANSWERS:
            continue
        rows = list(zip(check.prompts, ANSWERS[one], ANSWERS[other]))
        apart = [_first_difference(base, *row) for row in rows]
        told = [each for each in apart if each is not None]
        compared = sum(min(len(a), len(b)) for _, a, b in rows)
        found[f"{one} = {other}"] = {
            "identical": len(rows) - len(told),
            "of": len(rows),
            "tokens": compared,
            "first differences": told,
        }
    return found


@torch.inference_mode()
def _first_difference(base: BaseLM, prompt: list[int], one: list[int], other: list[int]) -> dict[str, Any] | None:
    """The first token in which two answers differ, with the ranks of both and the gap between their logits."""
    at = next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), None)
    if at is None:
        return None
    ids = torch.tensor([prompt + one[:at]], device=base.device)
    logits = base.logits(base.forward(ids).hidden[0, -1]).float()
    ranks = [int((logits > logits[token]).sum()) for token in (one[at], other[at])]
    return {"token": at, "ranks": ranks, "gap": abs(float(logits[one[at]] - logits[other[at]]))}
