"""A server that answers as one of SGLang was recorded to answer; a copy of it is `sglang.launch_server` of a fake site.

`SGLANG_RECORDING` names the recording (made by `benchmarks/sglang/exchanges.py`), `SGLANG_ROW` the server in it that is
played, and `SGLANG_TWIST` what goes wrong: `slow` (not ready for a second), `die` and `cut` (in the middle of an
answer), `malformed` (a line in the middle is no JSON), `other_model`, `old`. Standard library only.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MIDDLE = 3  # messages of an answer that come before it breaks


def read_recording(path: Path, row: str = "") -> list[dict[str, Any]]:
    """The exchanges of one server, or of all."""
    with gzip.open(path, "rt") as file:
        found = [json.loads(line) for line in file]
    return [each for each in found if not row or each["server"] == row]


def kind_of(method: str, path: str, body: Any) -> tuple[Any, ...]:
    """What sort of request it is: the same sort gets the same answer."""
    asked = body if isinstance(body, dict) else {}
    if path != "/generate":
        return method, path
    if asked.get("sampling_params", {}).get("temperature", 0.0) < 0:
        return method, path, "no such temperature"
    if len(asked.get("input_ids", ())) > 4000:
        return method, path, "too long"
    return method, path, bool(asked.get("stream")), bool(asked.get("return_logprob"))


class Replay(ThreadingHTTPServer):
    """The server.

    Args:
        address: host and port.
        exchanges: what is played.
        twist: what goes wrong.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], exchanges: list[dict[str, Any]], twist: str = "") -> None:
        self.twist, self.began = twist, time.monotonic()
        self.answers = {kind_of(each["method"], each["path"], each["body"]): each for each in exchanges}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without the look-up of this machine's name
        self.server_name, self.server_port = "replay", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replay

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _answer(self, body: Any) -> None:
        found = self.server.answers.get(kind_of(self.command, self.path, body))
        lines = [line for _, line in found["lines"]] if found is not None else ["unrecorded"]
        status = found["status"] if found is not None else 404
        if self.path.startswith("/health") and self.server.twist == "slow" and time.monotonic() < self.server.began + 1:
            status, lines = 503, []
        if self.path == "/model_info" and self.server.twist == "other_model":
            lines = [
                json.dumps({**json.loads("".join(lines)), "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"})
            ]
        if self.path == "/server_info" and self.server.twist == "old":
            lines = [json.dumps({**json.loads("".join(lines)), "version": "0.4.9"})]
        headers = {name.lower(): value for name, value in (found or {"headers": {}})["headers"].items()}
        self.send_response(status)
        self.send_header("Content-Type", headers.get("content-type", "text/plain"))
        if "event-stream" not in headers.get("content-type", ""):
            data = "".join(lines).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        told = 0
        for line in lines:
            told += line.startswith("data:")
            if told == MIDDLE and self._breaks():
                return
            self._chunk(line.encode())
        self._chunk(b"")

    def _breaks(self) -> bool:
        """Break the answer off, if it is to be; a line that is no JSON goes on."""
        twist = self.server.twist
        if twist == "die":
            print("RuntimeError: CUDA error: an illegal memory access was encountered", flush=True)
            os._exit(9)
        if twist == "cut":
            self.close_connection = True
        if twist == "malformed":
            self._chunk(b'data: {"text": "half of\n\n')
        return twist == "cut"

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def main() -> None:
    words = sys.argv[1:]
    named = dict(itertools.pairwise(words))
    exchanges = read_recording(Path(os.environ["SGLANG_RECORDING"]), os.environ["SGLANG_ROW"])
    server = Replay(
        (named.get("--host", "127.0.0.1"), int(named["--port"])), exchanges, os.environ.get("SGLANG_TWIST", "")
    )
    print("The server is fired up and ready to roll!", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
