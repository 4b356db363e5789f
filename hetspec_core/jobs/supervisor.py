"""The process that keeps one attempt at a run: `python -m hetspec_core.jobs.supervisor RUN_DIR`.

It holds the lock of the run and the leases of its GPUs for as long as it lives, starts the worker, passes on the wish
to stop, says how the worker ended when that could not say so itself, leaves no process behind, and starts those who
wait for the GPUs it gives back. It stays small: neither torch nor pydantic is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hetspec_core.errors import HetSpecError, ResourceError, RunError, StageFailed
from hetspec_core.failures import recognise
from hetspec_core.jobs import children, locks, records
from hetspec_core.jobs.gpus import VISIBLE_VARIABLE, take_lease
from hetspec_core.jobs.local import KILL_SIGNAL, MAIN_WORKER, WORKER_MODULE
from hetspec_core.jobs.queue import Queue
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity

NAME = "supervisor"
GRACE_S = 120.0
"""Seconds between asking a worker to stop and ending it, when who asked does not say."""
HEARTBEAT_S = 5.0
_LOCK_PATIENCE_S = 10.0  # the supervisor of the attempt before may still be cleaning up


class Supervisor:
    """One attempt at one run.

    Args:
        paths: the run folder; its grandparent is the data root.
        attempt: number of this start of the run.
        module: what the worker runs.
        gpus: UUIDs to lease.
    """

    def __init__(self, paths: RunPaths, attempt: int, module: str, gpus: tuple[str, ...]) -> None:
        self.paths = paths
        self.attempt = attempt
        self.module = module
        self.gpus = gpus
        self.queue = Queue(paths.folder.parents[1])
        self.worker = 0
        self._held: list[int] = []
        self._signals: set[int] = set()
        self._wake, wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, KILL_SIGNAL):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: object) -> None:
        self._signals.add(number)

    @property
    def asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        return bool(self._signals & {signal.SIGTERM, signal.SIGINT, KILL_SIGNAL})

    def take(self) -> ProcessIdentity:
        """Make the run and its GPUs this process's own, and say so in the desk's journal.

        Raises:
            RunError: another supervisor has the run, or this attempt was made already.
            ResourceError: a GPU is leased by another run.
        """
        me = ProcessIdentity.of()
        lock = locks.take(self.paths.folder / ".supervisor.lock", patience_s=_LOCK_PATIENCE_S)
        if lock is None:
            raise RunError(f"another supervisor is at work on run {self.paths.run_id}")
        self._held.append(lock)
        if any(one.get("attempt", 0) >= self.attempt for one in records.records(self.paths.desk, kind="launched")):
            raise RunError(f"attempt {self.attempt} at run {self.paths.run_id} was started already")
        for uuid in self.gpus:
            lease = take_lease(self.queue.data, uuid, self.paths.run_id)
            if lease is None:
                raise ResourceError(f"GPU {uuid} is leased by another run")
            self._held.append(lease)
        who = {"pid": me.pid, "host": me.host, "birth": me.birth}
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({**who, "attempt": self.attempt}).encode(), 0)
        records.append(self.paths.desk, "launched", NAME, attempt=self.attempt, **who)
        self.queue.remove(self.paths.run_id)
        children.adopt_orphans()
        return me

    def keep(self) -> None:
        """Start the worker, stay with it to its end, and clear up after it."""
        log, events = self.paths.log(MAIN_WORKER), self.paths.events
        log_offset, events_offset, kills = records.size(log), records.size(events), _oom_kills()
        try:
            self._start_worker(log)
        except OSError as error:
            self._say_end(_error("ResourceError", f"no worker could be started: {error}", "", ResourceError.exit_code))
            return
        self._stay()
        children.kill_group(self.worker)
        status = os.waitstatus_to_exitcode(os.waitpid(self.worker, 0)[1])
        children.reap_all()
        if sys.platform != "linux":  # where orphans do not come to this process
            children.end_marked(self.paths.folder, self.attempt)
        with contextlib.suppress(OSError):  # a full disk must not keep the end from being said
            records.append(
                self.paths.desk,
                "worker_ended",
                NAME,
                attempt=self.attempt,
                name=MAIN_WORKER,
                exit_status=status,
            )
        if not any(records.records(events, events_offset, kind="run_ended")):
            self._say_end(self._explain(status, records.tail(log, log_offset), _oom_kills() > kills))

    def give_back(self) -> None:
        """Give the locks back and start who waits for them."""
        while self._held:
            os.close(self._held.pop())
        self.queue.dispatch()

    def _start_worker(self, log: Path) -> None:
        environment = dict(os.environ) | {children.MARK: children.mark_of(self.paths.folder, self.attempt)}
        if self.gpus:
            environment[VISIBLE_VARIABLE] = ",".join(self.gpus)
        command = [sys.executable, "-P", "-m", self.module, str(self.paths.folder), "--attempt", str(self.attempt)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=children.end_with_parent(),
            )
        self.worker = process.pid
        process.returncode = 0  # it is waited for below, by number

    def _stay(self) -> None:
        deadline: float | None = None
        forced = False
        while not children.has_ended(self.worker):
            if self.asked and deadline is None:
                deadline = time.monotonic() + self._grace()
                os.kill(self.worker, signal.SIGTERM)  # to it alone: its helpers must live until its safe point
            if not forced and deadline is not None and (KILL_SIGNAL in self._signals or time.monotonic() >= deadline):
                forced = True
                children.kill_group(self.worker)
            children.reap_adopted(self.worker)
            self._beat()
            left = HEARTBEAT_S if deadline is None or forced else max(0.0, deadline - time.monotonic())
            select.select([self._wake], [], [], min(HEARTBEAT_S, left))
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._held[0])

    def _grace(self) -> float:
        for record in records.records(self.paths.desk, kind="cancel_asked"):
            grace = record.get("grace_s")
            if record.get("attempt") == self.attempt and isinstance(grace, int | float):
                return float(grace)
        return GRACE_S

    def _explain(self, status: int, log: str, killed_for_memory: bool) -> dict[str, Any]:
        if self.asked:
            return _error("cancelled", "the worker was ended before a safe point", "", 130)
        again = "what was written before is intact: resume the run"
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"ended with status {status} without a word"
        if status == -signal.SIGKILL and killed_for_memory:
            message = "the kernel killed the worker, because the machine was out of memory"
            hint = "lower tokens_per_batch or generation_batch, or free memory; then resume the run"
            return _error("ResourceError", message, hint, ResourceError.exit_code)
        failure = recognise(log)
        if failure is None:
            return _error("StageFailed", f"the worker {how}", again, StageFailed.exit_code)
        return _error("StageFailed", f"the worker {how}: {failure.message}", failure.hint, StageFailed.exit_code)

    def _say_end(self, error: dict[str, Any]) -> None:
        state = "cancelled" if error["kind"] == "cancelled" else "failed"
        try:
            records.append(self.paths.events, "run_ended", NAME, state=state, error=error, attempt=self.attempt)
        except OSError as failure:  # the run is then lost, which is what can be seen of it
            print(f"the end could not be written: {failure}; it was {error['message']}", file=sys.stderr)


def _error(kind: str, message: str, hint: str, exit_code: int) -> dict[str, Any]:
    return {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """How often the kernel has killed for want of memory since the boot (Linux)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _answer(file: int | None, answer: dict[str, Any]) -> None:
    if file is None:
        return
    with contextlib.suppress(BrokenPipeError):  # who launched this is gone, which changes nothing
        os.write(file, json.dumps(answer).encode() + b"\n")
    os.close(file)


def main(arguments: list[str] | None = None) -> int:
    """Command line of a supervisor."""
    parser = argparse.ArgumentParser(prog="hetspec_core.jobs.supervisor", description="Keep one attempt at a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, default=1, help="number of this start of the run")
    parser.add_argument("--module", default=WORKER_MODULE, help="what the worker runs")
    parser.add_argument("--gpu", action="append", default=[], metavar="UUID", help="GPU to lease; may be repeated")
    parser.add_argument("--ready", type=int, default=None, metavar="FD", help="file to answer to whoever launched this")
    given = parser.parse_args(arguments)
    if given.ready is not None:
        os.set_inheritable(given.ready, False)
    supervisor = Supervisor(RunPaths(given.run_dir.absolute()), given.attempt, given.module, tuple(given.gpu))
    try:
        me = supervisor.take()
    except HetSpecError as error:
        print(f"error: {error}", file=sys.stderr)
        _answer(given.ready, {"kind": type(error).__name__, "message": error.message})
        return error.exit_code
    _answer(given.ready, {"ready": True, "birth": me.birth, "host": socket.gethostname()})
    try:
        supervisor.keep()
    finally:
        supervisor.give_back()
    return 0


if __name__ == "__main__":
    sys.exit(main())
