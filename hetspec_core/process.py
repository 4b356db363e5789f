"""Processes: their identity, how a Python program of HetSpec is started, and how children are ended.

The kernel uses process ids again, so an identity has the start time of the process too. On Linux that time is counted
from the boot (field 22 of /proc/PID/stat) and stored with the boot's id, so that neither a stepped clock nor a reboot
makes two processes equal. Elsewhere it is psutil's start time.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_LARGEST_PID = 2**31 - 1  # of the kernel's type; a journal may hold any number
_DEAD = frozenset("ZXx")  # zombie and dead, as proc(5) writes them


@dataclass(frozen=True)
class ProcessIdentity:
    """One process; a later process with the same id is not equal to it.

    Attributes:
        pid: process id on `host`.
        birth: the kernel's start time of the process, as opaque text.
        host: name of the machine it runs on.
    """

    pid: int
    birth: str
    host: str

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessIdentity:
        """Identity of process `pid` on this machine, of this process when absent.

        Raises:
            ProcessLookupError: there is no such process (any more).
        """
        number = os.getpid() if pid is None else pid
        birth = _birth(number)
        if birth is None:
            raise ProcessLookupError(f"no process {number} on this machine")
        return cls(number, birth, socket.gethostname())

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None = it is on another host, so that this one cannot tell."""
        if self.host != socket.gethostname():
            return None
        return _birth(self.pid) == self.birth


def python_command(*words: str) -> list[str]:
    """The command line of this Python with further words, as `-m MODULE`.

    With `-P` neither the current folder nor a script's folder is on `sys.path`: a `torch.py` or `json.py` beside a
    downloaded draft is not imported. Start it with `python_environment`.
    """
    return [sys.executable, "-P", *words]


def python_environment(
    more: Mapping[str, str] | None = None, *, variables: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`variables` (this process's when absent) and `more`, with which `python_command` runs the code of this process.

    PYTHONPATH begins with a checkout that is not installed. Its empty parts are removed, because each stands for the
    current folder.
    """
    environment = {**(os.environ if variables is None else variables), **(more or {})}
    home = str(Path(__file__).resolve().parents[1])
    own = [] if Path(home).name in ("site-packages", "dist-packages") else [home]
    given = [part for part in environment.pop("PYTHONPATH", "").split(os.pathsep) if part and part not in own]
    if own or given:
        environment["PYTHONPATH"] = os.pathsep.join([*own, *given])
    return environment


_RUN_PREFIXES = (
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "NUMEXPR_", "CUDA_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_"),
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HETSPEC_", "SGLANG_", "WANDB_", "LD_", "PYTHON"),
)
_RUN_NAMES = frozenset(
    {
        *("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    }
)
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def is_run_variable(name: str) -> bool:
    """Whether a run takes this variable from the process that submitted it, whichever process starts it.

    These decide how it computes and where it finds files. Variables that hold keys are excluded, because they would be
    written to a file.
    """
    name = name.upper()
    if any(word in name for word in _SECRET_WORDS):
        return False
    return name in _RUN_NAMES or name.startswith(_RUN_PREFIXES)


def run_variables() -> dict[str, str]:
    """This process's variables that a run takes from the process that submitted it."""
    return {name: value for name, value in os.environ.items() if is_run_variable(name)}


def end_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends, for whatever reason (Linux).

    For a child that can call this itself: nothing runs between fork and exec, so the parent may have threads. The
    kernel watches the thread of the parent that forked, which must live as long as the parent.
    """
    if sys.platform != "linux":
        return
    _end_with_parent(ctypes.CDLL(None).prctl, parent)


def end_with_this() -> Callable[[], None] | None:
    """A `preexec_fn` that makes the kernel kill the child when this process ends, for whatever reason (Linux)."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: between fork and exec nothing may be loaded
    return lambda: _end_with_parent(prctl, parent)


def _end_with_parent(prctl: Callable[..., int], parent: int) -> None:
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def end_marked(variable: str, matches: Callable[[str], bool]) -> list[psutil.Process]:
    """Kill every process whose environment has a matching value of a variable; returns these processes.

    A process is recognised by its environment, so an unrelated one that has the id of an earlier one is safe.
    """
    import psutil

    killed = []
    for process in psutil.process_iter():
        try:
            value = process.environ().get(variable)
            if value is not None and matches(value):
                process.kill()
                killed.append(process)
        except (psutil.Error, OSError):
            continue
    return killed


def signal_name(number: int) -> str:
    """The name of a signal: SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _birth(pid: int) -> str | None:
    if not 0 < pid <= _LARGEST_PID:
        return None
    return _birth_linux(pid) if sys.platform == "linux" else _birth_elsewhere(pid)


def _birth_linux(pid: int) -> str | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the command's name may hold blanks and brackets
    return None if fields[0] in _DEAD else f"{boot}:{fields[19]}"


def _birth_elsewhere(pid: int) -> str | None:
    import psutil

    try:
        process = psutil.Process(pid)
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if dead else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
