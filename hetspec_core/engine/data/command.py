"""Small engine commands outside a run: one JSON object on stdout, a result or an error, and the error's exit status.

The desk starts them as child processes, because it may not import the engine. It knows no single command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from hetspec_core.errors import HetSpecError


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
    except HetSpecError as error:
        kind = type(error).__name__
        about = {"kind": kind, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        result, status = {"error": about}, error.exit_code
    finally:
        sys.stdout.flush()
        os.dup2(real_stdout, 1)
        os.close(real_stdout)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return status
