"""A server that speaks as SGLang does and computes nothing; a copy of it is `sglang.launch_server` of a fake site.

`FAKE_SGLANG` says what it does: `well`, `slow`, `die_at_start`, `die_once`, `die_midstream`, `cut`, `malformed`,
`no_ids`, `error`, `deaf`, `old`, `other_model`, `wrong_class`, `mute` (the log names no class), `lumps` (a message
brings two steps, as with --stream-interval). Like the real one it refuses what could overrun its context, drafts
counted in, and whoever lacks its `--api-key`. Token number i of an answer is 5 + i; with a draft, steps commit 1, 3, 2,
1, 3, 2... tokens. It imports the standard library only, but for the tree plugin's own publisher.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RUNS = (1, 3, 2)
MODES = os.environ.get("FAKE_SGLANG", "well").split(",")


def mode(name: str) -> bool:
    return name in MODES


def flag(name: str, default: str = "") -> str:
    words = sys.argv[1:]
    return words[words.index(name) + 1] if name in words else default


CONTEXT = 500
SPECULATES = bool(flag("--speculative-algorithm"))
STEPS = int(flag("--speculative-num-steps", "3"))
RESERVED = max(STEPS * int(flag("--speculative-eagle-topk", "1")), int(flag("--speculative-num-draft-tokens", "4")))
RESERVED *= SPECULATES
PUBLISHER = None


def log(text: str) -> None:
    print(f"[2026-11-24 12:00:00] {text}", flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self._locked() and not self.path.startswith("/health"):
            self._json({"error": "Unauthorized"}, status=401)
        elif self.path == "/model_info":
            name = "QwenForCausalLM" if mode("other_model") else "LlamaForCausalLM"
            self._json({"model_path": flag("--model-path"), "architectures": [name]})
        elif self.path == "/server_info":
            version = "0.4.9" if mode("old") else "0.5.17"
            found: dict[str, object] = {"version": version, "context_length": None, "max_req_input_len": CONTEXT}
            found["dtype"] = flag("--dtype", "auto")
            if SPECULATES:
                found |= {
                    "speculative_draft_model_path": flag("--speculative-draft-model-path"),
                    "speculative_algorithm": flag("--speculative-algorithm"),
                    "speculative_num_steps": STEPS,
                    "speculative_eagle_topk": int(flag("--speculative-eagle-topk", "1")),
                    "speculative_num_draft_tokens": int(flag("--speculative-num-draft-tokens", "4")),
                }
            self._json(found)
        elif self.path == "/health_generate":
            self._say(200, "", "text/plain")
        else:
            self._json({"detail": "Not Found"}, status=404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self._locked():
            self._json({"error": "Unauthorized"}, status=401)
            return
        if self.path != "/generate":
            said = "Cache flushed.\n" if self.path == "/flush_cache" else ""
            self._say(200, said, "text/html; charset=utf-8")
            return
        if mode("error") or body.get("sampling_params", {}).get("temperature", 0.0) < 0:
            self._json({"error": {"message": "bad request"}}, status=400)
            return
        if body.get("return_logprob"):
            self._json({"output_ids": [5], "meta_info": {"output_top_logprobs": [[[-0.5, 5, None], [-0.75, 6, None]]]}})
            return
        needed = len(body["input_ids"]) + RESERVED
        if needed >= CONTEXT:
            answer = [{"error": {"message": "The input is longer than the model's context length"}}]
        elif needed + body["sampling_params"]["max_new_tokens"] > CONTEXT:
            answer = [{"error": {"message": "Requested token count exceeds the model's maximum context length"}}]
        else:
            answer = list(self._pieces(body))
            if mode("lumps"):
                answer = [answer[0], *answer[2:-1:2], answer[-1]]
        if not body.get("stream"):
            self._json(answer[-1])
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, piece in enumerate(answer):
            if number == 2:
                if mode("die_midstream"):
                    print("RuntimeError: the fake fell over", flush=True)
                    os._exit(7)
                if mode("malformed"):
                    self._chunk(b"data: {not json\n\n")
                if mode("no_ids"):
                    self._chunk(b'data: {"text": "hm"}\n\n')
                if mode("cut"):
                    self.close_connection = True
                    self._chunk(b"")
                    return
                if mode("deaf"):
                    time.sleep(30)
            self._chunk(b"data: " + json.dumps(piece).encode() + b"\n\n")
            time.sleep(0.002)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _locked(self) -> bool:
        key = flag("--api-key")
        return bool(key) and self.headers.get("Authorization") != f"Bearer {key}"

    def _pieces(self, body: dict) -> object:
        limit = body["sampling_params"]["max_new_tokens"]
        stop = set() if body["sampling_params"].get("ignore_eos") else {5 + 11}
        total = next((i + 1 for i in range(limit) if 5 + i in stop), limit)
        ended = "stop" if total < limit or 5 + total - 1 in stop else "length"
        sizes, runs = [1], []
        while sum(sizes) < total:
            run = min(RUNS[len(runs) % 3], STEPS + 1) if SPECULATES else 1
            runs.append(run)
            sizes.append(min(run, total - sum(sizes)))
        for number in range(len(sizes)):
            tokens = [5 + i for i in range(sum(sizes[: number + 1]))]
            meta: dict[str, object] = {
                "id": body.get("rid", "x"),
                "completion_tokens": len(tokens),
                "finish_reason": None,
            }
            if number and SPECULATES and PUBLISHER is not None:
                self._publish(str(body.get("rid")), tokens[: len(tokens) - sizes[number]], runs[number - 1])
            if number == len(sizes) - 1:
                meta["finish_reason"] = {"type": ended}
                if SPECULATES:
                    histogram = [sum(run - 1 == length for run in runs) for length in range(max([1, *runs]))]
                    meta |= {"spec_verify_ct": len(runs), "spec_correct_drafts_histogram": histogram}
            yield {"text": "", "output_ids": tokens, "meta_info": meta}

    def _publish(self, rid: str, before: list[int], run: int) -> None:
        """A chain of three nodes of which `run - 1` are right."""
        nxt = 5 + len(before)
        tokens = [before[-1], *(nxt + i if i < run - 1 else 0 for i in range(3))]
        record = {
            "v": 1,
            "rid": rid,
            "at": time.time(),
            "dropped": 0,
            "tokens": tokens,
            "parents": [0, 0, 1, 2],
            "base_ranks": [0, 0, 1, 2],
            "scores": [1.0, 0.5, 0.25, 0.125],
            "base_probs": [1.0, 0.9, 0.8, 0.7],
            "path": list(range(1, run)),
            "bonus": nxt + run - 1,
            "bonus_prob": 0.5,
            "kv_tokens": 10 + len(before),
        }
        PUBLISHER.put(lambda: [record])  # type: ignore[attr-defined]

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, found: object, status: int = 200) -> None:
        self._say(status, json.dumps(found), "application/json")

    def _say(self, status: int, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Without the look-up of this machine's name, which may take seconds."""

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "fake", self.server_address[1]


def main() -> None:
    global PUBLISHER
    log("server_args=ServerArgs(model_path='m', enable_torch_compile=False, tc_compiler='eager')")
    if mode("die_at_start") or (mode("die_once") and not Path(os.environ["FAKE_MARK"]).exists()):
        if mode("die_once"):
            Path(os.environ["FAKE_MARK"]).touch()
        print("ValueError: no such model", flush=True)
        sys.exit(3)
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "fake-scheduler"])
    log(f"scheduler {helper.pid}")
    log("Load weight begin. avail mem=10 GB")
    time.sleep(1.2 if mode("slow") else 0.0)
    named = (lambda name: None) if mode("mute") else log
    named("Load weight end. elapsed=0.1 s, type=LlamaForCausalLM, avail mem=9 GB")
    if SPECULATES:
        config = json.loads((Path(flag("--speculative-draft-model-path")) / "config.json").read_text())
        name = "LlamaForCausalLM" if mode("wrong_class") else config["architectures"][0]
        named(f"Load weight end. elapsed=0.1 s, type={name}, avail mem=9 GB")
    log("ninja: building")
    path = os.environ.get("HETSPEC_SGLANG_TREES")
    if path:
        from hetspec_core.sglang.plugin.publisher import Publisher

        PUBLISHER = Publisher(path)
    server = Server((flag("--host", "127.0.0.1"), int(flag("--port", "0"))), Handler)
    log("Uvicorn running; the server is fired up and ready to roll!")
    server.serve_forever()


if __name__ == "__main__":
    main()
