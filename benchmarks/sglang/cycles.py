"""Milliseconds of a step or cycle of SGLang with random weights of given shapes, in SGLang's own interpreter.

    python cycles.py JOB.json RESULT.json

The job names folders of base and draft, the tree, and what to measure. With batch sizes and the length of prompts it
measures random weights of the shapes in `config.json`: a step's time is that of a long answer less that of a short one,
so that prefill and start are not in it; a cycle's is the same divided by the verify steps that SGLang counts. With
prompts it loads the weights and answers them one after the other. The program needs SGLang alone.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

SHORT = 32


def main(arguments: list[str]) -> int:
    """Command line of the module."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    from sglang import Engine, __version__

    options: dict[str, Any] = {
        "model_path": job["base"],
        "load_format": "auto" if job.get("prompts") else "dummy",
        "skip_tokenizer_init": True,
        "dtype": "bfloat16",
        "attention_backend": "triton",
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "mem_fraction_static": 0.5,
        "cuda_graph_max_bs_decode": max(job.get("rows", [1])),
        "disable_radix_cache": True,
    }
    if job.get("draft"):
        depth, top_k, nodes = (int(part) for part in job["tree"].split("/"))
        options |= {
            "speculative_algorithm": "EAGLE",
            "speculative_draft_model_path": job["draft"],
            "speculative_num_steps": depth,
            "speculative_eagle_topk": top_k,
            "speculative_num_draft_tokens": nodes,
        }
        if job.get("token_map"):
            options["speculative_token_map"] = job["token_map"]
    began = time.perf_counter()
    engine = Engine(**options)
    result: dict[str, Any] = {"version": __version__, "start_s": time.perf_counter() - began, "rows": {}}
    try:
        if job.get("prompts"):
            result["answers"] = _answers(engine, job)
        for rows in job.get("rows", []):
            measured = [_measure(engine, job, rows) for _ in range(3)]
            result["rows"][str(rows)] = sorted(measured)[1]
    finally:
        Path(arguments[1]).write_text(json.dumps(result), encoding="utf-8")
        engine.shutdown()
    return 0


def _answers(engine: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds, tokens and verify steps of every prompt, after a warm-up of three."""
    sampling = {"temperature": 0, "max_new_tokens": job["tokens"], "stop_token_ids": job.get("stop_ids")}
    answers = []
    for number, ids in enumerate([*job["prompts"][:3], *job["prompts"]]):
        at = time.perf_counter()
        answer = engine.generate(input_ids=ids, sampling_params=sampling)
        seconds = time.perf_counter() - at
        if number >= 3:
            facts = answer["meta_info"]
            steps = facts.get("spec_verify_ct") or facts["completion_tokens"]
            ids_out = answer.get("output_ids", [])
            answers.append({"seconds": seconds, "tokens": facts["completion_tokens"], "steps": steps, "ids": ids_out})
    return answers


def _measure(engine: Any, job: dict[str, Any], rows: int) -> float:
    prompts = [[random.randint(5, 8000) for _ in range(job["context"])] for _ in range(rows)]
    seconds, steps = [], []
    for tokens in (SHORT, job["tokens"]):
        sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
        at = time.perf_counter()
        answers = engine.generate(input_ids=prompts, sampling_params=sampling)
        seconds.append(time.perf_counter() - at)
        steps.append(max(answer["meta_info"].get("spec_verify_ct") or tokens for answer in answers))
    return 1e3 * (seconds[1] - seconds[0]) / (steps[1] - steps[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
