"""Raw requests and answers of servers of SGLang, recorded as test data for a machine without a GPU."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from benchmarks.sglang_matrix import Check, Row, ready_rows


def record_exchanges(check: Check, rows: list[Row]) -> dict[str, Any]:
    """Raw requests and answers, as test data for a machine without a GPU."""
    ready = {row.name: row for row in ready_rows(rows)}
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
