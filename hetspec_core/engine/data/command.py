"""Small engine commands outside a run: one JSON object on stdout, a result or an error, and the error's exit status.

The desk starts them as child processes, because it may not import the engine. It knows no single command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from hetspec_core.errors import HetSpecError, ResourceError
from hetspec_core.files import ROOM_HINT, explain, is_full


def answer(command: Callable[[], dict[str, Any]]) -> int:
    """Run a command and print what came of it.

    Whatever libraries print goes to stderr: stdout holds the one JSON object and nothing else.

    Returns:
        The exit status: 0, or that of the error.
    """
    real_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        result, status = command(), 0
    except Exception as error:
        told = _told(error)
        if told is None:  # a fault of the program: its traceback goes to stderr, and the desk tells the last line
            raise
        about = {"kind": type(told).__name__, "message": told.message, "hint": told.hint, "exit_code": told.exit_code}
        result, status = {"error": about}, told.exit_code
    finally:
        sys.stdout.flush()
        os.dup2(real_stdout, 1)
        os.close(real_stdout)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return status


def _told(error: Exception) -> HetSpecError | None:
    """The error for the user: HetSpec's own as it is, one of the file system explained; None for any other."""
    if isinstance(error, HetSpecError):
        return error
    if isinstance(error, OSError):
        return explain(error)
    return ResourceError("the disk is full, or a quota is used up", hint=ROOM_HINT) if is_full(error) else None
