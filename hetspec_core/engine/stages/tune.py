"""Stage tune: which tree shape and batch size are the fastest here, within a time budget.

Every shape is measured on the same prompts as plain decoding is. What the budget leaves no time for is named, not
guessed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.backends.sglang_counts import tree_flags
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.decoding.measure import PLAIN, Track
from hetspec_core.engine.machine import machine_facts
from hetspec_core.engine.stages.bench import read_prompts
from hetspec_core.engine.stages.bench_sglang import throughput
from hetspec_core.engine.stages.models import load_pair
from hetspec_core.engine.stages.served import draft_folder, sglang_backend
from hetspec_core.errors import Cancelled, HetSpecError, SpecError
from hetspec_core.spec import DecodingSpec


@dataclass
class Trial:
    """One shape at one batch size."""

    tree: str
    batch_size: int
    tokens_per_s: float | None = None
    accept_length: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    note: str = ""


def run(context: RunContext) -> None:
    """Try what the spec names, in order, until the budget is spent; the result names the frontier and the best flags.

    Raises:
        SpecError: there is no draft.
    """
    spec = context.spec
    folder = draft_folder(context)
    if not folder:
        raise SpecError("tuning needs a draft", hint="give one: --draft RUN_OR_DIR")
    if spec.backend == "sglang" and spec.sglang.url:
        raise SpecError(
            f"tuning starts a server for every tree, and sglang.url names {spec.sglang.url}, which has one tree",
            hint="leave sglang.url out, or measure that server: `hetspec-core bench --url`",
        )
    ways = [Track(PLAIN, spec.decoding.model_copy(update={"plain": True}))]
    for tree in spec.tune.trees:
        ways.append(Track(tree.label, spec.decoding.model_copy(update={"tree": tree, "plain": False})))
    trials: list[Trial] = []
    source = _served(context, folder, ways) if spec.backend == "sglang" else _builtin(context, ways)
    total = len(ways) * len(spec.tune.batch_sizes)
    for trial in source:
        trials.append(trial)
        context.progress("tune", len(trials), total, "trials", note=f"{trial.tree}, batch {trial.batch_size}")
        context.metric(len(trials), {"tokens_per_s": trial.tokens_per_s, "accept_length": trial.accept_length})
    found = report(trials, backend=spec.backend, decodings={way.label: way.decoding for way in ways})
    context.result("tune", found | {"machine": machine_facts(context.device)})


def report(trials: Sequence[Trial], *, backend: str, decodings: dict[str, DecodingSpec]) -> dict[str, Any]:
    """The trials, the fastest of each batch size, and those that no other beats in both speed and accept length."""
    best: dict[str, Any] = {}
    for size in sorted({trial.batch_size for trial in trials}):
        here = [trial for trial in trials if trial.batch_size == size and trial.tokens_per_s is not None]
        if not here:
            continue
        fastest = max(here, key=lambda trial: trial.tokens_per_s or 0.0)
        plain = next((trial.tokens_per_s for trial in here if trial.tree == PLAIN), None)
        steps, topk, tokens = tree_flags(decodings[fastest.tree].tree)
        flags = (
            f"--speculative-num-steps {steps} --speculative-eagle-topk {topk} --speculative-num-draft-tokens {tokens}"
        )
        best[str(size)] = {
            "tree": fastest.tree,
            "tokens_per_s": fastest.tokens_per_s,
            "speedup": (fastest.tokens_per_s or 0.0) / plain if plain else None,
            "flags": "no speculation" if fastest.tree == PLAIN else flags if backend == "sglang" else fastest.tree,
            "frontier": [trial.tree for trial in _frontier(here)],
        }
    return {"backend": backend, "trials": [vars(trial) for trial in trials], "best": best}


def _frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that none beats in both, by rising accept length."""
    kept: list[Trial] = []
    fastest = 0.0
    for trial in sorted(trials, key=lambda trial: -(trial.accept_length or 1.0)):
        if (trial.tokens_per_s or 0.0) > fastest:
            fastest = trial.tokens_per_s or 0.0
            kept.append(trial)
    return kept[::-1]


def _plan(context: RunContext, ways: Sequence[Track]) -> Iterator[tuple[Track, int, str]]:
    """What to try next, with the reason if there is no time for it: the longest trial of its kind must still fit.

    The first trial of a way is a kind of its own: a server is started for it.
    """
    limit = time.monotonic() + context.spec.tune.budget_s
    longest = {True: 0.0, False: 0.0}
    for way in ways:
        first = True
        for size in context.spec.tune.batch_sizes:
            context.check_cancelled()
            began = time.monotonic()
            reason = "" if began + longest[first] <= limit else "the time budget was spent"
            yield way, size, reason
            if not reason:
                longest[first] = max(longest[first], time.monotonic() - began)
                first = False


def _builtin(context: RunContext, ways: Sequence[Track]) -> Iterator[Trial]:
    base, draft = load_pair(context)
    template = ChatTemplate.for_tokenizer(base.tokenizer, context.spec.base.chat_template)
    prompts = [template.encode(each, add_generation_prompt=True).input_ids for each in _openings(context)]
    short = ways[0].decoding.model_copy(update={"max_new_tokens": 4})
    generate(base, draft, prompts[:1], short)
    for way, size, reason in _plan(context, ways):
        if reason:
            yield Trial(way.label, size, note=reason)
            continue
        done: list[Completion] = []
        began = time.perf_counter()
        for start in range(0, len(prompts), size):
            context.check_cancelled()
            done += generate(base, draft, prompts[start : start + size], way.decoding)
        took = time.perf_counter() - began
        tokens = sum(len(completion.tokens) for completion in done)
        yield Trial(way.label, size, tokens / took, AcceptStats.of(done).accept_length, tokens, took)


def _served(context: RunContext, folder: str, ways: Sequence[Track]) -> Iterator[Trial]:
    with sglang_backend(context) as backend:
        backend.use_draft(folder, "draft")
        prompts = [backend.encode(each) for each in _openings(context)]
        for way, size, reason in _plan(context, ways):
            if reason:
                yield Trial(way.label, size, note=reason)
                continue
            try:
                served, warmup = backend.served(way.decoding), context.spec.bench.warmup
                found = throughput(backend, served, prompts, way, size, warmup=warmup)
            except Cancelled:
                raise
            except HetSpecError as error:  # a shape that this server cannot do is a finding
                yield Trial(way.label, size, note=error.message)
                continue
            yield Trial(
                way.label,
                size,
                found["tokens_per_s"],
                found["accept_length"],
                found["completion_tokens"],
                found["total_s"],
            )


def _openings(context: RunContext) -> list[list[Message]]:
    """The first turns of the prompts, system message included."""
    found = []
    for conversation in read_prompts(context.spec.bench):
        opened = conversation.with_system(context.spec.base.system_prompt)
        messages = [message for message in opened.messages if message.role == "system"]
        found.append([*messages, Message("user", conversation.user_turns[0])])
    return found
