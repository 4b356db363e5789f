"""The process that keeps one attempt at a run: `python -m hetspec_core.jobs.supervisor RUN_DIR`.

It holds the lock of the run and the leases of its GPUs and processor slots for as long as it lives, starts the workers,
passes on the request to stop, writes the end of the run when no worker does, leaves no process behind, and starts the
runs that wait for what it releases. It lives as long as its run, so it imports little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetspec_core.errors import HetSpecError, ResourceError, RunError
from hetspec_core.events import CancelAsked, ErrorInfo, Launched, Log, RunEnded, append_event, select_events
from hetspec_core.files import file_size, take_lock
from hetspec_core.jobs.executor import WORKER_MODULE
from hetspec_core.jobs.leases import VISIBLE_VARIABLE, gpu_lease, slot_lease, take_lease
from hetspec_core.jobs.local import KILL_SIGNAL
from hetspec_core.jobs.queue import Queue
from hetspec_core.jobs.worker_group import RETRIES, WorkerGroup, explain, first_cause, stopped, with_worker
from hetspec_core.jobs.workers import (
    GroupKind,
    Rendezvous,
    WorkerPlan,
    WorkerProcess,
    adopt_orphans,
    end_attempts,
    reap_adopted,
    reap_all,
    threads_each,
)
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.terminal_text import say

NAME = "supervisor"
RESERVE_NAME = ".last_words"
RESERVE_BYTES = 64 << 10
"""Room that is kept in the run folder for the end event, should the disk be full then."""
GRACE_S = 120.0
"""Seconds between asking a worker to stop and killing it, when the request does not say."""
HEARTBEAT_S = 5.0
_LOCK_PATIENCE_S = 10.0  # the supervisor of the attempt before may still be cleaning up


class Supervisor:
    """One attempt at one run.

    Args:
        paths: the run folder; its grandparent is the data root.
        attempt: number of this start of the run.
        module: what the workers run.
        plan: how many workers there are and how they share the work.
        gpus: UUIDs to lease; a lone worker sees them all, of several each sees its own.
        slots: names of processor slots to lease.
    """

    def __init__(
        self,
        paths: RunPaths,
        attempt: int,
        module: str,
        plan: WorkerPlan,
        gpus: tuple[str, ...],
        slots: tuple[str, ...] = (),
    ) -> None:
        self.paths = paths
        self.attempt = attempt
        self.module = module
        self.plan = plan
        self.gpus = gpus
        self.slots = slots
        self.queue = Queue(paths.folder.parents[1])
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
        """Whether the run was asked to stop."""
        return bool(self._signals & {signal.SIGTERM, signal.SIGINT, KILL_SIGNAL})

    def take(self) -> ProcessIdentity:
        """Take the locks of the run and its leases, and write that to the desk's journal.

        Raises:
            RunError: another supervisor has the run, this attempt was made already, or the run was deleted.
            ResourceError: a GPU or a processor slot is leased by another run.
        """
        me = ProcessIdentity.of()
        if not self.paths.spec.is_file():
            raise RunError(f"run {self.paths.run_id} was deleted")
        try:
            lock = take_lock(self.paths.supervisor_lock, patience_s=_LOCK_PATIENCE_S, make_folder=False)
        except FileNotFoundError:
            raise RunError(f"run {self.paths.run_id} was deleted") from None
        if lock is None:
            raise RunError(f"another supervisor is at work on run {self.paths.run_id}")
        self._held.append(lock)
        if any(event.attempt >= self.attempt for event in select_events(self.paths.desk, Launched)):
            raise RunError(f"attempt {self.attempt} at run {self.paths.run_id} was started already")
        data = self.queue.data
        wanted = [(gpu_lease(data, uuid), f"GPU {uuid}") for uuid in self.gpus]
        wanted += [(slot_lease(data, name), f"processor slot {name}") for name in self.slots]
        for path, name in wanted:
            lease = take_lease(path, self.paths.run_id)
            if lease is None:
                raise ResourceError(f"{name} is leased by another run")
            self._held.append(lease)
        launched = Launched(attempt=self.attempt, pid=me.pid, host=me.host, birth=me.birth)
        os.ftruncate(lock, 0)
        os.pwrite(lock, launched.to_line(), 0)
        append_event(self.paths.desk, NAME, launched)
        with contextlib.suppress(OSError):
            (self.paths.folder / RESERVE_NAME).write_bytes(os.urandom(RESERVE_BYTES))  # which no disk can compress
        self.queue.remove(self.paths.run_id)
        adopt_orphans()
        return me

    def keep(self) -> None:
        """Start the workers, wait for their end, and kill what they leave behind."""
        if self.plan.kind == "ranks":
            self._keep_ranks()
        elif self.plan.kind == "alone" or self._keep_shares():
            self._keep_one()

    def _keep_one(self) -> None:
        """One worker, which writes the end itself unless it cannot; one that merges shares is then started again."""
        visible = {VISIBLE_VARIABLE: ",".join(self.gpus)} if self.gpus else {}
        worker = WorkerProcess(self.paths, self.attempt, self.module, 0, environment=visible, writes_end=True)
        while True:
            offset = file_size(self.paths.events)
            group = self._stay("alone", [worker])
            if any(select_events(self.paths.events, RunEnded, offset)):
                return
            if group.has_failed:
                self._say_end(group.endings[worker.name].error)
                return
            if self.asked:
                self._say_end(stopped())
                return
            error = explain(worker, group.statuses[worker.name], "the worker")
            if self.plan.kind == "alone" or worker.starts > RETRIES:
                self._say_end(error)
                return
            self._warn(f"{error.message}; the shares are put together again")

    def _keep_shares(self) -> bool:
        """Workers that make a share each, started again when they fail; returns whether all shares are made."""
        size = self.plan.size
        group = self._stay("shares", [self._worker(number, ("--share", f"{number}/{size}")) for number in range(size)])
        if not self.asked and not group.has_failed:
            return True
        self._say_bad_end(group)
        return False

    def _keep_ranks(self) -> None:
        """Workers in step: the first that fails ends all. Each sees all GPUs of the run, and LOCAL_RANK is the index of
        its own, as with torchrun: DistributedDataParallel takes that index for a device.
        """
        rendezvous = Rendezvous(self.plan)
        try:
            size = self.plan.size
            visible = {VISIBLE_VARIABLE: ",".join(self.gpus)} if self.gpus else {}
            workers = [self._worker(number, (), rendezvous.variables(number) | visible) for number in range(size)]
            group = self._stay("ranks", workers)
        finally:
            rendezvous.close()
        if group.has_failed or len(group.statuses) < self.plan.size:
            self._say_bad_end(group)
        else:
            self._say_end(None)

    def _worker(self, number: int, words: tuple[str, ...], variables: Mapping[str, str] | None = None) -> WorkerProcess:
        own = {VISIBLE_VARIABLE: self.gpus[number]} if self.gpus else {}
        environment = threads_each(self.plan.size) | own | dict(variables or {})
        return WorkerProcess(
            self.paths, self.attempt, self.module, number, words=words, environment=environment, writes_end=False
        )

    def _stay(self, kind: GroupKind, workers: list[WorkerProcess]) -> WorkerGroup:
        group = WorkerGroup(kind, workers, self._warn)
        if self.asked:  # between two groups
            return group
        group.begin()
        while not group.is_over:
            if self.asked:
                group.stop(0.0 if KILL_SIGNAL in self._signals else self._grace())
            left_s = group.poll()
            with contextlib.suppress(ChildProcessError):
                reap_adopted(group.pids)
            self._beat()
            if group.is_over:
                break
            select.select([self._wake], [], [], min(HEARTBEAT_S, left_s))
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        reap_all()
        if sys.platform != "linux":  # where orphans do not come to this process
            end_attempts(self.paths.folder, self.attempt)
        return group

    def _warn(self, message: str) -> None:
        with contextlib.suppress(OSError):  # as on a full disk
            append_event(self.paths.events, NAME, Log(level="warning", message=message))

    def release(self) -> None:
        """Release the locks and start the runs that wait for them."""
        self._free_reserve()
        self._clear_remains()
        while self._held:
            os.close(self._held.pop())
        self.queue.dispatch()

    def _clear_remains(self) -> None:
        """Delete what the workers of this attempt made in the run folder while it was being deleted: no list shows it.
        A folder that still has its spec.toml, or the lock that is held here, is a run and stays.
        """
        if not self._held or self._has_folder() or os.path.lexists(self.paths.spec):
            return
        shutil.rmtree(self.paths.folder, ignore_errors=True)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._held[0])
        if not self._has_folder():  # no command can see or stop this run any more
            self._signals.add(KILL_SIGNAL)

    def _has_folder(self) -> bool:
        """Whether the run folder is still the one that was taken, and was neither deleted nor moved."""
        try:
            return os.path.samestat(self.paths.supervisor_lock.stat(), os.fstat(self._held[0]))
        except FileNotFoundError:
            return False
        except OSError:  # a disk that does not answer
            return True

    def _grace(self) -> float:
        for event in select_events(self.paths.desk, CancelAsked):
            if event.attempt == self.attempt and event.grace_s is not None:
                return event.grace_s
        return GRACE_S

    def _say_bad_end(self, group: WorkerGroup) -> None:
        """Write the end of workers that only report theirs: that of the one that failed first, in its name."""
        bad = list(group.endings.values())
        if self.asked:  # then endings by force, and their echoes, are what was asked for
            bad = [one for one in bad if one.is_reported and not one.is_echo]
            if not bad:
                self._say_end(stopped())
                return
        cause = with_worker(first_cause(bad))
        self._say_end(cause.error, cause.worker)

    def _say_end(self, error: ErrorInfo | None, worker: str = NAME) -> None:
        state = "succeeded" if error is None else "cancelled" if error.kind == "cancelled" else "failed"
        event = RunEnded(state=state, error=error, attempt=self.attempt)
        for has_reserve in (True, False):
            try:
                append_event(self.paths.events, worker, event)
                return
            except OSError as failure:
                if has_reserve:
                    self._free_reserve()
                    continue
                with contextlib.suppress(OSError):  # without this event the state of the run is `lost`
                    say(
                        f"the end could not be written: {failure}; it was {error.message if error else state}",
                        file=sys.stderr,
                    )

    def _free_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.paths.folder / RESERVE_NAME).unlink()


def _answer(file: int | None, answer: dict[str, Any]) -> None:
    if file is None:
        return
    with contextlib.suppress(BrokenPipeError):  # the process that launched this has ended, which changes nothing
        os.write(file, json.dumps(answer).encode() + b"\n")
    os.close(file)


def main(arguments: list[str] | None = None) -> int:
    """Command line of a supervisor."""
    parser = argparse.ArgumentParser(prog="hetspec_core.jobs.supervisor", description="Keep one attempt at a run.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, default=1, help="number of this start of the run")
    parser.add_argument("--module", default=WORKER_MODULE, help="what the workers run")
    parser.add_argument(
        "--workers", type=WorkerPlan.from_word, default=WorkerPlan(), help="how many workers, and how they work"
    )
    parser.add_argument("--gpu", action="append", default=[], metavar="UUID", help="GPU to lease; may be repeated")
    parser.add_argument("--slot", action="append", default=[], metavar="NAME", help="slot to lease; may be repeated")
    parser.add_argument("--ready", type=int, default=None, metavar="FD", help="file for the answer")
    given = parser.parse_args(arguments)
    if given.ready is not None:
        os.set_inheritable(given.ready, False)
    supervisor = Supervisor(
        RunPaths(given.run_dir.absolute()),
        given.attempt,
        given.module,
        given.workers,
        tuple(given.gpu),
        tuple(given.slot),
    )
    try:
        me = supervisor.take()
    except HetSpecError as error:
        say(f"error: {error}", file=sys.stderr)
        _answer(given.ready, {"kind": type(error).__name__, "message": error.message})
        return error.exit_code
    _answer(given.ready, {"ready": True, "birth": me.birth, "host": socket.gethostname()})
    try:
        supervisor.keep()
    finally:
        supervisor.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
