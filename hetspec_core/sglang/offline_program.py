"""The program that runs SGLang's offline engine over a list of prompts, in a process of SGLang's interpreter.

    python -m hetspec_core.sglang.offline_program JOB.json RESULT.json

The job has the words of SGLang's command line, prompts as token ids, sampling and batch sizes. The result is rewritten
after every batch size, so that a crash does not lose what was measured. The program needs SGLang and the standard
library.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> int:
    """Command line of the module."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    result: dict[str, Any] = {"batches": []}
    from sglang import Engine, __version__
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    result["version"] = __version__
    began = time.perf_counter()
    load_plugins()  # before the words are parsed, as a server does
    engine = Engine(server_args=prepare_server_args(job["words"]))
    result["start_s"] = time.perf_counter() - began
    try:
        info = engine.get_server_info()
        kept = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
        kept = (*kept, "attention_backend", "dtype")
        result["server"] = {name: info.get(name) for name in kept}
        print(f"measured 0 of {len(job['batch_sizes'])}", flush=True)  # HetSpec reads the progress from the log
        for number, size in enumerate(job["batch_sizes"], start=1):
            result["batches"].append(_measure(engine, job, int(size)))
            _write(Path(arguments[1]), result)
            print(f"measured {number} of {len(job['batch_sizes'])}", flush=True)
    finally:
        engine.shutdown()
    return 0


def _measure(engine: Any, job: dict[str, Any], size: int) -> dict[str, Any]:
    """Answer all prompts, `size` at a time, after a warm-up of that size, which compiles kernels."""
    prompts, sampling = job["prompts"], job["sampling"]
    for _ in range(int(job["warmup"])):
        engine.generate(input_ids=prompts[:size], sampling_params={**sampling, "max_new_tokens": 16})
    engine.flush_cache()
    answers: list[dict[str, Any]] = []
    began = time.perf_counter()
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        at = time.perf_counter()
        outputs = engine.generate(input_ids=part, sampling_params=sampling)
        took = time.perf_counter() - at
        for output in outputs:
            answers.append({"tokens": output["output_ids"], "meta": _plain(output["meta_info"]), "batch_s": took})
    return {"batch_size": size, "total_s": time.perf_counter() - began, "answers": answers}


def _plain(meta: dict[str, Any]) -> dict[str, Any]:
    """The figures of an answer that JSON can hold."""
    return {key: value for key, value in meta.items() if isinstance(value, str | int | float | list | dict | None)}


def _write(file: Path, result: dict[str, Any]) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(result, default=str), encoding="utf-8")
    os.replace(part, file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
