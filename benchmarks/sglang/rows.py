"""The rows of the check, its report, and how a row answers prompts."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from hetspec_core.acceptance import AcceptStats
from hetspec_core.files import write_atomic
from hetspec_core.sglang.client import sampling_params
from hetspec_core.sglang.servers import SGLangServer
from hetspec_core.sglang.stream import step_counts
from hetspec_core.spec import DecodingSpec


@dataclass
class Row:
    """One server of the matrix. `questions` and `max_new_tokens` are its own limits; 0 = those of the check."""

    name: str
    tree: str
    draft: str = ""
    dtype: str = "bfloat16"
    trees: bool = False
    flags: tuple[str, ...] = ()
    questions: int = 0
    max_new_tokens: int = 0
    server: SGLangServer | None = None
    socket: str = ""
    ready_s: float = 0.0
    error: str = ""


@dataclass
class Check:
    """Options and report of a check."""

    options: argparse.Namespace
    out: Path
    report: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    prompts: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def note(self, key: str, value: Any) -> None:
        """Add an entry to the report, and write the report."""
        self.report[key] = value
        write_atomic(self.out / "report.json", json.dumps(self.report, indent=1, default=str).encode())
        print(f"[{time.monotonic() - self.started:5.0f} s] {key}: {short(value)}", flush=True)

    def left_s(self) -> float:
        """Seconds that are left for the check."""
        return self.options.budget_s - (time.monotonic() - self.started)

    def attempt(self, key: str, action: Callable[[], Any], least_s: float = 0.0) -> Any:
        """Run an action, and add its result or its error to the report."""
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


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Device of the built-in decoding; servers choose their own."""

ANSWERS: dict[str, list[list[int]]] = {}


def ready_rows(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.server is not None and not row.error]


@contextlib.contextmanager
def alone(rows: list[Row], *wanted: Row) -> Iterator[None]:
    """Suspend all other servers: an idle scheduler of SGLang keeps a core busy, which slows the others."""
    stopped: list[psutil.Process] = []
    for row in ready_rows(rows):
        if row in wanted or row.server is None or row.server.pid is None:
            continue
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(row.server.pid)
            stopped += [process, *process.children(recursive=True)]
    for process in stopped:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.Error):
                process.resume()


def ask(check: Check, row: Row, limit: int, prompts: list[list[int]] | None = None) -> list[dict[str, Any]]:
    """Answer all prompts one after another."""
    assert row.server is not None
    decoding = DecodingSpec(max_new_tokens=limit)
    answers = []
    for number, prompt in enumerate(check.prompts if prompts is None else prompts):
        tokens: list[int] = []
        meta: dict[str, Any] = {}
        growth: list[int] = []
        times: list[float] = []
        began = time.perf_counter()
        first_s = 0.0
        name = f"{row.name[:3]}{number}-{time.monotonic_ns()}"
        params = sampling_params(decoding.sampling, limit, ignore_eos=False)
        for chunk in row.server.client.generate(prompt, params, request_id=name):
            first_s = first_s or time.perf_counter() - began
            tokens += chunk.tokens
            growth.append(len(chunk.tokens))
            times.append(time.perf_counter() - began)
            meta = chunk.meta
        took = time.perf_counter() - began
        answers.append(
            {
                "tokens": tokens,
                "meta": meta,
                "growth": growth,
                "times": times,
                "s": took,
                "first_s": first_s,
                "rid": name,
            }
        )
    return answers


def figures_of(answers: list[dict[str, Any]], depth: int) -> dict[str, Any]:
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


def short(value: Any, length: int = 220) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= length else f"{text[:length]}..."
