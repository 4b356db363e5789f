"""Ending what workers leave behind: their groups, what they started, and what nobody is parent of any more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Container
from pathlib import Path

MARK = "HETSPEC_ATTEMPT"
"""In the environment of a worker and of all that it starts: the run folder and the number of the attempt."""

WORKER_MARK = "HETSPEC_WORKER"
"""Beside it: the name of the worker."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_REAP_S = 5.0


def mark_of(folder: Path, attempt: int) -> str:
    """Value of `MARK` for an attempt."""
    return f"{folder}#{attempt}"


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> Callable[[], None] | None:
    """What a child must do first so that the kernel ends it when this process ends, however that happens (Linux)."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)

    return bind


def has_ended(pid: int) -> bool:
    """Whether a child has ended. It is not reaped, so its number, and its group's, remain its own."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap_adopted(workers: Container[int]) -> None:
    """Reap children that have ended, up to the first that is a worker, which is left."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid in workers:
            return
        os.waitpid(ended.si_pid, 0)


def end_orphans(worker: str, others: Container[int]) -> None:
    """End what a worker that is gone has left to this process, while other workers go on; for a few seconds at most."""
    import psutil

    limit = time.monotonic() + _REAP_S
    while time.monotonic() < limit:
        left = False
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in others and process.environ().get(WORKER_MARK) == worker:
                    process.kill()  # what it started itself comes to this process then, and is met in the next round
                    left = True
        with contextlib.suppress(ChildProcessError):
            reap_adopted(others)
        if not left:
            return
        time.sleep(0.01)


def kill_group(leader: int) -> None:
    """SIGKILL to a process group whose leader has not been reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def reap_all() -> None:
    """End and reap every child of this process and all they started, for a few seconds at most."""
    import psutil

    limit = time.monotonic() + _REAP_S
    while time.monotonic() < limit:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def end_marked(folder: Path, last_attempt: int) -> int:
    """End what is left of attempts at a run up to `last_attempt`, whose supervisor is gone; returns how many it was.

    Processes are known by their environment, so one that has the number of an earlier one is safe.
    """
    import psutil

    ended = 0
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
            place, _, attempt = mark.rpartition("#")
            if place == str(folder) and attempt.isdecimal() and int(attempt) <= last_attempt:
                process.kill()
                ended += 1
        except (psutil.Error, OSError):
            continue
    return ended
