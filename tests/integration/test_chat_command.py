"""`hetspec-core chat` over a worker without a model: in a pipe, with commands, as JSON, and under Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.cli.main import main
from hetspec_core.service.chat.conversation import ChatHistory
from tests.conftest import REPOSITORY
from tests.fakes import chat_worker
from tests.fakes.terminal import own_terminal

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    folder = tmp_path / "quick"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def run(draft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command with lines on stdin; gives status, stdout, stderr."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("hetspec_core.service.chat.session.worker_command", lambda: chat_worker.COMMAND)

    def call(*words: str, lines: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        status = main(["chat", "--draft", str(draft), "--tree", "2/2/4", *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_pipe_gets_the_answers_and_nothing_else_on_stdout(run: Run) -> None:
    status, out, err = run(lines="hello 2\n\nagain 1\n")
    assert status == 0
    assert out == "T a0 b0 c0 a1 b1 c1\nT a0 b0 c0\n"
    assert "7 tokens (length)" in err and "accept length 3.00 over 2 steps" in err


def test_questions_can_be_words_of_the_command(run: Run) -> None:
    status, out, _ = run("one 1", "two 2")
    assert (status, out) == (0, "T a0 b0 c0\nT a0 b0 c0 a1 b1 c1\n")


def test_commands_show_tree_figures_and_settings(run: Run) -> None:
    lines = (
        "hello 3\n/tree\n/tree 1\n/calibrate\nmore 2\n/stats\n/set tree=3/2/6\n/set\n/draft none\n/help\n/quit\nnever\n"
    )
    status, out, _ = run(lines=lines)
    assert status == 0 and "never" not in out
    assert "step 2: 2 of 4 nodes accepted" in out and "step 1: 2 of 4 nodes accepted" in out
    assert "*    " in out and "bonus, base 0.90" in out and "draft 0.30  base 0.10 (#4)" in out
    assert "plain: 100.0 tokens/s" in out and "2/2/4: 15.0 ms a step" in out
    assert "accept length   3.00 over 2 steps" in out and "pooled        3.00 over 5 steps" in out
    assert "propose 25%, verify 50%, other 25%" in out and "speedup" in out
    assert "tree = 3/2/6" in out and "decoding: plain" in out and "/ab" in out


def test_a_calibration_does_not_say_the_last_answer_again(run: Run) -> None:
    _, out, err = run(lines="hello 1\n/calibrate\n")
    assert out.count("T a0") == 1 and err.count("tokens (length)") == 1


def test_at_a_running_server_trees_and_calibration_are_refused_with_their_reason(run: Run) -> None:
    status, _, err = run("--set", "base.summary=served", lines="hello 2\n/calibrate\n")
    assert status == 2 and "it always has its draft" in err and "name another" in err
    status, _, err = run("--set", "base.summary=served", lines="hello 2\n/tree\n")
    assert status == 2 and "without their trees" in err and "--backend sglang" in err


def test_two_ways_are_compared_with_a_verdict(run: Run) -> None:
    status, out, _ = run(lines="/ab hello 4\n/ab 2/2/4 | 3/2/6 hello 4\n")
    assert status == 0
    assert "times as fast as plain; texts differ from token 2 on" in out
    assert "quick 2/2/4" in out and "quick 3/2/6" in out and "texts identical" in out


def test_conversations_are_saved_loaded_and_edited(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    status, out, _ = run(lines=f"hello 1\nthen 1\n/edit 0 other 1\n/again\n/history\n/save {path}\n")
    assert status == 0 and "0 user: other 1" in out and "2 user" not in out
    assert [turn.text for turn in ChatHistory.load(path).turns] == ["other 1", "T a0 b0 c0"]
    status, out, _ = run("--load", str(path), lines="/history\nmore 1\n/history\n")
    assert status == 0 and "1 assistant: T a0 b0 c0" in out and "2 user: more 1" in out


def test_json_is_one_event_a_line(run: Run) -> None:
    status, out, _ = run("--json", lines="hello 2\n/tree 0\n")
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    kinds = [event["type"] for event in events]
    assert status == 0 and kinds[-1] == "figures" and kinds.count("step") == 2 and kinds.count("tree") == 1
    assert "".join("".join(event.get("pieces", [])) for event in events) == "T a0 b0 c0 a1 b1 c1"
    assert events[-1]["accept_length"] == 3


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("refuse", 5, "1200 tokens"),
        ("fail", 10, "out of memory"),
        ("kill", 10, "SIGKILL"),
        ("/nonsense", 2, "no command /nonsense"),
        ("/set tree=1", 2, "depth/top_k/num_draft_tokens"),
        ("/tree", 2, "no verify step"),
        ("/load nowhere.json", 2, "no conversation"),
        ("/draft nowhere", 2, "nowhere"),
    ],
)
def test_in_a_pipe_what_goes_wrong_is_the_end(run: Run, line: str, status: int, words: str) -> None:
    seen, _, err = run(lines=f"{line}\nhello 1\n")
    assert seen == status
    assert err.count(words) == 1, "said once"


def test_every_answer_is_recorded_where_it_was_asked_for(run: Run, tmp_path: Path) -> None:
    status, _, _ = run("--record-to", str(tmp_path / "traces"), lines="hello 2\nagain 1\n")
    assert status == 0 and len(list((tmp_path / "traces").glob("*.jsonl"))) == 2


SCRIPT = """
import sys
from hetspec_core.service.chat import session
from tests.fakes import chat_worker
session.worker_command = lambda: chat_worker.COMMAND
from hetspec_core.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """The command in a pseudo-terminal of its own."""

    def __init__(self, words: list[str], home: Path, **environment: str) -> None:
        self.screen, slave = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY), "HETSPEC_HOME": str(home)}
        env.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**env, **environment},
            preexec_fn=own_terminal,
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str, timeout_s: float = 20) -> None:
        limit = time.monotonic() + timeout_s
        while words not in self.text:
            assert time.monotonic() < limit, self.text
            if select.select([self.screen], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.screen, 65536).decode(errors="replace")
                except OSError:
                    break
        assert words in self.text, self.text
        self.text = self.text[self.text.index(words) + len(words) :]

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())


def test_control_c_stops_the_answer_and_at_the_prompt_ends_the_chat(draft: Path, home: Path) -> None:
    terminal = Terminal(["chat", "--draft", str(draft), "--tree", "2/2/4"], home)
    terminal.until("> ")
    terminal.type("slow 5000\n")
    terminal.until("a3")
    assert "\x1b[" in terminal.text  # colours
    terminal.type("\x03")
    terminal.until("(stopped)")
    terminal.until("> ")
    terminal.type("hello 1\n")
    terminal.until("(length)")
    terminal.until("> ")
    # readline shows the prompt a moment before it listens, and a signal in between waits for the next key: as a person
    # would, press it again
    deadline = time.monotonic() + 10
    while terminal.process.poll() is None and time.monotonic() < deadline:
        terminal.type("\x03")
        time.sleep(0.5)
    assert terminal.process.wait(10) == 130


def test_control_c_twice_ends_the_chat_even_when_the_worker_does_not_listen(draft: Path, home: Path) -> None:
    terminal = Terminal(["chat", "--draft", str(draft)], home, NO_COLOR="1")
    terminal.until("> ")
    terminal.type("stall\n")
    terminal.until("c1")
    assert "\x1b[3" not in terminal.text
    terminal.type("\x03")
    time.sleep(0.5)
    terminal.type("\x03")
    assert terminal.process.wait(10) == 130
