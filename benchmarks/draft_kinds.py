"""What do drafts of different kinds cost and bring for one base, trained on the same data for as many steps?

One dataset with the union of the layers that they read, then for each recipe: training, and the stage bench in float32,
where every answer must equal plain decoding's. Prints one row a recipe, as Markdown.

    python -m benchmarks.draft_kinds --source prompts.jsonl --steps 3000 --tokens-per-batch 16384
    python -m benchmarks.draft_kinds --data DATASET_DIR --only smollm2-eagle3
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from hetspec_core.config import resolve
from hetspec_core.engine.context import open_context
from hetspec_core.engine.stages import bench, dataset, train
from hetspec_core.service.workbench import Workbench

RECIPES = (
    "smollm2-llama-eagle",
    "smollm2-llama-eagle-8k",
    "smollm2-qwen3-eagle",
    "smollm2-qwen3-moe-eagle",
    "smollm2-qwen3-moe-zero-eagle",
    "smollm2-narrow-eagle",
    "smollm2-latent",
    "smollm2-eagle3",
)
READS_MOST = "smollm2-eagle3"  # its dataset has what all the others read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a hidden-state dataset that is there already")
    parser.add_argument("--source", default="shipped:prompts", help="prompts that the base answers for training")
    parser.add_argument("--limit", type=int, help="at most so many of them")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of the answers in the dataset")
    parser.add_argument("--generation-batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--prompts", default="shipped:heldout", help="prompts to measure on")
    parser.add_argument("--prompt-limit", type=int, help="at most so many of them")
    parser.add_argument("--answer-tokens", type=int, default=96, help="length of the answers measured")
    parser.add_argument("--tree", action="append", help="tree shapes to measure")
    parser.add_argument("--only", action="append", choices=RECIPES, help="only these recipes")
    wanted = parser.parse_args()
    workbench = Workbench()
    data = wanted.data or _dataset(workbench, wanted)
    shapes = wanted.tree or ["6/10/60", "3/2/6"]
    print(machine.table())
    print(f"\n{data}, {wanted.steps} steps of {wanted.tokens_per_batch} tokens, lr {wanted.lr:g}\n")
    print(
        "| recipe | parameters (active) | training s | simulated | "
        + " | ".join(f"{s}: accept length, tokens/s, speedup" for s in shapes)
        + " | equal answers |"
    )
    print("| --- | --- | --- | --- |" + " --- |" * (len(shapes) + 1), flush=True)
    for recipe in wanted.only or RECIPES:
        print(_row(workbench, wanted, data, recipe, shapes), flush=True)


def _dataset(workbench: Workbench, wanted: argparse.Namespace) -> Path:
    options = {
        "dataset.source": wanted.source,
        "dataset.answers": "base",
        "dataset.limit": wanted.limit,
        "dataset.max_new_tokens": wanted.max_new_tokens,
        "dataset.generation_batch": wanted.generation_batch,
        "dataset.max_length": 512,
    }
    paths = workbench.submit(resolve(READS_MOST, stage="dataset", options=options).spec).paths
    dataset.run(open_context(paths.folder))
    return paths.hidden_states


def _row(workbench: Workbench, wanted: argparse.Namespace, data: Path, recipe: str, shapes: list[str]) -> str:
    training = {
        "training.datasets": [str(data)],
        "training.max_steps": wanted.steps,
        "training.tokens_per_batch": wanted.tokens_per_batch,
        "training.optimizer.lr": wanted.lr,
        "training.eval_every": wanted.steps,
        "training.save_every": wanted.steps,
        "training.max_length": 512,
    }
    paths = workbench.submit(resolve(recipe, stage="train", options=training).spec).paths
    started = time.perf_counter()
    train.run(open_context(paths.folder))
    seconds = time.perf_counter() - started
    learnt = _result(paths.result)
    measured = {
        "draft.checkpoint": str(paths.draft),
        "bench.prompts": wanted.prompts,
        "bench.limit": wanted.prompt_limit,
        "bench.first_turn_only": True,
        "bench.trees": shapes,
        "decoding.max_new_tokens": wanted.answer_tokens,
        "resources.dtype": "float32",
    }
    paths = workbench.submit(resolve(recipe, stage="bench", options=measured).spec).paths
    bench.run(open_context(paths.folder))
    trees = _result(paths.result)["trees"]
    figures = [f"{t['accept_length']:.2f}, {t['decode_tokens_per_s']:.1f}, {t['speedup']:.2f}" for t in trees]
    equal = min(tree["lossless"]["identical"] for tree in trees)
    return (
        f"| {recipe} | {learnt['draft_parameters']:,} ({learnt['draft_active_parameters']:,}) | {seconds:.0f} | "
        f"{learnt['accept_length'] or 0:.2f} | {' | '.join(figures)} | {equal} of {trees[0]['lossless']['prompts']} |"
    )


def _result(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))["data"]


if __name__ == "__main__":
    main()
