"""What do drafts of different kinds cost and bring for one base, trained on the same data for as many steps?

One dataset with the union of the layers that they read, then for each recipe: training; the stage bench in float32,
where every answer must equal plain decoding's, in batches for the accept length and one by one for the speed; and a
chat of two turns, answered with the draft and without. Prints one row a recipe, as Markdown.

    python -m benchmarks.draft_kinds --source prompts.jsonl --steps 3000 --tokens-per-batch 16384
    python -m benchmarks.draft_kinds --source prompts.jsonl --supervised-tokens 5000000 --tokens-per-batch 16384
    python -m benchmarks.draft_kinds --data DATASET_DIR --only smollm2-eagle3

With `--out` (or OUT in the environment) every row is kept in draft_kinds.json as soon as it is there, and a second call
goes on with the recipes that are not in it yet.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from hetspec_core.config import load_base, resolve
from hetspec_core.engine.backends.backend import Watcher
from hetspec_core.engine.backends.builtin import BuiltinBackend
from hetspec_core.engine.context import open_context
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.stages import bench, dataset, train
from hetspec_core.files import write_atomic
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import DecodingSpec, ResourcesSpec, TreeSpec

RECIPES = (
    "smollm2-llama-eagle",
    "smollm2-llama-eagle-8k",
    "smollm2-qwen3-eagle",
    "smollm2-qwen3-moe-eagle",
    "smollm2-qwen3-moe-zero-eagle",
    "smollm2-narrow-eagle",
    "smollm2-tied-eagle",
    "smollm2-latent",
    "smollm2-eagle3",
)
READS_MOST = "smollm2-eagle3"  # its dataset has what all the others read
TALK = ("Name three rivers of Europe.", "Which of them is the longest?")
FILE = "draft_kinds.json"


def main() -> None:
    wanted = _arguments()
    torch.set_float32_matmul_precision("highest")
    kept = _read(wanted.out)
    workbench = Workbench()
    chat = _Chat(wanted)
    data = wanted.data or (Path(kept["data"]) if Path(kept.get("data") or "-").is_dir() else None)
    if data is None:
        data = _dataset(workbench, wanted, kept)
    steps = _steps(wanted, data)
    shapes = wanted.tree or ["6/10/60", "4/1/4"]
    kept |= {"data": str(data), "machine": machine.facts(), "steps": steps, "arguments": _plain(vars(wanted))}
    rows: dict[str, Any] = kept.setdefault("rows", {})
    print(machine.table())
    print(f"\n{data}: {json.dumps(kept.get('dataset'))}; {steps or 'timed'} steps of {wanted.tokens_per_batch} tokens")
    for recipe in wanted.only or RECIPES:
        if recipe in rows:
            continue
        began = time.perf_counter()
        rows[recipe] = _measure(workbench, wanted, data, recipe, shapes, steps, chat)
        print(f"{recipe}: {time.perf_counter() - began:.0f} s", flush=True)
        if wanted.out:
            write_atomic(wanted.out / FILE, json.dumps(kept, indent=1, default=str).encode())
    table = "\n".join(_table(rows, shapes))
    print("\n" + table)
    if wanted.out:
        write_atomic(wanted.out / "draft_kinds.md", (table + "\n").encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a hidden-state dataset that is there already")
    parser.add_argument("--source", default="shipped:prompts", help="conversations, or prompts that the base answers")
    parser.add_argument("--answers", choices=("base", "data"), default="base", help="who writes the answers")
    parser.add_argument("--limit", type=int, help="at most so many of them")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of the answers in the dataset")
    parser.add_argument("--max-length", type=int, default=512, help="longest sample in tokens")
    parser.add_argument("--generation-batch", type=int, default=64)
    parser.add_argument("--steps", type=int, help="optimiser steps of each training (300 when nothing says otherwise)")
    parser.add_argument("--supervised-tokens", type=int, help="steps until about so many tokens were supervised")
    parser.add_argument("--minutes", type=float, help="time of each training instead")
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--prompts", default="shipped:heldout", help="prompts to measure on")
    parser.add_argument("--prompt-limit", type=int, help="at most so many of them")
    parser.add_argument("--bench-batch", type=int, default=1, help="prompts decoded together for the accept length")
    parser.add_argument("--speed-prompts", type=int, default=4, help="prompts decoded one by one for the speed")
    parser.add_argument("--answer-tokens", type=int, default=96, help="length of the answers measured")
    parser.add_argument("--tree", action="append", help="tree shapes to measure; 6/10/60 and 4/1/4 when absent")
    parser.add_argument("--only", action="append", choices=RECIPES, help="only these recipes")
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(out) if out else None, help="folder for JSON and Markdown")
    return parser.parse_args()


def _dataset(workbench: Workbench, wanted: argparse.Namespace, kept: dict[str, Any]) -> Path:
    options = {
        "dataset.source": wanted.source,
        "dataset.answers": wanted.answers,
        "dataset.limit": wanted.limit,
        "dataset.max_new_tokens": wanted.max_new_tokens,
        "dataset.generation_batch": wanted.generation_batch,
        "dataset.tokens_per_batch": max(2048, wanted.tokens_per_batch),
        "dataset.max_length": wanted.max_length,
    }
    paths = workbench.submit(resolve(READS_MOST, stage="dataset", options=options).spec).paths
    began = time.perf_counter()
    dataset.run(open_context(paths.folder))
    kept["dataset"] = _result(paths.result) | {"wall_s": round(time.perf_counter() - began, 1)}
    return paths.hidden_states


def _steps(wanted: argparse.Namespace, data: Path) -> int | None:
    """Optimiser steps of each training; None = they are planned by time. Batches are about nine tenths full."""
    if wanted.minutes or wanted.steps:
        return wanted.steps
    if not wanted.supervised_tokens:
        return 300
    shards = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["shards"]
    tokens, supervised = (sum(sum(shard[key]) for shard in shards) for key in ("lengths", "supervised"))
    return math.ceil(wanted.supervised_tokens / (0.9 * wanted.tokens_per_batch * supervised / tokens))


def _measure(
    workbench: Workbench,
    wanted: argparse.Namespace,
    data: Path,
    recipe: str,
    shapes: list[str],
    steps: int | None,
    chat: _Chat,
) -> dict[str, Any]:
    evaluated = steps or 1_000_000  # by time: only at the end, which is always evaluated
    training = {
        "training.datasets": [str(data)],
        "training.max_steps": steps,
        "training.max_minutes": wanted.minutes,
        "training.tokens_per_batch": wanted.tokens_per_batch,
        "training.optimizer.lr": wanted.lr,
        "training.eval_every": evaluated,
        "training.save_every": evaluated,
        "training.max_length": wanted.max_length,
    }
    paths = workbench.submit(resolve(recipe, stage="train", options=training).spec).paths
    began = time.perf_counter()
    train.run(open_context(paths.folder))
    learnt = _result(paths.result) | {"stage_s": round(time.perf_counter() - began, 1)}
    _free()
    draft = paths.draft
    judged = _bench(workbench, wanted, recipe, draft, shapes, wanted.prompt_limit, wanted.bench_batch)
    timed = judged
    if wanted.bench_batch > 1:
        timed = _bench(workbench, wanted, recipe, draft, shapes, wanted.speed_prompts, 1)
    return {"train": learnt, "bench": judged, "speed": timed, "chat": chat.smoke(draft, shapes[0])}


def _bench(
    workbench: Workbench,
    wanted: argparse.Namespace,
    recipe: str,
    draft: Path,
    shapes: list[str],
    limit: int | None,
    rows: int,
) -> dict[str, Any]:
    options = {
        "draft.checkpoint": str(draft),
        "bench.prompts": wanted.prompts,
        "bench.limit": limit,
        "bench.first_turn_only": True,
        "bench.trees": shapes,
        "bench.batch_size": rows,
        "bench.profile_prompts": 1 if rows == 1 else 0,
        "decoding.max_new_tokens": wanted.answer_tokens,
        "resources.dtype": "float32",
    }
    paths = workbench.submit(resolve(recipe, stage="bench", options=options).spec).paths
    bench.run(open_context(paths.folder))
    _free()
    return _result(paths.result)


@dataclass
class _Chat:
    """A conversation of two turns by the chat's own backend; the base is loaded once for all drafts."""

    wanted: argparse.Namespace

    @cached_property
    def backend(self) -> BuiltinBackend:
        backend = BuiltinBackend()
        backend.open(load_base("smollm2-135m-instruct"), ResourcesSpec(dtype="float32"))
        return backend

    def smoke(self, draft: Path, shape: str) -> dict[str, Any]:
        """Both turns with the draft and without: the number of equal answers, and what was said."""
        backend, messages, equal = self.backend, [], 0
        backend.use_draft(str(draft), draft.parent.name)
        decoding = DecodingSpec(tree=TreeSpec.parse(shape), max_new_tokens=min(48, self.wanted.answer_tokens))
        quiet = Watcher(on_tokens=lambda tokens: None, on_step=lambda step: None, trees=False)
        for turn in TALK:
            messages.append(Message("user", turn))
            prompt = backend.encode(messages)
            answer = backend.answer(prompt, decoding, quiet)
            plain = backend.answer(prompt, decoding.model_copy(update={"plain": True}), quiet)
            equal += answer.tokens == plain.tokens
            messages.append(Message("assistant", backend.text(answer.tokens)))
        return {"turns": len(TALK), "equal": equal, "messages": [message.as_dict() for message in messages]}


def _table(rows: dict[str, Any], shapes: list[str]) -> list[str]:
    """Markdown: a row for each recipe."""
    head = ["recipe", "parameters", "active", "training s", "steps", "supervised tokens", "simulated"]
    head += [f"accept length {shape}" for shape in shapes] + ["plain tokens/s"]
    head += [f"{shape} tokens/s (speedup)" for shape in shapes] + ["identical", "chat"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for recipe, row in rows.items():
        learnt, trees, timed = row["train"], row["bench"]["trees"], row["speed"]
        cells = [recipe, f"{learnt['draft_parameters']:,}", f"{learnt['draft_active_parameters']:,}"]
        cells += [f"{learnt['wall_s']:.0f}", f"{learnt['step']:,}", f"{learnt['supervised_tokens']:,}"]
        cells.append(f"{learnt['accept_length'] or 0:.2f}")
        cells += [f"{tree['accept_length']:.2f}" for tree in trees]
        cells.append(f"{timed['plain']['decode_tokens_per_s']:.1f}")
        cells += [f"{tree['decode_tokens_per_s']:.1f} ({tree['speedup']:.2f})" for tree in timed["trees"]]
        cells.append(" ".join(f"{tree['lossless']['identical']}/{tree['lossless']['prompts']}" for tree in trees))
        lines.append(f"| {' | '.join(cells)} | {row['chat']['equal']}/{row['chat']['turns']} |")
    return lines


def _read(folder: Path | None) -> dict[str, Any]:
    file = folder / FILE if folder else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))["data"]


def _free() -> None:
    """Models of a stage that has ended give back their memory before the next one is measured."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
