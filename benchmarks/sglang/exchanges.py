"""Raw requests and answers of servers of SGLang, recorded as test data for a machine without a GPU.

    python -m benchmarks.sglang.exchanges FILE.jsonl.gz NAME=PORT [NAME=PORT ...] --prompts FILE

records running servers of this machine, without the paths of their models; `check` records the servers that it starts.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.sglang.rows import Check, Row, ready_rows
from hetspec_core.config import resolve
from hetspec_core.files import write_atomic

RECIPE = "smollm2-llama-eagle"


def record_exchanges(check: Check, rows: list[Row]) -> dict[str, Any]:
    """Raw requests and answers, as test data for a machine without a GPU."""
    ready = {row.name: row for row in ready_rows(rows)}
    lines: list[str] = []
    for name in ("plain", "llama 6/10/59 with the plugin", "llama 3/1/3"):
        if name in ready:
            server = ready[name].server
            assert server is not None
            lines += _recorded(name, server.launch.port, check.prompts[0][:64])
    _write(check.out / "exchanges.jsonl.gz", lines)
    return {"exchanges": len(lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("servers", nargs="+", metavar="NAME=PORT")
    parser.add_argument("--prompts", type=Path, required=True)
    options = parser.parse_args()
    prompt = _prompt(options.prompts)
    lines: list[str] = []
    for server in options.servers:
        name, _, port = server.rpartition("=")
        lines += _recorded(name, int(port), prompt)
    _write(options.file, lines)
    print(f"{len(lines)} exchanges in {options.file}")
    return 0


def _recorded(name: str, port: int, prompt: list[int]) -> list[str]:
    """The exchanges of one server as lines, without the directories of this machine."""
    facts = json.loads(_exchange(port, "GET", "/server_info", None)["lines"][0][1])
    lines = []
    for method, path, body in _requests(prompt):
        line = json.dumps({"server": name, "version": facts["version"], **_exchange(port, method, path, body)})
        for key, shown in (("speculative_draft_model_path", "/models/draft"), ("model_path", "/models/base")):
            if facts.get(key):
                line = line.replace(facts[key], shown)
        lines.append(line)
    return lines


def _write(file: Path, lines: list[str]) -> None:
    write_atomic(file, gzip.compress("".join(f"{line}\n" for line in lines).encode(), 9, mtime=0))


def _prompt(file: Path) -> list[int]:
    """The first question, with the recipe's template."""
    from hetspec_core.engine.data.chat import ChatTemplate
    from hetspec_core.engine.data.conversation import Message
    from hetspec_core.engine.modeling.base_lm import load_tokenizer
    from hetspec_core.engine.stages.inputs import read_prompts
    from hetspec_core.spec import BenchSpec

    base = resolve(RECIPE, stage="bench").spec.base
    assert base is not None
    tokenizer = load_tokenizer(base)
    template = ChatTemplate.for_tokenizer(tokenizer, base.chat_template)
    question = read_prompts(BenchSpec(prompts=f"{file}:1")).conversations[0].user_turns[0]
    return template.encode([Message("user", question)], add_generation_prompt=True).input_ids[:64]


def _requests(prompt: list[int]) -> list[tuple[str, str, Any]]:
    """What HetSpec asks of a server, and what a server refuses."""
    greedy = {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": False}
    stream = {"input_ids": prompt, "sampling_params": greedy, "stream": True, "rid": "recorded"}
    logprob = {"input_ids": prompt, "sampling_params": {"temperature": 0.0, "max_new_tokens": 1}}
    return [
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


if __name__ == "__main__":
    sys.exit(main())
