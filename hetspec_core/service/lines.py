"""Results as lines of a file that many runs append to: one JSON object a line. It knows nothing of what is measured."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from hetspec_core import files
from hetspec_core.errors import ResourceError
from hetspec_core.files import explain

if TYPE_CHECKING:
    from hetspec_core.service.report import RunReport


def result_line(report: RunReport) -> dict[str, Any]:
    """What a finished run says in one line: who it is, when it ended, what was asked and what came of it."""
    run = report.summary
    return {
        "run_id": run.run_id,
        "name": run.name,
        "stage": run.stage,
        "recipe": run.recipe,
        "spec_hash": run.spec_hash,
        "ended": run.ended,
        "results": report.results,
    }


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line, whole, however many processes append at the same time.

    A line that somebody was killed in the middle of is closed first, so that it spoils none but itself.

    Raises:
        ResourceError: the file cannot be written; the sentence says why.
    """
    line = to_json(record, inf_nan_mode="null", fallback=str)
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        access = os.O_RDWR if path.is_file() or not path.exists() else os.O_WRONLY
        handle = os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # another process may be in the middle of its line
            files.append_line(handle, line)
            if stat.S_ISREG(
                os.fstat(handle).st_mode
            ):  # a pipe or a terminal, as in --out /dev/stdout, cannot be synced
                os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        doing = f"the result was not appended to {path}"
        told = explain(error, doing=doing)
        if not isinstance(told, ResourceError):
            told = ResourceError(f"{doing}: {error.strerror}", hint="name a file that can be written")
        raise told from error
