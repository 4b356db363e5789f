"""SGLang's offline engine that computes nothing; a copy of it is `sglang.offline` of a fake site.

Answers are those of `sglang_server.py`: token number i is 5 + i, and with a draft steps commit 1, 3, 2, 1, 3... tokens.
`FAKE_SGLANG=die_at_start` ends it, `die_at_two` ends it when two prompts come at once. What it has of the real one was
seen in SGLang 0.5.17. Standard library only.
"""

from __future__ import annotations

import os
import time
from typing import Any

RUNS = (1, 3, 2)
TOKEN_S = 0.002  # of a whole batch


class Engine:
    """Takes what `sglang.srt.server_args.prepare_server_args` has read.

    Args:
        server_args: `model_path`, `dtype`, `speculative_*` and the like by name.
    """

    def __init__(self, *, server_args: dict[str, Any]) -> None:
        print("[2026-11-24 12:00:00] server_args=ServerArgs(enable_torch_compile=False)", flush=True)
        if os.environ.get("FAKE_SGLANG") == "die_at_start":
            raise ValueError("no such model")
        self.arguments = server_args

    def get_server_info(self) -> dict[str, Any]:
        return {"version": "0.5.17", "attention_backend": "fake", **self.arguments}

    def flush_cache(self) -> None: ...

    def shutdown(self) -> None: ...

    def generate(self, *, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> list[dict[str, Any]]:
        assert all(isinstance(token, int) for prompt in input_ids for token in prompt)
        total = int(sampling_params["max_new_tokens"])
        if os.environ.get("FAKE_SGLANG") == "die_at_two" and len(input_ids) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        time.sleep(total * TOKEN_S)
        return [self._answer(total) for _ in input_ids]

    def _answer(self, total: int) -> dict[str, Any]:
        meta: dict[str, Any] = {"completion_tokens": total, "finish_reason": {"type": "length", "length": total}}
        if "speculative_algorithm" in self.arguments:
            runs: list[int] = []
            while sum(runs) < total - 1:
                runs.append(min(RUNS[len(runs) % 3], self.arguments["speculative_num_steps"] + 1))
            histogram = [runs.count(length + 1) for length in range(max([1, *runs]))]
            meta |= {"spec_verify_ct": len(runs), "spec_correct_drafts_histogram": histogram}
        return {"text": "", "output_ids": [5 + number for number in range(total)], "meta_info": meta}
