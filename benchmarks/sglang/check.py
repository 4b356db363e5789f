"""Check SGLang on a GPU in one run: servers, offline engine and built-in decoding over one matrix of drafts and trees.

    python -m benchmarks.sglang.check --out DIR --sglang DIR_OF_BUNDLE [--draft DIR] [--prompts FILE] [--questions 10]

Servers are started by HetSpec's own backend. A row that fails is reported, and the others go on. The report is written
again after every row: `report.json`, the logs of the servers, `exchanges.jsonl.gz` (requests, and every line of the
answers with its time), `trees.jsonl` (records of the tree plugin). `scripts/gpu_sglang_check.sh` runs it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.sglang.comparisons import compare_answers, measure_builtin, measure_engine, measure_overhead
from benchmarks.sglang.drafts import as_latent, as_mixture, as_qwen3
from benchmarks.sglang.exchanges import record_exchanges
from benchmarks.sglang.rows import ANSWERS, DEVICE, Check, Row, alone, ask, figures_of, ready_rows, short
from benchmarks.tree_plugin import hook_costs
from hetspec_core.config import resolve
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.stages.inputs import read_prompts
from hetspec_core.sglang.export import ServedDraft
from hetspec_core.sglang.launch import interpreter
from hetspec_core.sglang.servers import ServerPool, SGLangServer
from hetspec_core.sglang.stream import TreeFeed, committed_tokens, tree_step
from hetspec_core.spec import BenchSpec, ResourcesSpec, SGLangSpec, TreeSpec

RECIPE = "smollm2-llama-eagle"


BUNDLE = {
    "SGLANG_ENABLE_JIT_DEEPGEMM": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "SGLANG_DISABLE_CUDNN_CHECK": "1",
    "TORCH_CUDA_ARCH_LIST": "9.0",
}


FLAGS = (
    *("--attention-backend", "triton", "--sampling-backend", "pytorch", "--grammar-backend", "none"),
    *("--mem-fraction-static", "0.7", "--max-total-tokens", "24000", "--max-running-requests", "8"),
    *("--cuda-graph-max-bs-decode", "8", "--context-length", "2048"),
)


EAGER = ("--disable-cuda-graph",)
"""In float32, texts are compared and not speeds; capturing the graphs of a tree takes minutes there."""


def main() -> int:
    check = _begin()
    spec = resolve(RECIPE, stage="bench").spec
    from hetspec_core.engine.modeling.base_lm import load_tokenizer

    tokenizer = load_tokenizer(spec.base)
    template = ChatTemplate.for_tokenizer(tokenizer, spec.base.chat_template)
    asked = read_prompts(BenchSpec(prompts=f"{check.options.prompts}:{check.options.questions}"))
    for conversation in asked.conversations:
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        check.prompts.append(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids)
        check.texts.append(tokenizer.decode(check.prompts[-1]))
    check.note("prompts", {"questions": len(check.prompts), "tokens": sum(map(len, check.prompts))})
    drafts = _drafts(check)
    pool = _pool(check, spec.base, check.out / "work")
    exact: dict[str, Any] = {"dtype": "float32", "flags": EAGER, "questions": 6, "max_new_tokens": 64}
    rows = [
        Row("plain", "1/1/1"),
        Row("llama 6/10/59", "6/10/59", "llama"),
        Row("plain float32", "1/1/1", **exact),
        Row("llama 5/4/7 float32", "5/4/7", "llama", **exact),
        Row("llama 6/10/59 with the plugin", "6/10/59", "llama", trees=True),
        Row("llama 6/10/59 again", "6/10/59", "llama"),
        Row("llama 6/10/59 with the plugin again", "6/10/59", "llama", trees=True),
        Row("llama 5/4/7", "5/4/7", "llama"),
        Row("llama 3/1/3", "3/1/3", "llama"),
        Row("llama 3/1/3 with a plugin that fails", "3/1/3", "llama", trees=True, socket="/no/such/folder/trees"),
        Row("qwen3 6/10/59", "6/10/59", "qwen3"),
        Row("qwen3-moe 6/10/59", "6/10/59", "qwen3_moe"),
        Row("latent 6/10/59", "6/10/59", "latent"),
    ]
    if wanted := [name.strip() for name in check.options.only.split(",") if name.strip()]:
        if unknown := [name for name in wanted if name not in {row.name for row in rows}]:
            raise SystemExit(f"--only: no row {unknown[0]!r}; there are {', '.join(row.name for row in rows)}")
        rows = [row for row in rows if row.name in wanted]
    begun = 0 if wanted else 4  # these compile the kernels for the others; float32 takes longest
    try:
        builtin = threading.Thread(target=lambda: measure_builtin(check, spec.base, drafts), daemon=True)
        _start(check, pool, rows[:begun], drafts)
        if check.options.builtin:
            builtin.start()
        _wait(check, rows[: begun // 2])
        with alone(rows[: begun // 2]):  # an idle server keeps a core busy
            _start(check, pool, rows[begun:], drafts)
            _wait(check, rows[begun // 2 :])
        if check.options.builtin:
            builtin.join(timeout=max(1.0, check.left_s() - 120))
        check.attempt("exchanges", lambda: record_exchanges(check, rows))  # takes two seconds; tests replay them
        _measure(check, rows, tokenizer)
        check.attempt("frontend", lambda: _frontend(check, rows), 15)
        check.attempt("hooks", lambda: hook_costs(DEVICE, TreeSpec.parse("6/10/59")), 15)
        check.attempt("overhead", lambda: measure_overhead(check, rows, min(100.0, check.left_s() - 40)), 60)
    finally:
        for row in rows:
            if row.server is not None:
                row.server.stop(grace_s=3.0)
    check.attempt("left behind", lambda: _left_behind(), 0)
    if check.options.engine:
        check.attempt("engine", lambda: measure_engine(check, pool, drafts["llama"]), 80)
    check.attempt("agreement", lambda: compare_answers(check, spec.base))
    _pack_logs(check)
    _table(check)
    return 0


def _begin() -> Check:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sglang", default="", help="PYTHONPATH of SGLang; the installed one when empty")
    parser.add_argument("--draft", type=Path, required=True, help="a Llama EAGLE-1/2 draft of SmolLM2-135M")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--budget-s", type=float, default=500.0)
    parser.add_argument("--only", default="", help="rows to run, by name, with commas; all when empty")
    parser.add_argument("--builtin", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--engine", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    check = Check(options, options.out)
    check.note("machine", machine.facts())
    return check


def _drafts(check: Check) -> dict[str, Path]:
    work = check.out / "work" / "drafts"
    work.mkdir(parents=True, exist_ok=True)
    found = {"llama": check.options.draft, "qwen3": work / "qwen3", "qwen3_moe": work / "qwen3_moe"}
    as_qwen3(found["llama"], found["qwen3"])
    as_mixture(found["llama"], found["qwen3_moe"])
    found["latent"] = work / "latent"
    as_latent(found["llama"], found["latent"])
    return found


def _pool(check: Check, base: Any, folder: Path) -> ServerPool:
    spec = SGLangSpec(python_path=check.options.sglang, environment=BUNDLE if check.options.sglang else {}, flags=FLAGS)
    pool = ServerPool(spec, base, ResourcesSpec(dtype="bfloat16"), folder=folder, logs=check.out / "logs")
    check.note("sglang", pool.version)
    return pool


def _start(check: Check, pool: ServerPool, rows: list[Row], drafts: dict[str, Path]) -> None:
    """Start these servers together, on the GPUs in turn.

    The main thread starts them, because the kernel ends a server with the thread that started it.
    """
    gpus = max(1, torch.cuda.device_count())
    for number, row in enumerate(rows):
        try:
            pool.resources = ResourcesSpec.model_validate({"dtype": row.dtype})
            served: ServedDraft | None = pool.export(drafts[row.draft]) if row.draft else None
            if row.trees and not row.socket:
                row.socket = f"/tmp/hetspec-{os.getpid()}-{abs(hash(row.name)) % 10**6}"
            launch = pool.plan(served, TreeSpec.parse(row.tree), trees_socket=row.socket)
            launch.command.extend(row.flags)
            if gpus > 1:
                launch.environment["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
            log = check.out / "logs" / f"{row.name.replace('/', '-').replace(' ', '_')}.log"
            row.server = SGLangServer(launch, log, 120.0)
            row.server.start()
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}"


def _wait(check: Check, rows: list[Row]) -> None:
    def wait(row: Row, began: float) -> None:
        steps: list[str] = []
        try:
            assert row.server is not None, row.error
            limit = max(20.0, min(240.0, check.left_s() - 60))
            row.server.wait_ready(limit, lambda label, done: steps.append(f"{time.monotonic() - began:.0f} s: {label}"))
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}"
        row.ready_s = time.monotonic() - began
        told = row.server.start_log.classes if row.server is not None else ()
        found = {"ready_s": round(row.ready_s, 1), "steps": steps, "classes": told, "error": row.error}
        check.note(f"start of {row.name}", found)

    threads = [threading.Thread(target=wait, args=(row, time.monotonic())) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _measure(check: Check, rows: list[Row], tokenizer: Any) -> None:
    for row in ready_rows(rows):
        with alone(rows, row):
            check.attempt(f"server {row.name}", lambda row=row: _measure_row(check, row), 40)
            if row.trees and "trees" not in check.report and Path(row.socket).exists():
                check.attempt("trees", lambda row=row: _look_at_trees(check, row, tokenizer), 10)


def _measure_row(check: Check, row: Row) -> dict[str, Any]:
    ask(check, row, 24, check.prompts[:2])
    prompts = check.prompts[: row.questions or len(check.prompts)]
    answers = ask(check, row, row.max_new_tokens or check.options.max_new_tokens, prompts)
    ANSWERS[row.name] = [answer["tokens"] for answer in answers]
    assert row.server is not None and row.server.facts is not None
    args = row.server.facts.args
    named = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens", "attention_backend")
    return {**figures_of(answers, int(row.tree.split("/")[0])), "args": {name: args.get(name) for name in named}}


def _look_at_trees(check: Check, row: Row, tokenizer: Any) -> dict[str, Any]:
    """Compare the records of the plugin with the answers."""
    feed = TreeFeed(row.socket)
    if not feed.open():
        raise RuntimeError("the plugin's socket does not answer")
    time.sleep(0.5)
    answers = ask(check, row, 96, check.prompts[:4])
    time.sleep(0.5)
    told = wrong = unlikely = scored = after = 0
    kept: list[dict[str, Any]] = []
    for answer in answers:
        position = 1
        while (record := feed.take(answer["rid"], 0.05)) is not None:
            told += 1
            kept.append(record)
            tree_step(record, 0, committed_tokens(record), lambda token: tokenizer.decode([token]))
            new = committed_tokens(record)
            if position >= len(answer["tokens"]):
                after += 1  # SGLang begins a step before it detects the end of the answer
                continue
            wrong += answer["tokens"][position : position + len(new)] != new[: len(answer["tokens"]) - position]
            unlikely += any(record["base_ranks"][node] != 0 for node in record["path"])
            scored += record["scores"][1] is not None
            position += len(new)
    feed.close()
    told_of = [{"rid": answer["rid"], "answer": answer["tokens"]} for answer in answers[:1]]
    (check.out / "trees.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (*told_of, *kept[:40])))
    steps = sum(int(answer["meta"].get("spec_verify_ct") or 0) for answer in answers)
    return {
        "verify_steps": steps,
        "records": told,
        "records that differ from the answer": wrong,
        "records after the end of an answer": after,
        "accepted nodes that were not the likeliest": unlikely,
        "with draft scores": scored,
        "dropped": feed.dropped,
        "example": kept[1] if len(kept) > 1 else None,
    }


def _frontend(check: Check, rows: list[Row]) -> dict[str, Any]:
    """The same prompts by SGLang's own frontend, counted as its MT-Bench script counts."""
    row = {each.name: each for each in ready_rows(rows)}["llama 5/4/7"]
    assert row.server is not None
    texts, result = check.out / "work" / "texts.json", check.out / "work" / "frontend.json"
    texts.write_text(json.dumps(check.texts))
    script = Path(__file__).with_name("frontend.py")
    command = [interpreter(SGLangSpec()), "-P", str(script), row.server.launch.url, str(texts), str(result)]
    environment = {**os.environ, **BUNDLE, "PYTHONPATH": check.options.sglang}
    done = subprocess.run(
        [*command, str(check.options.max_new_tokens)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    ours = check.report.get("server llama 5/4/7", {})
    return {
        "frontend": json.loads(result.read_text()),
        "ours": {key: ours.get(key) for key in ("tokens", "verify_steps")},
    }


def _left_behind() -> dict[str, Any]:
    """Whether a process of the servers still runs."""
    import psutil

    left = [process.cmdline()[:4] for process in psutil.Process().children(recursive=True)]
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return {"children": left, "gpu_memory_used_gib": round((total - free) / 2**30, 1)}


def _pack_logs(check: Check) -> None:
    """Write all logs to one compressed file, and remove the work folder."""
    with gzip.open(check.out / "logs.txt.gz", "wt") as packed:
        for log in sorted((check.out / "logs").glob("*.log")):
            packed.write(f"=== {log.name}\n{log.read_text(errors='replace')[-400_000:]}\n")
    shutil.rmtree(check.out / "logs", ignore_errors=True)
    shutil.rmtree(check.out / "work", ignore_errors=True)


def _table(check: Check) -> None:
    print(f"\n{'row':<36}{'tokens':>8}{'steps':>8}{'accept':>9}{'SGLang':>9}{'tok/s':>9}{'decode':>9}")
    for key, found in check.report.items():
        if not isinstance(found, dict) or not key.startswith(("server", "builtin", "engine")):
            continue
        if "error" in found or "left out" in found:
            print(f"{key:<36}{found.get('error') or found['left out']}"[:160])
            continue
        cells = (
            f"{found.get('tokens', '-'):>8}",
            f"{found.get('verify_steps', '-'):>8}",
            _cell(found.get("accept_length"), 3),
            _cell(found.get("sglang accept length"), 3),
            _cell(found.get("tokens_per_s"), 0),
            _cell(found.get("decode_tokens_per_s"), 0),
        )
        print(f"{key:<36}{''.join(cells)}")
    for key in ("overhead", "hooks", "trees", "frontend", "agreement", "left behind", "exchanges", "engine"):
        print(f"{key}: {short(check.report.get(key), 1500)}")
    print(f"took {time.monotonic() - check.started:.0f} s", flush=True)


def _cell(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
