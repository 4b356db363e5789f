"""What others have written (names, logs, errors, notes, answers) reaches a terminal as text, not as a command to it."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.cli import console as gate
from hetspec_core.cli.main import main
from hetspec_core.errors import DataError
from hetspec_core.events import ErrorInfo, Event, Journal, Launched, Log, Marked, Metric, Result, RunEnded, RunStarted
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import visible
from tests.fakes.specs import small_spec

ROOT = Path(__file__).resolve().parents[3]
NASTY = "a\x1b]0;title\x07b\x1b[2Jc\x1b]52;c;QUJD\x1b\\d\x9b31me\u202ef\x7fg\x1b[31mh"
FORBIDDEN = re.compile(
    "\x1b(?!\\[[0-9;?]*[a-zA-Z])|\x1b\\[2J"  # all escapes but colours and the cursor movements of rich's bars
    "|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
"""What no terminal may get."""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Stdout and stderr are one terminal with colours."""
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        for maker in (gate.console, gate.error_console):
            maker.cache_clear()
        yield stream
    for maker in (gate.console, gate.error_console):
        maker.cache_clear()


@pytest.fixture
def forged(home: Path) -> str:
    """A run in which every text holds control characters."""
    with Workbench(home) as workbench:
        handle = workbench.submit(small_spec("honest"))
    text = handle.paths.spec.read_text().replace('"honest"', json.dumps(NASTY).replace("\x7f", "\\u007f"))
    handle.paths.spec.chmod(0o644)
    handle.paths.spec.write_text(text)
    process = {"pid": 1, "host": "h", "birth": "b"}
    events: list[Event] = [
        RunStarted(stage="train", **process),
        Log(level="warning", message=NASTY),
        Metric(step=1, values={NASTY: 1.0}),
        Result(kind=NASTY, data={NASTY: NASTY}),
        RunEnded(state="failed", error=ErrorInfo(kind="DataError", message=NASTY, hint=NASTY, exit_code=6)),
    ]
    with Journal(handle.paths.events, "worker-0") as journal:
        for event in events:
            journal.write(event)
    with Journal(handle.paths.desk, "desk") as desk:
        desk.write(Launched(attempt=1, **process))
        desk.write(Marked(add_tags=("t",), note=NASTY))
    handle.paths.log("worker-0").write_bytes(NASTY.encode() + b"\n" + NASTY.encode())
    return handle.run_id


@pytest.mark.parametrize(
    "words",
    ["show", "follow", "note", "tag", "logs", "metrics", "metrics --csv", "lineage", "show --explain", "show --json",
     "follow --json", "logs --json", "note --json"],
)  # fmt: skip
def test_a_command_prints_what_a_run_says_as_text(forged: str, words: str) -> None:
    command, *options = words.split()
    with terminal() as shown:
        main(["runs", command, forged, *options])
    assert shown.getvalue() and not FORBIDDEN.findall(shown.getvalue())


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
def test_an_export_to_a_terminal_is_text(forged: str, form: str) -> None:
    with terminal() as shown:
        assert main(["runs", "export", "--format", form]) == 0
    assert forged in shown.getvalue() and not FORBIDDEN.findall(shown.getvalue())


def test_an_error_sentence_is_text_and_keeps_the_colours_of_its_heading() -> None:
    with terminal() as stream:
        gate.print_error(DataError(f"the template says {NASTY}", hint=NASTY), as_json=False)
    shown = stream.getvalue()
    assert "\x1b[1;31merror: " in shown and "\\x1b[2Jc" in shown and not FORBIDDEN.findall(shown)
    assert "\x1b[31mh" not in shown, "a colour of the data is not a colour of HetSpec"


def test_an_answer_that_comes_in_pieces_cannot_put_an_escape_together() -> None:
    with terminal() as shown:
        for letter in NASTY:
            gate.print_text(letter)
    assert not FORBIDDEN.findall(shown.getvalue()) and "\x1b" not in shown.getvalue()


def test_a_log_keeps_its_colours_on_a_terminal_and_its_bytes_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = b"\x1b[31mred\x1b]52;c;QUJD\x07\x1b[2J!"
    with terminal() as shown:
        gate.print_log_line(line)
    assert shown.getvalue() == "\x1b[31mred!\x1b[0m\n"
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    gate.print_log_line(line)
    gate.print_data("a,\x9b\n")
    assert pipe.getvalue() == line.decode() + "\na,\x9b\n"


@given(
    st.recursive(st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
)
def test_json_is_ascii_where_a_terminal_would_act_and_keeps_its_value(data: object) -> None:
    out = io.StringIO()
    before, sys.stdout = sys.stdout, out
    try:
        gate.print_json(data)
    finally:
        sys.stdout = before
    assert json.loads(out.getvalue()) == data
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", out.getvalue())


@given(st.text())
def test_visible_text_has_no_control_characters_and_leaves_other_text_alone(text: str) -> None:
    shown = visible(text)
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown
    )
    assert visible(shown) == shown
    if text.replace("\n", "").isprintable():
        assert shown == text


def test_visible_text_keeps_scripts_and_emoji_that_need_joiners() -> None:
    assert visible("می\u200cخواهم 👩\u200d🔬 ไทย\u200bไทย\tx\n") == "می\u200cخواهم 👩\u200d🔬 ไทย\u200bไทย\tx\n"
    assert visible("name-\udcfc") == "name-\\udcfc"


MACHINES = {
    "hetspec_core/cli/console.py",
    "hetspec_core/terminal_text.py",
    "hetspec_core/engine/reporting.py",  # one JSON object into a pipe that the desk reads
    "hetspec_core/sglang/offline_program.py",  # counts, into a log; it has the standard library only
    "hetspec_core/sglang/versions.py",  # the same
}
WRITES = re.compile(
    r"print|(typer|click)\.s?echo|traceback\.print_\w+|sys\.(std|__std)(out|err)(__)?(\.buffer)?\.write(lines)?"
    r"|(error_)?console\(\)\.(out|log|control)"
)


def test_nothing_but_the_gate_writes_to_stdout_and_stderr() -> None:
    wrong = []
    for path in sorted([*(ROOT / "hetspec_core").rglob("*.py"), *(ROOT / "hetspec_tui").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        if name in MACHINES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            makes_console = called == "Console" and name.startswith("hetspec_core/")
            if WRITES.fullmatch(called) or makes_console:
                wrong.append(f"{name}:{node.lineno}: {called}")
    assert wrong == []
