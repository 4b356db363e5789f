"""A command of the engine that breaks is told by the last line of its traceback, a full disk as everywhere."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.cli import engine_command
from hetspec_core.cli.engine_command import ask_engine, last_error
from hetspec_core.engine.reporting import answer
from hetspec_core.errors import StageFailed

TRACEBACK = """loading
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    run()
KeyError: 'first'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    save(
    ^^^^^
ValueError: the second
  over two lines
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRACEBACK, "ValueError: the second"),
        ("a warning\nKilled\n", "Killed"),
        ("", ""),
        ("Traceback (most recent call last):\n  File", "  File".strip()),
        ("x" * 1000, "x" * 400 + "..."),
    ],
)
def test_the_sentence_of_a_broken_command_is_its_last_exception(text: str, said: str) -> None:
    assert last_error(text) == said


def broken(stdout: str, stderr: str, monkeypatch: pytest.MonkeyPatch) -> StageFailed:
    done = subprocess.CompletedProcess([], 1, stdout=stdout, stderr=stderr)
    monkeypatch.setattr(engine_command.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(StageFailed) as caught:
        ask_engine("module", [], doing="importing the draft")
    return caught.value


def test_a_command_without_an_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken("", TRACEBACK, monkeypatch).message == "importing the draft failed (status 1): ValueError: the second"
    for stdout in ("", "[" * 200_000, "not JSON"):
        assert "it printed nothing" in broken(stdout, "", monkeypatch).message


def failing(error: Exception) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/model.safetensors"), "ResourceError", "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "ResourceError", "the disk is full"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/x"), "ResourceError", "read-only"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "/x"), "ResourceError", "permission denied"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/proc/x"), "NotFoundError", "no such file"),
    ],
)
def test_errors_of_the_file_system_are_answers(
    error: Exception, kind: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert answer(failing(error)) in (4, 8)
    told = json.loads(capfd.readouterr().out)["error"]
    assert told["kind"] == kind and said in told["message"] and told["hint"]


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        answer(failing(ZeroDivisionError()))


def test_an_index_of_lists_is_a_damaged_draft(tmp_path: Path) -> None:
    from hetspec_core.engine.modeling.draft_files import DraftFiles
    from hetspec_core.errors import CheckpointError

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": ["x"]}}')
    with pytest.raises(CheckpointError, match="weight_map"):
        _ = DraftFiles(tmp_path).tensors
