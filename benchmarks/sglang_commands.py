"""HetSpec's commands with SGLang behind them, as a user types them: serve, bench, chat, tune, engine.

    python -m benchmarks.sglang_commands --out DIR --sglang DIR_OF_BUNDLE --draft DIR --prompts FILE [--budget-s 300]

It is the second half of `scripts/gpu_sglang_check.sh`. What each command printed, and how long it took, is kept in
`commands.json`; nothing here looks inside.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.sglang_check import BUNDLE, FLAGS, RECIPE
from hetspec_core.paths import write_atomic

_KEPT = 6000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sglang", default="", help="PYTHONPATH of SGLang; the installed one when empty")
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--budget-s", type=float, default=300.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = options.out / "sglang.toml"
    variables = BUNDLE if options.sglang else {}
    table = {"python_path": options.sglang, "environment": variables, "flags": list(FLAGS), "start_timeout_s": 240.0}
    settings.write_text(tomli_w.dumps({"sglang": table}))
    Commands(options, settings).go()
    return 0


class Commands:
    """The commands in order, and what came of them."""

    def __init__(self, options: argparse.Namespace, settings: Path) -> None:
        self.options, self.settings = options, settings
        self.began = time.monotonic()
        self.found: dict[str, Any] = {}

    def go(self) -> None:
        """All of them; the server of the first is used by the next ones."""
        options = self.options
        pair = [RECIPE, "--draft", str(options.draft), "--file", str(self.settings)]
        prompts = ["--prompts", f"{options.prompts}:6", "--first-turn-only", "--max-new-tokens", "128"]
        self.run("doctor", ["doctor"], 40)
        url = self._serve([*pair, "--tree", "5/4/7", "--gpus", "1"])
        if url:
            self.run("bench of a server", ["bench", *pair, *prompts, "--url", url], 60)
            self.run("SGLang's MT-Bench counts", self._frontend(url), 60, program=[sys.executable])
            self.run(
                "chat with a server",
                ["chat", "--recipe", *pair, "--url", url],
                60,
                said="What is a lighthouse?\n/stats\n",
            )
        self._end_served()
        turns = "What is a lighthouse?\n/tree\n/stats\nSay it in five words.\n/quit\n"
        started = ["chat", "--recipe", *pair, "--backend", "sglang", "--tree", "6/10/59", "--max-new-tokens", "48"]
        self.run("chat that starts a server", started, 240, said=turns)
        tune = ["tune", *pair, "--backend", "sglang", *prompts[:2], "--max-new-tokens", "64", "--tree", "3/1/3"]
        self.run("tune", [*tune, "--tree", "5/4/7", "--batch-size", "1", "--batch-size", "4", "--minutes", "2.2"], 160)
        self.run(
            "engine",
            ["bench", *pair, *prompts, "--engine", "--tree", "5/4/7", "--batch-size", "1", "--batch-size", "4"],
            160,
        )
        self.run("runs", ["runs", "list"], 20)

    def run(
        self, name: str, words: list[str], limit_s: float, *, said: str = "", program: list[str] | None = None
    ) -> None:
        """One command, to its end or to its limit."""
        left = self.options.budget_s - (time.monotonic() - self.began)
        if left < 15:
            self.note(name, {"left out": f"{left:.0f} s were left"})
            return
        began = time.monotonic()
        process = self._start([*(program or COMMAND), *words], subprocess.PIPE)
        try:
            output, _ = process.communicate(said, timeout=min(limit_s, left))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
            output += f"\n(stopped after {time.monotonic() - began:.0f} s)"
        status = {"status": process.returncode, "s": round(time.monotonic() - began, 1)}
        self.note(name, {"typed": " ".join(words), **status, "said": said, "output": output[-_KEPT:]})

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Keep it, and show it."""
        self.found[name] = found
        write_atomic(self.options.out / "commands.json", json.dumps(self.found, indent=1).encode())
        print(f"=== {name}: {json.dumps({key: value for key, value in found.items() if key != 'output'})}")
        print(found.get("output", "")[-1800:], flush=True)

    def _serve(self, words: list[str]) -> str:
        """Start a server; its URL, or nothing when it does not come up."""
        began = time.monotonic()
        self._server = self._start([*COMMAND, "serve", *words], subprocess.DEVNULL)
        assert self._server.stdout is not None
        self._heard: list[str] = []
        for line in self._server.stdout:
            self._heard.append(line)
            if hit := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.note("serve", {"ready_s": round(time.monotonic() - began, 1), "output": "".join(self._heard)})
                return hit[0]
        self.note("serve", {"error": "it ended", "output": "".join(self._heard)})
        return ""

    def _end_served(self) -> None:
        """What Ctrl-C does to `serve`: status, time, and what is left of the server."""
        began = time.monotonic()
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
        try:
            output, _ = self._server.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            self._server.kill()
            output, _ = self._server.communicate()
        listed = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=False).stdout
        left = [line[:120] for line in listed.splitlines() if "sglang.launch_server" in line or "sglang::" in line]
        status = {"status": self._server.returncode, "s": round(time.monotonic() - began, 1), "left behind": left}
        self.note("serve, ended by Ctrl-C", {**status, "output": output[-_KEPT:]})

    def _frontend(self, url: str) -> list[str]:
        """SGLang's frontend on the prompts of the bench, in a process that has SGLang."""
        out = self.options.out
        (out / "texts.json").write_text(json.dumps(_texts(self.options.prompts, 6)))
        script = f"""
import json, os, subprocess, sys
env = {{**os.environ, **{BUNDLE!r}, "PYTHONPATH": {self.options.sglang!r}}}
done = subprocess.run([sys.executable, {str(Path(__file__).with_name("sglang_frontend.py"))!r}, {url!r},
    {str(out / "texts.json")!r}, {str(out / "frontend.json")!r}, "128"], env=env, capture_output=True, text=True)
print(done.stderr[-500:] if done.returncode else open({str(out / "frontend.json")!r}).read())
"""
        return ["-c", script]

    def _start(self, command: list[str], stdin: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )


COMMAND = [sys.executable, "-m", "hetspec_core.cli.main"]


def _texts(file: Path, number: int) -> list[str]:
    """The first turns with the recipe's template, as text."""
    from hetspec_core.config import resolve
    from hetspec_core.engine.data.chat import ChatTemplate
    from hetspec_core.engine.modeling.base_lm import load_tokenizer
    from hetspec_core.engine.stages.bench import read_prompts
    from hetspec_core.spec import BenchSpec

    spec = resolve(RECIPE, stage="bench").spec
    tokenizer = load_tokenizer(spec.base)
    template = ChatTemplate.for_tokenizer(tokenizer, spec.base.chat_template)
    texts = []
    for conversation in read_prompts(BenchSpec(prompts=f"{file}:{number}")):
        messages = conversation.with_system(spec.base.system_prompt).messages
        first = next(at for at, message in enumerate(messages) if message.role == "user")
        texts.append(tokenizer.decode(template.encode(messages[: first + 1], add_generation_prompt=True).input_ids))
    return texts


if __name__ == "__main__":
    sys.exit(main())
