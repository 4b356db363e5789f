"""What the servers of the check are compared with: built-in decoding, the offline engine, each other, and the plugin.

`measure_overhead` measures what the tree plugin costs a server: seconds per verify step of servers with it and without
it, in turns. There are two servers of each kind, because two of the same kind differ too. The texts are the same, so
the steps are. On a shared machine a turn is slow or fast as a whole, so the report has the fastest quarter of the turns
beside the median. `benchmarks.tree_plugin` measures the hooks alone.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.sglang.rows import ANSWERS, DEVICE, Check, Row, alone, ask, ready_rows
from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.sglang.servers import ServerPool
from hetspec_core.sglang.stream import TreeFeed, step_counts
from hetspec_core.spec import DecodingSpec, ResourcesSpec, TreeSpec

BARE = ("llama 6/10/59", "llama 6/10/59 again")
HOOKED = ("llama 6/10/59 with the plugin", "llama 6/10/59 with the plugin again")
_VIEWER = "viewer"
_TOKENS = 160
_PROMPTS = 3


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
    """Accept lengths of the built-in decoding. It runs while servers start, so its speeds mean little."""
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
    """Where two answers first differ, and how close the two tokens are there by the base in float32.

    Answers are compared up to the shorter one's length, because limits differ.
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


def measure_overhead(check: Check, rows: list[Row], seconds: float) -> dict[str, Any]:
    """Measure all ways in rounds until the time is over: per turn the median interval between two verify steps."""
    ready = {row.name: row for row in ready_rows(rows)}
    ways = [(name, ready[name]) for name in (*BARE, *HOOKED) if name in ready]
    if HOOKED[0] in ready:
        ways.append((_VIEWER, ready[HOOKED[0]]))
    found: dict[str, list[dict[str, float]]] = {label: [] for label, _ in ways}
    until = time.monotonic() + seconds
    for turn in itertools.count():
        if turn >= 2 and time.monotonic() > until:
            break
        for label, row in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            found[label].append(_turn(check, rows, row, viewer=label == _VIEWER))
    steps = {label: [each["step_ms"] for each in turns] for label, turns in found.items()}
    rounds = min(map(len, steps.values()))

    def mean(names: tuple[str, ...]) -> list[float]:
        return [statistics.fmean(steps[name][at] for name in names if name in steps) for at in range(rounds)]

    return {
        "rounds": rounds,
        "step_ms": {label: statistics.median(values) for label, values in steps.items()},
        "step_ms, fastest quarter": {label: _fastest(values) for label, values in steps.items()},
        "tokens_per_s": {label: statistics.median(each["tokens_per_s"] for each in found[label]) for label in found},
        "cost without a viewer": _change(mean(BARE), mean(HOOKED)),
        "cost viewer": _change(mean(BARE), mean((_VIEWER,))),
        "between two servers without it": _change(mean(BARE[:1]), mean(BARE[1:])) if BARE[1] in steps else None,
        "between two servers with it": _change(mean(HOOKED[:1]), mean(HOOKED[1:])) if HOOKED[1] in steps else None,
        "turns": found,
    }


def _turn(check: Check, rows: list[Row], row: Row, *, viewer: bool) -> dict[str, float]:
    feed = TreeFeed(row.socket) if viewer else None
    if feed is not None and not feed.open():
        raise RuntimeError("the plugin's socket does not answer")
    try:
        with alone(rows, row):
            # Off the record: the server was suspended, and the publisher accepts viewers five times a second.
            ask(check, row, 48, check.prompts[:1])
            answers = ask(check, row, _TOKENS, check.prompts[:_PROMPTS])
    finally:
        if feed is not None:
            feed.close()
    intervals = [after - before for each in answers for before, after in itertools.pairwise(each["times"][:-1])]
    return {
        "step_ms": round(1e3 * statistics.median(intervals), 4),
        "tokens_per_s": round(sum(len(each["tokens"]) for each in answers) / sum(each["s"] for each in answers), 1),
    }


def _fastest(values: list[float]) -> float:
    """The mean of the lowest quarter, and of two at least."""
    return statistics.fmean(sorted(values)[: max(2, len(values) // 4)])


def _change(before: list[float], after: list[float], samples: int = 2000) -> dict[str, Any]:
    """The relative increase from the first to the second: median over rounds, and its 95 % interval."""
    ratios = [two / one - 1 for one, two in zip(before, after, strict=True)]
    return {"median": statistics.median(ratios), "interval": _interval(ratios, statistics.median, samples)}


def _interval(values: list[float], figure: Callable[[list[float]], float], samples: int) -> tuple[float, float]:
    """The percentile bootstrap, 95 %."""
    dice = random.Random(0)
    drawn = sorted(figure(dice.choices(values, k=len(values))) for _ in range(samples))
    return drawn[round(0.025 * (samples - 1))], drawn[round(0.975 * (samples - 1))]
