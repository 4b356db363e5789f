"""Asking the engine something outside a run: a child process that prints one JSON object.

The desk never imports the engine; it names modules by string. It knows nothing of what the command does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

from hetspec_core import errors
from hetspec_core.cli.console import error_console
from hetspec_core.documents import DocumentError, parse_json
from hetspec_core.errors import Cancelled, HetSpecError, StageFailed
from hetspec_core.failures import recognise
from hetspec_core.process import python_command, python_environment

_LONGEST_SENTENCE = 400


def ask_engine(module: str, arguments: Sequence[str], *, doing: str) -> dict[str, Any]:
    """Run `python -m module arguments...` and give its answer.

    Args:
        module: a module of the engine that prints one JSON object.
        arguments: its command line.
        doing: what is said on a terminal meanwhile.

    Raises:
        HetSpecError: the command's own error, of the same kind.
        StageFailed: it broke without an answer.
    """
    command, variables = python_command("-m", module, *arguments), python_environment()
    out = error_console()
    try:
        if out.is_terminal:
            with out.status(doing):
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    except KeyboardInterrupt:
        raise Cancelled(f"{doing} was stopped") from None
    try:
        answer = parse_json(done.stdout, limit_bytes=None)
    except DocumentError:
        said = last_error(done.stderr) or "it printed nothing"
        known = recognise(said)
        raise StageFailed(
            f"{doing} broke (status {done.returncode}): {said}",
            hint=known.hint if known is not None else "",
        ) from None
    if "error" in answer:
        raise _error(answer["error"])
    return answer


def last_error(text: str) -> str:
    """The sentence of the last exception that a child process printed; its last line where there is no traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if begins:  # its frames are indented, and the exception may have several lines
        after = [line for line in lines[begins[-1] + 1 :] if not line[0].isspace()]
        lines = after[:1] or lines
    said = lines[-1].strip() if lines else ""
    return said if len(said) <= _LONGEST_SENTENCE else f"{said[:_LONGEST_SENTENCE]}..."


def _error(about: dict[str, Any]) -> HetSpecError:
    kind = getattr(errors, str(about["kind"]), None)
    if isinstance(kind, type) and issubclass(kind, HetSpecError):
        return kind(about["message"], hint=about["hint"])
    return StageFailed(about["message"], hint=about["hint"])
