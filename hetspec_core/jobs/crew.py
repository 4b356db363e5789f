"""The workers of an attempt: how many there are, how they share the work, and each as a process with its own log.

It knows processes and files, not why a crew is wanted, nor what becomes of the run when a worker ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hetspec_core.jobs import children, records
from hetspec_core.paths import RunPaths
from hetspec_core.process import python_command

FULL_DISK_BYTES = 1 << 20
"""A disk with less room than this is called full when a worker ends there without a word."""

CrewKind = Literal["alone", "shares", "ranks"]


@dataclass(frozen=True)
class CrewPlan:
    """How many workers an attempt has on this machine, and how they share its work.

    Attributes:
        kind: `alone`, one worker; `shares`, each makes a share on its own and may be started again, and one worker puts
            the shares together; `ranks`, all work in step, and none can go on without the others.
        size: workers on this machine.
        num_nodes: machines with as many ranks each.
        node_rank: which of them this one is.
        rendezvous: HOST:PORT where several machines meet; a free port of this one when empty.
    """

    kind: CrewKind = "alone"
    size: int = 1
    num_nodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""

    def to_word(self) -> str:
        """As one word of a command line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_word(cls, word: str) -> CrewPlan:
        """The inverse of `to_word`."""
        return cls(**json.loads(word))


def worker_name(number: int) -> str:
    """Name of a worker, of its log and of its lines in the journal."""
    return f"worker-{number}"


class Member:
    """One worker: started, asked to stop, ended, buried, and perhaps started again.

    Args:
        paths: the run folder.
        attempt: number of this start of the run.
        module: what it runs.
        number: place in the crew.
        words: further words of its command line.
        environment: variables over those of this process.
        speaks: whether it says the run's end in the journal itself; else it leaves a report, which is read here.
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
        speaks: bool,
    ) -> None:
        self.name = worker_name(number)
        self.pid = 0
        self.starts = 0
        self._paths, self._attempt = paths, attempt
        self._log = paths.log(self.name)
        self._report = None if speaks else paths.folder / f".{self.name}.end.json"
        self._command = python_command("-m", module, str(paths.folder), "--attempt", str(attempt))
        self._command += ["--worker", self.name, *words]
        if self._report is not None:
            self._command += ["--report", str(self._report)]
        marks = {children.MARK: children.mark_of(paths.folder, attempt), children.WORKER_MARK: self.name}
        self._environment = dict(environment) | marks
        self._log_offset = 0
        self._kills = 0

    def start(self) -> None:
        """Start it, in a session of its own, with its input closed and its output in its log.

        Raises:
            OSError: no process can be made.
        """
        self.starts += 1
        self._log_offset, self._kills = records.size(self._log), oom_kills()
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
                preexec_fn=children.end_with_parent(),
            )
        self.pid = process.pid
        process.returncode = 0  # it is waited for in `bury`, by number

    def ask(self) -> None:
        """Ask it to stop: it alone, because its helpers must live until its safe point."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it with its group."""
        if self.pid:
            children.kill_group(self.pid)

    def has_ended(self) -> bool:
        """Whether it was started and is not at work any more; it is to be buried then."""
        return bool(self.pid) and children.has_ended(self.pid)

    def bury(self) -> int:
        """End what is left of its group, reap it, note its exit status in the desk's journal, and return that."""
        children.kill_group(self.pid)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        with contextlib.suppress(OSError):  # a full disk must not keep the end from being said
            about: dict[str, Any] = {"attempt": self._attempt, "name": self.name, "exit_status": status}
            records.append(self._paths.desk, "worker_ended", "supervisor", **about)
        return status

    def report(self) -> dict[str, Any] | None:
        """What it said of its end: time, state and error; None while it has not."""
        if self._report is None:
            return None
        try:
            found = json.loads(self._report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def last_words(self) -> str:
        """The end of its log, of this start only."""
        return records.tail(self._log, self._log_offset)

    def saw_memory_end(self) -> bool:
        """Whether the kernel has killed anybody for want of memory since it was started."""
        return oom_kills() > self._kills

    def saw_full_disk(self) -> bool:
        """Whether there is hardly a byte left where the run folder is; of a folder that is gone nothing is known."""
        try:
            found = os.statvfs(self._paths.folder)
        except OSError:
            return False
        return found.f_bavail * found.f_frsize < FULL_DISK_BYTES


class Meeting:
    """Where ranks meet, as the variables that torch.distributed reads.

    Without a given place it is a port of this machine that is free now. It stays bound, but not listened on, for as
    long as this object lives: the kernel gives it to nobody else, and the first rank can still listen on it.
    """

    def __init__(self, plan: CrewPlan) -> None:
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
        """What worker `number` of this machine needs to know."""
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
        """Let go of the port."""
        if self._held is not None:
            self._held.close()


def threads_each(size: int) -> dict[str, str]:
    """Processor threads for each of several workers, unless the user has said how many."""
    if size == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // size))}


def oom_kills() -> int:
    """How often the kernel has killed for want of memory since the boot (Linux)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
