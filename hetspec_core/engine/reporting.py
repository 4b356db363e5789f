"""Errors as a user reads them: of a run that ended, and of an engine command outside a run.

The desk starts engine commands as child processes, because it may not import the engine. A command prints one JSON
object, a result or an error, and exits with the error's status.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from hetspec_core.errors import Cancelled, HetSpecError, ResourceError, recognise
from hetspec_core.events import ErrorInfo
from hetspec_core.files import DISK_FULL, ROOM_HINT, explain, is_full

CRASH_STATUS = 1


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def summary(error: BaseException) -> str:
    """`TypeError: first line of the message`; the name alone for an error without a message."""
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def describe_error(error: BaseException) -> ErrorInfo:
    """The error for the user: HetSpec's own errors unchanged, exhausted resources by name, the rest as a crash."""
    if isinstance(error, HetSpecError):
        problems = "".join(f"\n  - {problem}" for problem in getattr(error, "problems", ()))
        kind = "cancelled" if isinstance(error, Cancelled) else type(error).__name__
        return ErrorInfo(kind=kind, message=error.message + problems, hint=error.hint, exit_code=error.exit_code)
    exhausted = _exhausted(error)
    if exhausted is not None:
        return describe_error(exhausted)
    known = recognise(f"{type(error).__name__}: {error}")
    hint = known.hint if known is not None else "this is a fault of the program; the traceback is in the log"
    return ErrorInfo(kind="crash", message=summary(error), hint=hint, exit_code=CRASH_STATUS)


def _exhausted(error: BaseException) -> ResourceError | None:
    """The exception as a `ResourceError`, if it or one of its causes is a full disk or exhausted memory."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            where = f" while writing {cause.filename}" if cause.filename else ""
            return ResourceError(
                f"the disk is full{where}",
                hint="what was written before is intact; make room, then resume the run",
            )
        if type(cause).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate" in str(cause):
            return ResourceError(
                f"out of memory on the device: {first_line(cause)}",
                hint="lower tokens_per_batch or generation_batch, or use a smaller number type",
            )
        if isinstance(cause, MemoryError):
            return ResourceError(
                "out of memory", hint="lower tokens_per_batch or generation_batch, or free memory on this machine"
            )
        if "No space left on device" in str(cause):  # safetensors and others report it as text
            return ResourceError(
                "the disk is full", hint="what was written before is intact; make room, then resume the run"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def answer(command: Callable[[], dict[str, Any]]) -> int:
    """Run a command and print its result or its error.

    Whatever libraries print goes to stderr: stdout holds the one JSON object and nothing else.

    Returns:
        The exit status: 0, or that of the error.
    """
    real_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        result, status = command(), 0
    except Exception as error:
        known = _for_the_user(error)
        if known is None:  # a fault of the program: its traceback goes to stderr, and the desk shows the last line
            raise
        about = {
            "kind": type(known).__name__,
            "message": known.message,
            "hint": known.hint,
            "exit_code": known.exit_code,
        }
        result, status = {"error": about}, known.exit_code
    finally:
        sys.stdout.flush()
        os.dup2(real_stdout, 1)
        os.close(real_stdout)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return status


def _for_the_user(error: Exception) -> HetSpecError | None:
    """The error for the user: HetSpec's own unchanged, one of the file system explained; None for any other."""
    if isinstance(error, HetSpecError):
        return error
    if isinstance(error, OSError):
        return explain(error)
    return ResourceError("the disk is full, or a quota is used up", hint=ROOM_HINT) if is_full(error) else None
