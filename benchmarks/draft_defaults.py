"""Which initialisation, loss weights and learning rate give the longest accept length? What the defaults stand on.

One dataset (the base's own answers), one budget, several variants; each draft is trained by the real stage and measured
by the real decoding on prompts that it has not seen: pooled accept length, greedy, several tree shapes.

    python benchmarks/draft_defaults.py --source shipped:prompts --steps 300 --tokens-per-batch 2048 --out table.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from hetspec_core.acceptance import AcceptStats
from hetspec_core.config import resolve
from hetspec_core.engine.context import open_context
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.stages import dataset, train
from hetspec_core.engine.stages.bench import read_prompts
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BenchSpec, DecodingSpec, TreeSpec

# init (random, or the base's last layer), then what differs from the token loss alone with noise 0.2
VARIANTS: dict[str, dict[str, Any]] = {
    "random": {},
    "random-clean": {"algorithm.options.noise": 0.0},
    "random-f0.3": {"algorithm.options.feature_loss_weight": 0.3},
    "random-f1": {"algorithm.options.feature_loss_weight": 1.0},
    "random-f1-clean": {"algorithm.options.feature_loss_weight": 1.0, "algorithm.options.noise": 0.0},
    "random-f3": {"algorithm.options.feature_loss_weight": 3.0},
    "random-f10": {"algorithm.options.feature_loss_weight": 10.0},
    "random-f10-lr/2": {"algorithm.options.feature_loss_weight": 10.0, "lr_factor": 1 / 2},
    "random-origin": {"algorithm.options.feature_loss_weight": 1.0, "algorithm.options.token_loss_weight": 0.1},
    "random-f3-lr/2": {"algorithm.options.feature_loss_weight": 3.0, "lr_factor": 1 / 2},
    "random-f3-lr*2": {"algorithm.options.feature_loss_weight": 3.0, "lr_factor": 2.0},
    "random-f3-clip1e9": {"algorithm.options.feature_loss_weight": 3.0, "training.optimizer.clip_norm": 1e9},
    "random-f3-v8192": {"algorithm.options.feature_loss_weight": 3.0, "draft.vocab_size": 8192},
    "random-f3-normed": {
        "algorithm.options.feature_loss_weight": 3.0,
        "draft.skip_first_input_norm": False,
    },
    "random-f3-qwen3": {"recipe": "smollm2-qwen3-eagle", "algorithm.options.feature_loss_weight": 3.0},
    "last": {"draft.init": "base_last_layers"},
    "last-f1": {"draft.init": "base_last_layers", "algorithm.options.feature_loss_weight": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smollm2-llama-eagle")
    parser.add_argument("--source", default="shipped:prompts", help="prompts that the base answers for training")
    parser.add_argument("--limit", type=int, help="at most so many of them")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length of the answers in the dataset")
    parser.add_argument("--generation-batch", type=int, default=64)
    parser.add_argument("--data", type=Path, help="a hidden-state dataset that is there already")
    parser.add_argument("--dataset-only", action="store_true", help="make the dataset, print where it is, and stop")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--prompts", default="shipped:heldout", help="prompts to measure on")
    parser.add_argument("--answer-tokens", type=int, default=96, help="length of the answers measured")
    parser.add_argument("--rows", type=int, default=20, help="prompts decoded together")
    parser.add_argument("--tree", action="append", help="tree shapes to measure")
    parser.add_argument("--only", action="append", help="only the variants of these names")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    wanted = parser.parse_args()

    workbench = Workbench()
    data = wanted.data or _dataset(workbench, wanted)
    if wanted.dataset_only:
        print(data)
        return
    rows: list[dict[str, Any]] = []
    for name, options in VARIANTS.items():
        if wanted.only and name not in wanted.only:
            continue
        rows.append({"variant": name, **_variant(workbench, wanted, data, dict(options))})
        print(json.dumps(rows[-1]), flush=True)
        if wanted.out:
            wanted.out.write_text(json.dumps(rows, indent=1))
    if rows:
        _print(rows)


def _dataset(workbench: Workbench, wanted: argparse.Namespace) -> Path:
    options = {
        "dataset.source": wanted.source,
        "dataset.answers": "base",
        "dataset.limit": wanted.limit,
        "dataset.max_new_tokens": wanted.max_new_tokens,
        "dataset.generation_batch": wanted.generation_batch,
        "dataset.max_length": 512,
    }
    paths = workbench.submit(resolve(wanted.recipe, stage="dataset", options=options).spec).paths
    started = time.perf_counter()
    dataset.run(open_context(paths.folder))
    print(f"dataset: {time.perf_counter() - started:.0f} s, {json.loads(paths.result.read_text())}", flush=True)
    return paths.hidden_states


def _variant(workbench: Workbench, wanted: argparse.Namespace, data: Path, options: dict[str, Any]) -> dict[str, Any]:
    recipe = options.pop("recipe", wanted.recipe)
    options = {
        "draft.init": "random",
        "algorithm.options.token_loss_weight": 1.0,
        "algorithm.options.feature_loss_weight": 0.0,
        **options,
    }
    options |= {
        "training.datasets": [str(data)],
        "training.max_steps": wanted.steps,
        "training.tokens_per_batch": wanted.tokens_per_batch,
        "training.optimizer.lr": wanted.lr * options.pop("lr_factor", 1.0),
        "training.eval_every": wanted.steps,
        "training.save_every": wanted.steps,
        "training.max_length": 512,
    }
    spec = resolve(recipe, stage="train", options=options).spec
    paths = workbench.submit(spec).paths
    context = open_context(paths.folder)
    started = time.perf_counter()
    train.run(context)
    train_s = time.perf_counter() - started

    base = BaseLM.load(spec.base, device=context.device, dtype=context.dtype)
    draft = load_draft(paths.draft, base)
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    prompts = []
    for conversation in read_prompts(BenchSpec(prompts=wanted.prompts)).conversations:
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        prompts.append(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids)
    result: dict[str, Any] = {"train_s": round(train_s, 1), "parameters": draft.num_parameters}
    for shape in wanted.tree or ["6/10/60", "4/1/4"]:
        decoding = DecodingSpec(tree=TreeSpec.parse(shape), max_new_tokens=wanted.answer_tokens)
        completions = []
        for start in range(0, len(prompts), wanted.rows):
            completions += generate(base, draft, prompts[start : start + wanted.rows], decoding)
        stats = AcceptStats.of(completions)
        result[shape] = round(stats.accept_length or 0.0, 3)
        result[f"{shape} steps"] = stats.num_steps
    evaluation = json.loads(paths.result.read_text()) if paths.result.is_file() else {}
    result["evaluation"] = evaluation
    return result


def _print(rows: list[dict[str, Any]]) -> None:
    shapes = [key for key in rows[0] if "/" in key and "steps" not in key]
    print(f"\n{'variant':<14}" + "".join(f"{shape:>10}" for shape in shapes) + f"{'train s':>10}")
    for row in rows:
        print(
            f"{row['variant']:<14}" + "".join(f"{row[shape]:>10.2f}" for shape in shapes) + f"{row['train_s']:>10.0f}"
        )


if __name__ == "__main__":
    main()
