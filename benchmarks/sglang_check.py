"""SGLang on a GPU, in one go: servers, engine and built-in decoding over one matrix of drafts and trees.

    python -m benchmarks.sglang_check --out DIR --sglang DIR_OF_BUNDLE [--draft DIR] [--prompts FILE] [--questions 10]

Everything of a server but its answers goes through HetSpec's own backend. A row that fails is noted and the rest goes
on; the report is written anew after every row: `report.json`, the servers' logs, `exchanges.jsonl` (requests, and every
line of the answers with its time), `trees.jsonl` (records of the tree plugin). Called by `scripts/gpu_sglang_check.sh`.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.sglang_drafts import as_mixture, as_qwen3
from hetspec_core.acceptance import AcceptStats
from hetspec_core.config import resolve
from hetspec_core.engine.backends.sglang_client import sampling_params
from hetspec_core.engine.backends.sglang_counts import step_counts
from hetspec_core.engine.backends.sglang_export import ServedDraft
from hetspec_core.engine.backends.sglang_fleet import Fleet
from hetspec_core.engine.backends.sglang_launch import interpreter
from hetspec_core.engine.backends.sglang_server import SGLangServer
from hetspec_core.engine.backends.sglang_trees import TreeFeed, committed_tokens, tree_step
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.stages.bench import read_prompts
from hetspec_core.paths import write_atomic
from hetspec_core.spec import BenchSpec, DecodingSpec, ResourcesSpec, SGLangSpec, TreeSpec

RECIPE = "smollm2-llama-eagle"
TREES = ("3/1/3", "5/4/7", "6/10/59")
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


@dataclass
class Row:
    """One server of the matrix."""

    name: str
    tree: str
    draft: str = ""
    dtype: str = "bfloat16"
    trees: bool = False
    server: SGLangServer | None = None
    socket: str = ""
    ready_s: float = 0.0
    error: str = ""


@dataclass
class Check:
    """What all rows share."""

    options: argparse.Namespace
    out: Path
    report: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    prompts: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def note(self, key: str, value: Any) -> None:
        """Put a finding into the report, and the report on disk."""
        self.report[key] = value
        write_atomic(self.out / "report.json", json.dumps(self.report, indent=1, default=str).encode())
        print(f"[{time.monotonic() - self.started:5.0f} s] {key}: {_short(value)}", flush=True)

    def left_s(self) -> float:
        """Seconds that are left of the whole check."""
        return self.options.budget_s - (time.monotonic() - self.started)

    def attempt(self, key: str, action: Callable[[], Any], least_s: float = 0.0) -> Any:
        """Do something, note what came of it or why nothing did."""
        if self.left_s() < least_s:
            self.note(key, {"left out": f"{self.left_s():.0f} s were left"})
            return None
        try:
            found = action()
        except Exception as error:
            self.note(key, {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]})
            return None
        self.note(key, found)
        return found


def main() -> int:
    check = _begin()
    spec = resolve(RECIPE, stage="bench").spec
    from hetspec_core.engine.modeling.base_lm import load_tokenizer

    tokenizer = load_tokenizer(spec.base)
    template = ChatTemplate.for_tokenizer(tokenizer, spec.base.chat_template)
    for conversation in read_prompts(BenchSpec(prompts=f"{check.options.prompts}:{check.options.questions}")):
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        check.prompts.append(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids)
        check.texts.append(tokenizer.decode(check.prompts[-1]))
    check.note("prompts", {"questions": len(check.prompts), "tokens": sum(map(len, check.prompts))})
    drafts = _drafts(check)
    fleet = _fleet(check, spec.base, check.out / "work")
    rows = [
        Row("plain", "1/1/1"),
        Row("llama 6/10/59", "6/10/59", "llama"),
        Row("llama 6/10/59 with the plugin", "6/10/59", "llama", trees=True),
        Row("llama 5/4/7", "5/4/7", "llama"),
        Row("llama 3/1/3", "3/1/3", "llama"),
        Row("qwen3 6/10/59", "6/10/59", "qwen3"),
        Row("qwen3-moe 6/10/59", "6/10/59", "qwen3_moe"),
        Row("plain float32", "1/1/1", dtype="float32"),
        Row("llama 5/4/7 float32", "5/4/7", "llama", dtype="float32"),
    ]
    try:
        builtin = threading.Thread(target=lambda: _builtin(check, spec.base, drafts), daemon=True)
        _start(check, fleet, rows[:2], drafts)
        builtin.start()
        _wait(check, rows[:2])
        _start(check, fleet, rows[2:], drafts)
        _wait(check, rows[2:])
        builtin.join(timeout=max(1.0, check.left_s() - 120))
        _measure(check, rows, tokenizer)
        check.attempt("overhead", lambda: _overhead(check, rows), 30)
        check.attempt("frontend", lambda: _frontend(check, rows), 15)
        check.attempt("exchanges", lambda: _record_exchanges(check, rows), 5)
    finally:
        for row in rows:
            if row.server is not None:
                row.server.stop(grace_s=3.0)
    check.attempt("left behind", lambda: _left_behind(), 0)
    if check.options.engine:
        check.attempt("engine", lambda: _engine(check, fleet, drafts["llama"]), 80)
    _agreement(check)
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
    return found


def _fleet(check: Check, base: Any, folder: Path) -> Fleet:
    spec = SGLangSpec(python_path=check.options.sglang, environment=BUNDLE if check.options.sglang else {}, flags=FLAGS)
    fleet = Fleet(spec, base, ResourcesSpec(dtype="bfloat16"), folder=folder, logs=check.out / "logs")
    check.note("sglang", fleet.version)
    return fleet


# --- servers ---------------------------------------------------------------------------------------------------------


def _start(check: Check, fleet: Fleet, rows: list[Row], drafts: dict[str, Path]) -> None:
    """Start these servers at once; the main thread does, because the kernel ends them with the thread that did."""
    for row in rows:
        try:
            fleet.resources = ResourcesSpec.model_validate({"dtype": row.dtype})
            served: ServedDraft | None = fleet.export(drafts[row.draft]) if row.draft else None
            row.socket = f"/tmp/hetspec-{os.getpid()}-{abs(hash(row.name)) % 10**6}" if row.trees else ""
            launch = fleet.plan(served, TreeSpec.parse(row.tree), trees_socket=row.socket)
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
        told = row.server.told.classes if row.server is not None else ()
        found = {"ready_s": round(row.ready_s, 1), "steps": steps, "classes": told, "error": row.error}
        check.note(f"start of {row.name}", found)

    threads = [threading.Thread(target=wait, args=(row, time.monotonic())) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ready(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.server is not None and not row.error]


def _ask(check: Check, row: Row, limit: int, prompts: list[list[int]] | None = None) -> list[dict[str, Any]]:
    """Answer all prompts one after another."""
    assert row.server is not None
    decoding = DecodingSpec(max_new_tokens=limit)
    answers = []
    for number, prompt in enumerate(check.prompts if prompts is None else prompts):
        tokens: list[int] = []
        meta: dict[str, Any] = {}
        growth: list[int] = []
        began = time.perf_counter()
        first_s = 0.0
        name = f"{row.name[:3]}{number}-{time.monotonic_ns()}"
        params = sampling_params(decoding.sampling, limit, ignore_eos=False)
        for chunk in row.server.client.generate(prompt, params, request_id=name):
            first_s = first_s or time.perf_counter() - began
            tokens += chunk.tokens
            growth.append(len(chunk.tokens))
            meta = chunk.meta
        took = time.perf_counter() - began
        answers.append({"tokens": tokens, "meta": meta, "growth": growth, "s": took, "first_s": first_s, "rid": name})
    return answers


def _figures(answers: list[dict[str, Any]], depth: int) -> dict[str, Any]:
    tokens = sum(len(answer["tokens"]) for answer in answers)
    steps = sum(int(answer["meta"].get("spec_verify_ct") or 0) for answer in answers)
    counts = [count for answer in answers for count in step_counts(answer["meta"], len(answer["tokens"]), depth)]
    stats = AcceptStats(counts)
    decode_s = sum(answer["s"] - answer["first_s"] for answer in answers)
    return {
        "tokens": tokens,
        "meta tokens": sum(int(answer["meta"].get("completion_tokens") or 0) for answer in answers),
        "verify_steps": steps,
        "tokens_per_s": tokens / sum(answer["s"] for answer in answers),
        "decode_tokens_per_s": (tokens - len(answers)) / decode_s if decode_s else None,
        "first_token_ms": 1e3 * statistics.median(answer["first_s"] for answer in answers),
        "sglang accept length": tokens / steps if steps else None,
        "accept_length": stats.accept_length,
        "histogram": stats.histogram,
        "growth steps": sum(len([size for size in answer["growth"] if size]) - 1 for answer in answers),
        "growth sizes": sorted({size for answer in answers for size in answer["growth"]}),
        "last meta": answers[-1]["meta"],
    }


ANSWERS: dict[str, list[list[int]]] = {}


def _measure(check: Check, rows: list[Row], tokenizer: Any) -> None:
    for row in _ready(rows):
        check.attempt(f"server {row.name}", lambda row=row: _measure_row(check, row), 40)
        if row.trees:
            check.attempt("trees", lambda row=row: _look_at_trees(check, row, tokenizer), 10)


def _measure_row(check: Check, row: Row) -> dict[str, Any]:
    _ask(check, row, 24, check.prompts[:2])
    answers = _ask(check, row, check.options.max_new_tokens)
    ANSWERS[row.name] = [answer["tokens"] for answer in answers]
    assert row.server is not None and row.server.facts is not None
    args = row.server.facts.args
    named = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens", "attention_backend")
    return {**_figures(answers, int(row.tree.split("/")[0])), "args": {name: args.get(name) for name in named}}


def _overhead(check: Check, rows: list[Row]) -> dict[str, Any]:
    """Tokens per second without the plugin, with it and nobody looking, and with a viewer; in turns."""
    ready = {row.name: row for row in _ready(rows)}
    bare, hooked = ready["llama 6/10/59"], ready["llama 6/10/59 with the plugin"]
    found: dict[str, list[float]] = {"without": [], "nobody looks": [], "viewer": []}
    for _ in range(5):
        for label, row in (("without", bare), ("nobody looks", hooked), ("viewer", hooked)):
            feed = TreeFeed(row.socket) if label == "viewer" else None
            if feed is not None and not feed.open():
                raise RuntimeError("the plugin's socket does not answer")
            time.sleep(0.5)  # the publisher looks for viewers a few times a second
            answers = _ask(check, row, 128, check.prompts[:6])
            if feed is not None:
                feed.close()
            found[label].append(sum(len(each["tokens"]) for each in answers) / sum(each["s"] for each in answers))
    middle = {label: statistics.median(values) for label, values in found.items()}
    return {
        "tokens_per_s": found,
        "median": middle,
        "cost nobody looks": 1 - middle["nobody looks"] / middle["without"],
        "cost viewer": 1 - middle["viewer"] / middle["without"],
    }


def _look_at_trees(check: Check, row: Row, tokenizer: Any) -> dict[str, Any]:
    """Hold the plugin's records against the answers they belong to."""
    feed = TreeFeed(row.socket)
    if not feed.open():
        raise RuntimeError("the plugin's socket does not answer")
    time.sleep(0.5)
    answers = _ask(check, row, 96, check.prompts[:4])
    time.sleep(0.5)
    told = wrong = unlikely = scored = 0
    kept: list[dict[str, Any]] = []
    for answer in answers:
        position = 1
        while (record := feed.take(answer["rid"], 0.05)) is not None:
            told += 1
            kept.append(record)
            tree_step(record, 0, committed_tokens(record), lambda token: tokenizer.decode([token]))
            new = committed_tokens(record)
            wrong += answer["tokens"][position : position + len(new)] != new[: len(answer["tokens"]) - position]
            unlikely += any(record["base_ranks"][node] != 0 for node in record["path"])
            scored += record["scores"][1] is not None
            position += len(new)
    feed.close()
    (check.out / "trees.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept[:40]))
    steps = sum(int(answer["meta"].get("spec_verify_ct") or 0) for answer in answers)
    return {
        "verify_steps": steps,
        "records": told,
        "records that differ from the answer": wrong,
        "accepted nodes that were not the likeliest": unlikely,
        "with draft scores": scored,
        "dropped": feed.dropped,
        "example": kept[1] if len(kept) > 1 else None,
    }


def _frontend(check: Check, rows: list[Row]) -> dict[str, Any]:
    """The same prompts through SGLang's own frontend, counted as its MT-Bench script counts."""
    row = {each.name: each for each in _ready(rows)}["llama 5/4/7"]
    assert row.server is not None
    texts, result = check.out / "work" / "texts.json", check.out / "work" / "frontend.json"
    texts.write_text(json.dumps(check.texts))
    script = Path(__file__).with_name("sglang_frontend.py")
    command = [interpreter(SGLangSpec()), str(script), row.server.launch.url, str(texts), str(result)]
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


def _record_exchanges(check: Check, rows: list[Row]) -> dict[str, Any]:
    """Raw requests and answers, as test data for a machine without a GPU."""
    ready = {row.name: row for row in _ready(rows)}
    written = 0
    with (check.out / "exchanges.jsonl").open("w") as file:
        for name in ("plain", "llama 6/10/59 with the plugin", "llama 3/1/3"):
            if name not in ready:
                continue
            row = ready[name]
            prompt, greedy = check.prompts[0][:64], {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": False}
            stream = {"input_ids": prompt, "sampling_params": greedy, "stream": True, "rid": "recorded"}
            logprob = {"input_ids": prompt, "sampling_params": {"temperature": 0.0, "max_new_tokens": 1}}
            requests: list[tuple[str, str, Any]] = [
                ("GET", "/model_info", None),
                ("GET", "/server_info", None),
                ("GET", "/health_generate", None),
                ("POST", "/generate", stream),
                ("POST", "/generate", {key: value for key, value in stream.items() if key not in ("stream", "rid")}),
                ("POST", "/generate", {**logprob, "return_logprob": True, "top_logprobs_num": 2}),
                ("POST", "/generate", {"input_ids": [1] * 5000, "sampling_params": greedy, "stream": True}),
                ("POST", "/generate", {"input_ids": prompt, "sampling_params": {"temperature": -1}}),
                ("POST", "/abort_request", {"rid": "nobody"}),
                ("POST", "/flush_cache", {}),
                ("GET", "/no_such_path", None),
            ]
            assert row.server is not None and row.server.facts is not None
            for method, path, body in requests:
                exchange = _exchange(row.server.launch.port, method, path, body)
                about = {"server": name, "version": row.server.facts.version}
                file.write(json.dumps({**about, **exchange}) + "\n")
                written += 1
    return {"exchanges": written}


def _exchange(port: int, method: str, path: str, body: Any) -> dict[str, Any]:
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    found: dict[str, Any] = {"method": method, "path": path, "body": body}
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        found |= {"status": response.status, "headers": dict(response.getheaders())}
        lines = []
        while line := response.readline():
            lines.append([round(time.perf_counter() - began, 4), line.decode(errors="replace")])
        found["lines"] = lines
    except (OSError, http.client.HTTPException) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return found


def _left_behind() -> dict[str, Any]:
    """Whether anything of the servers still runs."""
    import psutil

    left = [process.cmdline()[:4] for process in psutil.Process().children(recursive=True)]
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return {"children": left, "gpu_memory_used_gib": round((total - free) / 2**30, 1)}


# --- engine and built-in ---------------------------------------------------------------------------------------------


def _engine(check: Check, fleet: Fleet, draft: Path) -> dict[str, Any]:
    from hetspec_core.engine.backends.sglang_engine_link import EngineJob, run_engine

    job = EngineJob(
        spec=fleet.spec.model_copy(update={"batch_sizes": (1, 8)}),
        base=fleet.base_folder,
        served=fleet.export(draft),
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


def _builtin(check: Check, base_spec: Any, drafts: dict[str, Path]) -> None:
    """Accept lengths of HetSpec's own decoding, while servers start; so its speeds say little."""
    prompts = check.prompts[: check.options.questions]
    for dtype in ("float32", "bfloat16"):
        try:
            device = torch.device("cuda")
            base = BaseLM.load(base_spec, device=device, dtype=getattr(torch, dtype))
        except Exception as error:
            check.note(f"builtin {dtype}", {"error": str(error)})
            continue
        ways = [("plain", "", "1/1/1")]
        ways += [("llama", "llama", "5/4/7")]
        if dtype == "bfloat16":
            ways += [("llama", "llama", tree) for tree in ("3/1/3", "6/10/59")]
            ways += [("qwen3", "qwen3", "6/10/59"), ("qwen3_moe", "qwen3_moe", "6/10/59")]
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


def _agreement(check: Check) -> None:
    """Where answers of two ways part first."""
    pairs = (
        ("builtin plain float32", "plain float32"),
        ("builtin llama 5/4/7 float32", "llama 5/4/7 float32"),
        ("builtin plain float32", "llama 5/4/7 float32"),
        ("plain float32", "llama 5/4/7 float32"),
        ("builtin plain bfloat16", "plain"),
        ("plain", "llama 6/10/59"),
        ("llama 5/4/7", "engine, 1 at once"),
        ("llama 6/10/59", "llama 6/10/59 with the plugin"),
    )
    found = {}
    for one, other in pairs:
        if one in ANSWERS and other in ANSWERS:
            firsts = [_first_difference(a, b) for a, b in zip(ANSWERS[one], ANSWERS[other])]
            same = sum(first is None for first in firsts)
            found[f"{one} = {other}"] = {"identical": same, "of": len(firsts), "first differences": firsts}
    check.note("agreement", found)


def _first_difference(one: list[int], other: list[int]) -> int | None:
    for at, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return at
    return None if len(one) == len(other) else min(len(one), len(other))


# --- writing ---------------------------------------------------------------------------------------------------------


def _pack_logs(check: Check) -> None:
    """One compressed file of all logs, and nothing of the work folder: few files are kept."""
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
    for key in ("overhead", "trees", "frontend", "agreement", "left behind", "exchanges", "engine"):
        print(f"{key}: {_short(check.report.get(key), 700)}")
    print(f"took {time.monotonic() - check.started:.0f} s", flush=True)


def _cell(value: float | None, digits: int) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.{digits}f}"


def _short(value: Any, length: int = 220) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= length else f"{text[:length]}..."


if __name__ == "__main__":
    sys.exit(main())
