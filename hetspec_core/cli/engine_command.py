"""Asking the engine something outside a run: a child process that prints one JSON object.

The desk never imports the engine; it names modules by string. It knows nothing of what the command does.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from hetspec_core import errors
from hetspec_core.cli.console import error_console
from hetspec_core.errors import Cancelled, HetSpecError, StageFailed
from hetspec_core.process import python_command, python_environment

_LAST_LINES = 5


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
        answer = json.loads(done.stdout)
    except ValueError:
        last = " / ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise StageFailed(f"{doing} broke (status {done.returncode}): {last or 'no word of why'}") from None
    if "error" in answer:
        raise _error(answer["error"])
    return answer


def _error(about: dict[str, Any]) -> HetSpecError:
    kind = getattr(errors, str(about["kind"]), None)
    if isinstance(kind, type) and issubclass(kind, HetSpecError):
        return kind(about["message"], hint=about["hint"])
    return StageFailed(about["message"], hint=about["hint"])
