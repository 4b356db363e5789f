"""The measurement of SGLang's MT-Bench script with SGLang's frontend: run by SGLang's interpreter against a server.

    python frontend.py URL PROMPTS.json OUT.json MAX_NEW_TOKENS

`PROMPTS.json` is a list of texts with the chat template applied. Tokens and accept length are counted as that script
counts them (`benchmark/mtbench/bench_sglang_eagle.py`).
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportFunctionMemberAccess=false

import json
import sys
import time
from pathlib import Path

import sglang as sgl


@sgl.function
def answer(s, prompt, limit):
    s += prompt
    s += sgl.gen("answer", max_tokens=limit, temperature=0)


def main() -> None:
    url, prompts, out, limit = sys.argv[1:5]
    sgl.set_default_backend(sgl.RuntimeEndpoint(url))
    texts = json.loads(Path(prompts).read_text())
    started = time.perf_counter()
    states = answer.run_batch(  # pyright: ignore[reportFunctionMemberAccess] - the decorator adds it
        [{"prompt": text, "limit": int(limit)} for text in texts], temperature=0, num_threads=1, progress_bar=False
    )
    latency = time.perf_counter() - started
    metas = [state.get_meta_info("answer") for state in states]
    tokens = sum(meta["completion_tokens"] for meta in metas)
    steps = sum(meta.get("spec_verify_ct", 0) for meta in metas)
    figures = {
        "tokens": tokens,
        "verify_steps": steps,
        "accept_length": tokens / steps if steps else 1.0,
        "tokens_per_s": tokens / latency,
        "completion_tokens": [meta["completion_tokens"] for meta in metas],
    }
    Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
