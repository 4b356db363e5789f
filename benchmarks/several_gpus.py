"""What further GPUs of one machine bring: a training and a dataset as real runs, on one GPU and on all of them.

Weights are random: nothing is downloaded, and the figures do not depend on the values of the weights. The training is
that of a recipe with its own sizes; of the base it needs the embedding and the head alone, so the base has few layers.
One GPU takes as many micro-batches a step as there are GPUs, so that both runs see the same global batch and their
losses can be compared.

    python -m benchmarks.several_gpus --out DIR                      # on a machine with two GPUs or more
    python -m benchmarks.several_gpus --out DIR --tiny               # a trial on two processor workers
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks import machine
from hetspec_core.config import resolve
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.events import Event, Metric, Progress, read_events
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec, RunSpec

PATIENCE_S = 540.0
SKIPPED_WINDOWS = 2  # compiling, first allocations
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Sizes:
    """How much is done: layers of the training's base, steps, tokens of a batch, conversations, and their words."""

    layers: int
    steps: int
    tokens_per_batch: int
    train_rows: int
    dataset_rows: int
    words: int


FULL = Sizes(layers=4, steps=40, tokens_per_batch=8192, train_rows=60, dataset_rows=5000, words=1000)
TINY = Sizes(layers=4, steps=12, tokens_per_batch=256, train_rows=12, dataset_rows=24, words=100)


class Bench:
    """Runs of one home, their wall time and their figures."""

    def __init__(self, out: Path, work: Path, sizes: Sizes, *, tiny: bool, gpus: int) -> None:
        self.out, self.work, self.sizes, self.tiny, self.gpus = out, work, sizes, tiny, gpus
        self.workbench = Workbench(work / "home")

    def resources(self, count: int) -> dict[str, Any]:
        """`count` GPUs, or as many processor workers in a trial."""
        if self.tiny:
            return ResourcesSpec(device="cpu", num_workers=count, num_threads=1).model_dump()
        return ResourcesSpec(device="cuda", num_gpus=count, share_busy=True).model_dump()

    def run(self, spec: RunSpec, *, kill_rank: int | None = None) -> tuple[RunPaths, float, str]:
        """Submit, start and wait; the folder, the wall time in seconds and the state it ended in."""
        run_id = self.workbench.submit(spec).run_id
        started = time.monotonic()
        self.workbench.start(run_id)
        if kill_rank is not None:
            self.kill(self.workbench.paths(run_id), kill_rank)
        state = self.workbench.wait(run_id, PATIENCE_S)
        return self.workbench.paths(run_id), time.monotonic() - started, str(state)

    def kill(self, paths: RunPaths, rank: int) -> None:
        """Kill the worker of a rank once the run has reported a step and saved a checkpoint."""
        limit = time.monotonic() + PATIENCE_S
        while not (series(paths, "loss") and list(paths.checkpoints.glob("step-*"))):
            assert time.monotonic() < limit, "the training reported no step"
            time.sleep(0.2)
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            is_worker = str(paths.folder) in words and any("engine.worker" in word for word in words)
            if is_worker and process.environ().get("RANK") == str(rank):
                process.send_signal(signal.SIGKILL)
                return
        raise AssertionError(f"no worker has rank {rank}")


def events(paths: RunPaths) -> list[Event]:
    return list(read_events(paths.events)[0])


def series(paths: RunPaths, name: str) -> dict[int, float]:
    """Values of a metric by step; the last one of a step counts."""
    if not paths.events.is_file():
        return {}
    metrics = [event for event in events(paths) if isinstance(event, Metric)]
    pairs = [(metric.step, metric.values.get(name)) for metric in metrics]
    return {step: value for step, value in pairs if value is not None}


def write_base(folder: Path, architecture: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A random Llama in bfloat16 with a tokenizer of words, as a model folder; returns the fields of its BaseSpec."""
    sizes = {key: value for key, value in architecture.items() if key not in ("model_type", "extra", "rope_theta")}
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in sizes.items() if v is not None}, eos_token_id=2))
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    words = [*SPECIAL, *(f"w{number}" for number in range(min(30_000, sizes["vocab_size"]) - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[1], eos_token=SPECIAL[2], unk_token=SPECIAL[0]
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return {"name": folder.name, "source": {"kind": "path", "path": str(folder)}, "architecture": architecture}


def write_rows(file: Path, count: int, words: int, vocabulary: int) -> Path:
    """Conversations of one question and one answer of random words."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{draw.randrange(min(30_000, vocabulary) - len(SPECIAL))}" for _ in range(length))

    with file.open("w") as out:
        for number in range(count):
            turns = [{"role": "user", "content": text(words // 2)}, {"role": "assistant", "content": text(words // 2)}]
            out.write(json.dumps({"id": str(number), "messages": turns}) + "\n")
    return file


def dataset_spec(base: dict[str, Any], rows: Path, resources: dict[str, Any], **settings: Any) -> RunSpec:
    dataset = {"source": str(rows), "max_length": 2048, "tokens_per_batch": 16384, **settings}
    return RunSpec.model_validate({"stage": "dataset", "base": base, "dataset": dataset, "resources": resources})


def scale_dataset(bench: Bench, device: torch.device) -> list[str]:
    """Capture by one worker and by one on each GPU: tokens/s of the whole run, and whether the stores are equal."""
    architecture = resolve("smollm2-llama-eagle", stage="train").spec.base.architecture.model_dump()
    if bench.tiny:
        architecture |= {"num_hidden_layers": 2}
    base = write_base(bench.work / "smollm2-shape", architecture, device)
    rows = write_rows(
        bench.work / "rows.jsonl", bench.sizes.dataset_rows, bench.sizes.words, architecture["vocab_size"]
    )
    lines, rates, stores = [], {}, {}
    for count in (1, bench.gpus):
        paths, wall_s, state = bench.run(dataset_spec(base, rows, bench.resources(count)))
        assert state == "succeeded", bench.workbench.show(paths.run_id).summary.error
        stores[count] = open_store([paths.folder])
        tokens = sum(stores[count].lengths)
        capture_s = task_s(paths, "capture")
        rates[count] = tokens / capture_s
        lines.append(
            f"dataset, {count} worker(s): {tokens:,} tokens captured in {capture_s:.1f} s "
            f"({rates[count]:,.0f} tokens/s), {wall_s:.1f} s from submit to end"
        )
    one, many = stores[1], stores[bench.gpus]
    places = {name: place for place, name in enumerate(many.ids)}
    worst = max(
        float((one[place].hidden.float() - many[places[one.ids[place]]].hidden.float()).abs().max())
        for place in range(0, len(one), 20)
    )
    lines.append(
        f"    {rates[bench.gpus] / rates[1]:.2f} x one worker; the same {len(one)} samples: "
        f"{sorted(one.ids) == sorted(many.ids)}; states differ by at most {worst:.3g} (every 20th sample)"
    )
    return lines


def task_s(paths: RunPaths, task: str) -> float:
    """Seconds from the first to the last report of a task, over all workers."""
    times = [event.time for event in events(paths) if isinstance(event, Progress) and event.task == task]
    return max(times) - min(times)


def scale_training(bench: Bench, device: torch.device, recipe: str) -> list[str]:
    """The recipe's training with one global batch: tokens/s and losses on one GPU and on all; then one rank killed."""
    asked = resolve(recipe, stage="train").spec
    architecture = asked.base.architecture.model_dump() | {"num_hidden_layers": bench.sizes.layers}
    assert asked.draft is not None
    draft: dict[str, Any] = asked.draft.model_dump() | {"init": "random"}
    if bench.tiny:
        small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
        small |= {"head_dim": 16, "vocab_size": 512}
        architecture |= small
        draft["architecture"] |= {**small, "vocab_size": 512}
        draft["vocab_size"] = 128
    base = write_base(bench.work / "training-base", architecture, device)
    rows = write_rows(
        bench.work / "train.jsonl", bench.sizes.train_rows, 2 * bench.sizes.words, architecture["vocab_size"]
    )
    stored, _, state = bench.run(dataset_spec(base, rows, bench.resources(1), layers=[1, 2, 3]))
    assert state == "succeeded", bench.workbench.show(stored.run_id).summary.error
    algorithm = asked.algorithm.model_dump()
    if asked.algorithm.name == "eagle3":
        algorithm["options"] = dict(algorithm["options"]) | {"layers": "1,2,3"}

    def spec(count: int, accumulation: int, steps: int) -> RunSpec:
        training = asked.training.model_dump() | {
            "datasets": [str(stored.folder)],
            "max_steps": steps,
            "max_minutes": None,
            "max_length": 2048,
            "tokens_per_batch": bench.sizes.tokens_per_batch,
            "gradient_accumulation": accumulation,
            "log_every": 4,
            "eval_every": 10 * steps,
            "save_every": max(8, steps // 2),
            "eval_fraction": 0.05,
        }
        fields = {"stage": "train", "base": base, "draft": draft, "algorithm": algorithm, "training": training}
        return RunSpec.model_validate(fields | {"resources": bench.resources(count)})

    lines, speeds, losses = [], {}, {}
    for count in (1, bench.gpus):
        paths, wall_s, state = bench.run(spec(count, bench.gpus // count, bench.sizes.steps))
        assert state == "succeeded", bench.workbench.show(paths.run_id).summary.error
        shutil.copy(paths.events, bench.out / f"train-{count}.jsonl")
        windows = list(series(paths, "tokens_per_s").values())[SKIPPED_WINDOWS:]
        speeds[count], losses[count] = statistics.median(windows), series(paths, "loss")
        lines.append(
            f"training {recipe}, {count} worker(s), {bench.gpus // count} micro-batch(es) a step: median "
            f"{speeds[count]:,.0f} tokens/s ({min(windows):,.0f} to {max(windows):,.0f}), {wall_s:.0f} s in all"
        )
    differ = max(abs(losses[1][step] - losses[bench.gpus][step]) / abs(losses[1][step]) for step in losses[1])
    last = max(losses[1])
    lines.append(
        f"    {speeds[bench.gpus] / speeds[1]:.2f} x one GPU; losses differ by at most {differ:.2e} (relative), last "
        f"{losses[1][last]:.4f} and {losses[bench.gpus][last]:.4f}"
    )
    paths, _, state = bench.run(spec(bench.gpus, 1, bench.sizes.steps), kill_rank=bench.gpus - 1)
    error = bench.workbench.show(paths.run_id).summary.error
    lines.append(f"training with rank {bench.gpus - 1} killed: {state}; error: {error}")
    if state != "succeeded":
        bench.workbench.resume(paths.run_id)
        state = str(bench.workbench.wait(paths.run_id, PATIENCE_S))
    ended = series(paths, "loss")
    lines.append(f"    resumed: {state}; last loss {ended[max(ended)]:.4f} at step {max(ended)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, default=Path("/tmp/several-gpus"), help="folder of bases and runs")
    parser.add_argument("--recipe", default="llama3.1-8b-eagle3")
    parser.add_argument("--tiny", action="store_true", help="two processor workers, and sizes of a trial")
    arguments = parser.parse_args()
    gpus = 2 if arguments.tiny else torch.cuda.device_count()
    if gpus < 2:
        raise SystemExit(f"this machine has {gpus} GPUs; two or more are needed (or --tiny)")
    os.environ["HETSPEC_HOME"] = str(arguments.work / "home")
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if arguments.tiny else "cuda")
    bench = Bench(arguments.out, arguments.work, TINY if arguments.tiny else FULL, tiny=arguments.tiny, gpus=gpus)
    print(machine.table(), flush=True)
    for part in (lambda: scale_training(bench, device, arguments.recipe), lambda: scale_dataset(bench, device)):
        try:
            lines = part()
        except Exception as error:  # one part that fails leaves the other
            lines = [f"failed: {type(error).__name__}: {error}"]
        print("\n".join(lines), flush=True)
        with (arguments.out / "table.txt").open("a") as table:
            table.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
