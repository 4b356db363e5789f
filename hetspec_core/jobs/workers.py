"""The workers of an attempt: how many there are, how they share the work, and each as a process with its own log.

The functions at the end kill what workers leave behind: their process groups, and orphans.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hetspec_core.events import RunEnded, WorkerEnded, append_event, decode_lines
from hetspec_core.files import file_size, tail
from hetspec_core.paths import RunPaths
from hetspec_core.process import end_marked, end_with_this, python_command

FULL_DISK_BYTES = 1 << 20
"""A disk with less room than this is called full when a worker there ends without a report."""

MARK = "HETSPEC_ATTEMPT"
"""Variable of a worker and of all that it starts: the run folder and the number of the attempt."""

WORKER_MARK = "HETSPEC_WORKER"
"""Variable beside it: the name of the worker."""

_PR_SET_CHILD_SUBREAPER = 36
_REAP_S = 5.0

GroupKind = Literal["alone", "shares", "ranks"]


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers an attempt has on this machine, and how they share its work.

    Attributes:
        kind: `alone`, one worker; `shares`, each makes a share on its own and may be started again, and one worker puts
            the shares together; `ranks`, all work in step, and none can go on without the others.
        size: workers on this machine.
        num_nodes: machines with as many ranks each.
        node_rank: which of them this one is.
        rendezvous: HOST:PORT where several machines meet; a free port of this one when empty.
    """

    kind: GroupKind = "alone"
    size: int = 1
    num_nodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""

    def to_word(self) -> str:
        """As one word of a command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_word(cls, word: str) -> WorkerPlan:
        """The inverse of `to_word`."""
        return cls(**json.loads(word))


def worker_name(number: int) -> str:
    """Name of a worker, of its log and of its lines in the journal."""
    return f"worker-{number}"


class WorkerProcess:
    """One worker: started, asked to stop, killed, reaped, and perhaps started again.

    Args:
        paths: the run folder.
        attempt: number of this start of the run.
        module: what it runs.
        number: its place in the group.
        words: further words of its command line.
        environment: variables over those of this process.
        writes_end: whether it writes the end of the run to the journal; else it leaves a report, which is read here.
    """

    def __init__(
        self,
        paths: RunPaths,
        attempt: int,
        module: str,
        number: int,
        *,
        words: Sequence[str] = (),
        environment: Mapping[str, str],
        writes_end: bool,
    ) -> None:
        self.name = worker_name(number)
        self.pid = 0
        self.starts = 0
        self._paths, self._attempt = paths, attempt
        self._log = paths.log(self.name)
        self._report = None if writes_end else paths.folder / f".{self.name}.end.json"
        self._command = python_command("-m", module, str(paths.folder), "--attempt", str(attempt))
        self._command += ["--worker", self.name, *words]
        if self._report is not None:
            self._command += ["--report", str(self._report)]
        self._environment = dict(environment) | {MARK: f"{paths.folder}#{attempt}", WORKER_MARK: self.name}
        self._log_offset = 0
        self._kills = 0

    def start(self) -> None:
        """Start it, in a session of its own, with its input closed and its output in its log.

        Raises:
            OSError: no process can be made.
        """
        self.starts += 1
        self._log_offset, self._kills = file_size(self._log), oom_kills()
        if self._report is not None:
            self._report.unlink(missing_ok=True)
        with self._log.open("ab") as output:
            process = subprocess.Popen(
                self._command,
                env=dict(os.environ) | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_this(),
            )
        self.pid = process.pid
        process.returncode = 0  # `reap` waits for it, by number

    def request_stop(self) -> None:
        """Ask it to stop. Its helpers are not asked: they must live until its safe point."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with its process group."""
        if self.pid:
            kill_group(self.pid)

    def has_ended(self) -> bool:
        """Whether it was started, has ended, and is to be reaped. Until then its number remains its own."""
        return bool(self.pid) and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """Kill what is left of its group, reap it, write its exit status to the desk's journal, and return that."""
        kill_group(self.pid)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        with contextlib.suppress(OSError):  # a full disk must not keep the end from being written
            event = WorkerEnded(attempt=self._attempt, name=self.name, exit_status=status)
            append_event(self._paths.desk, "supervisor", event)
        return status

    def report(self) -> RunEnded | None:
        """Its report of how it ended; None while there is none."""
        if self._report is None:
            return None
        try:
            found = list(decode_lines([self._report.read_bytes()]))
        except OSError:
            return None
        return found[0] if found and isinstance(found[0], RunEnded) else None

    def last_words(self) -> str:
        """The end of its log, since it was last started."""
        return tail(self._log, self._log_offset)

    def saw_memory_end(self) -> bool:
        """Whether the kernel has killed any process because memory ran out since this one was started."""
        return oom_kills() > self._kills

    def saw_full_disk(self) -> bool:
        """Whether the disk of the run folder has no room left; False for a folder that no longer exists."""
        try:
            found = os.statvfs(self._paths.folder)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize < FULL_DISK_BYTES


class Rendezvous:
    """Where ranks meet, as the variables that torch.distributed reads.

    Without a given address it is a port of this machine that is free now. The port stays bound, but not listened on,
    for as long as this object lives: the kernel gives it to no other program, and the first rank can listen on it.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._held: socket.socket | None = None
        if plan.rendezvous:
            host, _, port = plan.rendezvous.rpartition(":")
            self._host, self._port = host.strip("[]"), int(port)
            return
        self._host = "127.0.0.1"
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((self._host, 0))
        self._port = self._held.getsockname()[1]

    def variables(self, number: int) -> dict[str, str]:
        """The variables of worker `number` of this machine."""
        plan = self._plan
        found = {
            "MASTER_ADDR": self._host,
            "MASTER_PORT": str(self._port),
            "WORLD_SIZE": str(plan.size * plan.num_nodes),
            "RANK": str(plan.size * plan.node_rank + number),
            "LOCAL_WORLD_SIZE": str(plan.size),
            "LOCAL_RANK": str(number),
        }
        if plan.num_nodes == 1 and sys.platform == "linux":  # a machine may not know its own name
            found["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
        return found

    def close(self) -> None:
        """Release the port."""
        if self._held is not None:
            self._held.close()


def threads_each(size: int) -> dict[str, str]:
    """Processor threads for each of several workers, unless the user has set a number."""
    if size == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // size))}


def oom_kills() -> int:
    """How many processes the kernel has killed since the boot because memory ran out (Linux)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_group(leader: int) -> None:
    """SIGKILL to a process group whose leader has not been reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def reap_adopted(workers: Container[int]) -> None:
    """Reap children that have ended, up to the first that is a worker, which is left."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid in workers:
            return
        os.waitpid(ended.si_pid, 0)


def kill_orphans(worker: str, others: Container[int]) -> None:
    """Kill what a reaped worker has left to this process, while other workers go on; for a few seconds at most."""
    import psutil

    limit = time.monotonic() + _REAP_S
    while time.monotonic() < limit:
        left = False
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in others and process.environ().get(WORKER_MARK) == worker:
                    process.kill()  # its own children become this process's, and are killed in the next round
                    left = True
        with contextlib.suppress(ChildProcessError):
            reap_adopted(others)
        if not left:
            return
        time.sleep(0.01)


def reap_all() -> None:
    """Kill and reap every child of this process and all they started, for a few seconds at most."""
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


def end_attempts(folder: Path, last_attempt: int) -> None:
    """Kill what is left of the attempts at a run up to `last_attempt`, whose supervisors have ended."""

    def is_meant(mark: str) -> bool:
        marked, _, attempt = mark.rpartition("#")
        return marked == str(folder) and attempt.isdecimal() and int(attempt) <= last_attempt

    end_marked(MARK, is_meant)
