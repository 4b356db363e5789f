"""Engine commands without a process of their own: `python -m MODULE ...` runs in this one, which has torch already."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
import traceback
import warnings
from typing import Any
from unittest import mock


def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives for a command that `process.python_command("-m", ...)` made."""
    module, *arguments = command[command.index("-m") + 1 :]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # of runpy, for a module that is imported already
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # as an interpreter does
            traceback.print_exc()
            status = 1
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
