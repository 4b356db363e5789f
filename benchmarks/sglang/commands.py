"""Run HetSpec's commands with SGLang as a user types them: serve, bench, chat, tune, engine.

    python -m benchmarks.sglang.commands --out DIR --sglang DIR_OF_BUNDLE --draft DIR --prompts FILE
        [--mtbench-script bench_sglang_eagle.py] [--only served,engine] [--budget-s 300]

`scripts/gpu_sglang_check.sh` runs it with PART=commands. `commands.json` gets the output and the time of each command.
SGLang's MT-Bench script (`benchmark/mtbench/bench_sglang_eagle.py` of its repository) runs unchanged at the server that
`bench --url` measured with the same prompts; their figures are put side by side.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.sglang.check import BUNDLE, FLAGS, RECIPE
from hetspec_core.engine.data import chat_families
from hetspec_core.files import write_atomic
from hetspec_core.process import python_command, python_environment
from hetspec_core.prompts import MT_BENCH_SYSTEM_PROMPT

PARTS = ("served", "chat", "bench", "engine", "tune")
_KEPT = 6000
_QUESTIONS = 4  # of MT-Bench, two turns each, up to 2,048 tokens as the script has it
_APART = ("--disable-radix-cache", "--context-length", "8192")
"""Without these, the script's second turn reuses the states of the first from the cache, and bench does not."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sglang", default="", help="PYTHONPATH of SGLang; the installed one when empty")
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--mtbench-script", type=Path, help="SGLang's own; left out when absent")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}; in this order")
    parser.add_argument("--budget-s", type=float, default=300.0)
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    settings = options.out / "sglang.toml"
    variables = BUNDLE if options.sglang else {}
    table = {"python_path": options.sglang, "environment": variables, "flags": list(FLAGS), "start_timeout_s": 240.0}
    settings.write_text(tomli_w.dumps({"sglang": table}))
    Commands(options, settings).go()
    return 0


class Commands:
    """The commands in order, and their results."""

    def __init__(self, options: argparse.Namespace, settings: Path) -> None:
        self.options, self.settings = options, settings
        self.began = time.monotonic()
        self.found: dict[str, Any] = {}

    def go(self) -> None:
        """Run all parts that were asked for."""
        options = self.options
        self.pair = [RECIPE, "--draft", str(options.draft), "--file", str(self.settings)]
        self.prompts = ["--prompts", f"{options.prompts}:6", "--first-turn-only", "--max-new-tokens", "128"]
        for part in PARTS:
            if part in options.only:
                getattr(self, f"_{part}")()
        self.run("runs", ["runs", "list"], 20)

    def _served(self) -> None:
        """A server, and commands at its URL."""
        self.run("doctor", ["doctor"], 40)
        url = self._serve([*self.pair, "--tree", "5/4/7", "--gpus", "1", "--", *_APART])
        if url:
            self._compare_with_script(url)
            said = "What is a lighthouse?\n/stats\n"
            self.run("chat with a server", ["chat", "--recipe", *self.pair, "--url", url], 60, said=said)
        self._end_served()

    def _chat(self) -> None:
        """A chat that starts its server, with trees."""
        turns = "What is a lighthouse?\n/tree\n/stats\nSay it in five words.\n/quit\n"
        started = ["chat", "--recipe", *self.pair, "--backend", "sglang", "--tree", "6/10/59", "--max-new-tokens", "48"]
        self.run("chat that starts a server", started, 240, said=turns)

    def _bench(self) -> None:
        """A bench that starts its servers, and the same by the built-in decoding."""
        words = ["bench", *self.pair, *self.prompts, "--tree", "5/4/7", "--dtype", "bfloat16"]
        batches = ["--batch-size", "1", "--batch-size", "4"]
        self.run("bench that starts servers", [*words, "--backend", "sglang", *batches], 240)
        self.run("bench by the built-in decoding", words, 90)

    def _engine(self) -> None:
        """The offline engine."""
        words = ["bench", *self.pair, *self.prompts, "--engine", "--tree", "5/4/7", "--dtype", "bfloat16"]
        self.run("engine", [*words, "--batch-size", "1", "--batch-size", "4"], 240)

    def _tune(self) -> None:
        """Shapes and batch sizes within a time."""
        left = self.options.budget_s - (time.monotonic() - self.began)
        minutes = f"{max(0.5, min(2.4, (left - 45) / 60)):.2f}"
        shapes = ["--tree", "3/1/3", "--tree", "5/4/7", "--batch-size", "1", "--batch-size", "4", "--minutes", minutes]
        words = ["tune", *self.pair, "--backend", "sglang", *self.prompts[:2], "--max-new-tokens", "64", *shapes]
        self.run("tune", words, 180)

    def _compare_with_script(self, url: str) -> None:
        """SGLang's MT-Bench script and `bench` at one server, with the same questions."""
        options, out = self.options, self.options.out
        questions = out / "questions.jsonl"
        self.note("questions", _choose_questions(url, options.prompts, questions))
        words = ["bench", *self.pair, "--url", url, "--prompts", str(questions)]
        words += ["--chat-template", "sglang", "--max-new-tokens", "2048", "--json"]
        printed = self.run("bench of a server", words, 120)
        if options.mtbench_script is None:
            return
        host, port = url.rsplit(":", 1)
        script = [str(options.mtbench_script), "--host", host, "--port", port, "--parallel", "1"]
        script += ["--num-questions", str(_QUESTIONS), "--question-file", str(questions)]
        answers, result = Path(tempfile.gettempdir()) / "script_answers.jsonl", out / "script.jsonl"
        script += ["--answer-file", str(answers), "--result-file", str(result)]
        environment = {**BUNDLE, "PYTHONPATH": options.sglang} if options.sglang else {}
        self.run("SGLang's MT-Bench script", script, 150, program=python_command(), environment=environment)
        self.note("script and bench", _side_by_side(printed, result))

    def run(
        self,
        name: str,
        words: list[str],
        limit_s: float,
        *,
        said: str = "",
        program: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        """One command, to its end or to its limit.

        Returns:
            What it printed, of which the end is kept.
        """
        left = self.options.budget_s - (time.monotonic() - self.began)
        if left < 15:
            self.note(name, {"left out": f"{left:.0f} s were left"})
            return ""
        began = time.monotonic()
        process = self._start([*(program or COMMAND), *words], subprocess.PIPE, environment)
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
        return output

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

    def _start(
        self, command: list[str], stdin: int, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=python_environment({"NO_COLOR": "1", **(environment or {})}),
        )


COMMAND = python_command("-m", "hetspec_core.cli.main")


def _choose_questions(url: str, prompts: Path, chosen: Path) -> dict[str, Any]:
    """Write the first questions of which both answers have a verify step.

    An answer that is over with its first token has none, SGLang says nothing of steps then, and its script ends with a
    KeyError.
    """
    template = chat_families.template_text("sglang")
    kept: list[str] = []
    left_out: list[int] = []
    for line in prompts.read_text().splitlines():
        question = json.loads(line)
        messages = [{"role": "system", "content": MT_BENCH_SYSTEM_PROMPT}]
        steps = []
        for turn in question["turns"]:
            messages.append({"role": "user", "content": turn})
            text, _ = chat_families.render(template, messages, True, bos_token="", eos_token="")
            body = {"text": text, "sampling_params": {"temperature": 0.0, "max_new_tokens": 2048}}
            answer = _post(f"{url}/generate", body)
            messages.append({"role": "assistant", "content": answer["text"]})
            steps.append(answer["meta_info"].get("spec_verify_ct", 0))
        if all(steps):
            kept.append(line)
        else:
            left_out.append(question["question_id"])
        if len(kept) == _QUESTIONS:
            break
    write_atomic(chosen, "".join(f"{line}\n" for line in kept).encode())
    return {"kept": len(kept), "left out, answered with one token": left_out}


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def _side_by_side(printed: str, result: Path) -> dict[str, Any]:
    """Tokens and accept length as both count them. The script rounds to three digits, so its tokens are a product."""
    try:
        measured = json.JSONDecoder().raw_decode(printed, printed.index("{"))[0]["trees"][0]["sglang"]
        script = json.loads(result.read_text().splitlines()[-1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    tokens, steps = measured["completion_tokens"], measured["spec_verify_ct"]
    return {
        "bench": {"tokens": tokens, "verify_steps": steps, "accept_length": round(tokens / steps, 3)},
        "script": {
            "tokens": round(script["throughput"] * script["latency"], 1),
            "accept_length": script["accept_length"],
            "tokens_per_s": script["throughput"],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
