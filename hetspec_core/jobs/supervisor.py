"""The process that keeps one attempt at a run: `python -m hetspec_core.jobs.supervisor RUN_DIR`.

It holds the lock of the run and the leases of its GPUs and processor slots for as long as it lives, starts the workers,
passes on the wish to stop, says how the run ended when no worker says so itself, leaves no process behind, and starts
those who wait for what it gives back. It stays small: neither torch nor pydantic is imported here.
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
from hetspec_core.files import take_lock
from hetspec_core.jobs import children, endings, records
from hetspec_core.jobs.crew import CrewKind, CrewPlan, Meeting, Member, threads_each
from hetspec_core.jobs.gpus import VISIBLE_VARIABLE, take_lease
from hetspec_core.jobs.local import KILL_SIGNAL, WORKER_MODULE
from hetspec_core.jobs.queue import Queue
from hetspec_core.jobs.shift import RETRIES, Shift
from hetspec_core.jobs.slots import take_slot
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.terminal_text import say

NAME = "supervisor"
RESERVE_NAME = ".last_words"
RESERVE_BYTES = 64 << 10
"""Room that is kept in the run folder for the word that says how the run ended, should the disk be full then."""
GRACE_S = 120.0
"""Seconds between asking a worker to stop and ending it, when who asked does not say."""
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
        plan: CrewPlan,
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
        """Whether somebody wants the run to stop."""
        return bool(self._signals & {signal.SIGTERM, signal.SIGINT, KILL_SIGNAL})

    def take(self) -> ProcessIdentity:
        """Make the run and its GPUs this process's own, and say so in the desk's journal.

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
        if any(one.get("attempt", 0) >= self.attempt for one in records.records(self.paths.desk, kind="launched")):
            raise RunError(f"attempt {self.attempt} at run {self.paths.run_id} was started already")
        for uuid in self.gpus:
            lease = take_lease(self.queue.data, uuid, self.paths.run_id)
            if lease is None:
                raise ResourceError(f"GPU {uuid} is leased by another run")
            self._held.append(lease)
        for name in self.slots:
            lease = take_slot(self.queue.data, name, self.paths.run_id)
            if lease is None:
                raise ResourceError(f"processor slot {name} is leased by another run")
            self._held.append(lease)
        who = {"pid": me.pid, "host": me.host, "birth": me.birth}
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({**who, "attempt": self.attempt}).encode(), 0)
        records.append(self.paths.desk, "launched", NAME, attempt=self.attempt, **who)
        with contextlib.suppress(OSError):
            (self.paths.folder / RESERVE_NAME).write_bytes(os.urandom(RESERVE_BYTES))  # which no disk can compress
        self.queue.remove(self.paths.run_id)
        children.adopt_orphans()
        return me

    def keep(self) -> None:
        """Start the workers, stay with them to their end, and clear up after them."""
        if self.plan.kind == "ranks":
            self._keep_ranks()
        elif self.plan.kind == "alone" or self._keep_shares():
            self._keep_one()

    def _keep_one(self) -> None:
        """A worker that says the end itself, unless it cannot; one that puts shares together is started again then."""
        visible = {VISIBLE_VARIABLE: ",".join(self.gpus)} if self.gpus else {}
        member = Member(self.paths, self.attempt, self.module, 0, environment=visible, speaks=True)
        while True:
            offset = records.size(self.paths.events)
            shift = self._stay("alone", [member])
            if any(records.records(self.paths.events, offset, kind="run_ended")):
                return
            if shift.has_failed:
                self._say_end(shift.endings[member.name].error)
                return
            if self.asked:
                self._say_end(endings.stopped())
                return
            error = endings.explain(member, shift.statuses[member.name], "the worker")
            if self.plan.kind == "alone" or member.starts > RETRIES:
                self._say_end(error)
                return
            self._warn(f"{error['message']}; the shares are put together again")

    def _keep_shares(self) -> bool:
        """Workers that make a share each, started again when they die; returns whether all shares are made."""
        size = self.plan.size
        shift = self._stay("shares", [self._member(number, ("--share", f"{number}/{size}")) for number in range(size)])
        if not self.asked and not shift.has_failed:
            return True
        self._say_bad_end(shift)
        return False

    def _keep_ranks(self) -> None:
        """Workers that go in step: the first that fails ends all. Each sees all GPUs of the run, and LOCAL_RANK is the
        index of its own, as torchrun has it: DistributedDataParallel takes that index for a device.
        """
        meeting = Meeting(self.plan)
        try:
            size = self.plan.size
            visible = {VISIBLE_VARIABLE: ",".join(self.gpus)} if self.gpus else {}
            members = [self._member(number, (), meeting.variables(number) | visible) for number in range(size)]
            shift = self._stay("ranks", members)
        finally:
            meeting.close()
        if shift.has_failed or len(shift.statuses) < self.plan.size:
            self._say_bad_end(shift)
        else:
            self._say_end(None)

    def _member(self, number: int, words: tuple[str, ...], variables: Mapping[str, str] | None = None) -> Member:
        own = {VISIBLE_VARIABLE: self.gpus[number]} if self.gpus else {}
        environment = threads_each(self.plan.size) | own | dict(variables or {})
        return Member(self.paths, self.attempt, self.module, number, words=words, environment=environment, speaks=False)

    def _stay(self, kind: CrewKind, members: list[Member]) -> Shift:
        shift = Shift(kind, members, self._warn)
        if self.asked:  # between two shifts
            return shift
        shift.begin()
        while not shift.is_over:
            if self.asked:
                shift.stop(0.0 if KILL_SIGNAL in self._signals else self._grace())
            left_s = shift.tend()
            with contextlib.suppress(ChildProcessError):
                children.reap_adopted(shift.pids)
            self._beat()
            if shift.is_over:
                break
            select.select([self._wake], [], [], min(HEARTBEAT_S, left_s))
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
        children.reap_all()
        if sys.platform != "linux":  # where orphans do not come to this process
            children.end_marked(self.paths.folder, self.attempt)
        return shift

    def _warn(self, message: str) -> None:
        with contextlib.suppress(OSError):  # as on a full disk
            records.append(self.paths.events, "log", NAME, level="warning", message=message)

    def give_back(self) -> None:
        """Give the locks back and start who waits for them."""
        self._free_reserve()
        self._clear_remains()
        while self._held:
            os.close(self._held.pop())
        self.queue.dispatch()

    def _clear_remains(self) -> None:
        """Delete what the workers of this attempt made in the run folder while it was being deleted: no list would ever
        show it. A folder that still has its spec.toml, or the lock that is held here, is a run and stays.
        """
        if not self._held or self._has_folder() or os.path.lexists(self.paths.spec):
            return
        shutil.rmtree(self.paths.folder, ignore_errors=True)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._held[0])
        if not self._has_folder():  # nobody could see this run, let alone stop it
            self._signals.add(KILL_SIGNAL)

    def _has_folder(self) -> bool:
        """Whether the run folder is still the one that was taken: somebody may have deleted it, or moved it away."""
        try:
            return os.path.samestat(self.paths.supervisor_lock.stat(), os.fstat(self._held[0]))
        except FileNotFoundError:
            return False
        except OSError:  # a disk that does not answer says nothing
            return True

    def _grace(self) -> float:
        for record in records.records(self.paths.desk, kind="cancel_asked"):
            grace = record.get("grace_s")
            if record.get("attempt") == self.attempt and isinstance(grace, int | float):
                return float(grace)
        return GRACE_S

    def _say_bad_end(self, shift: Shift) -> None:
        """Say the end of workers that only report theirs: that of the one that failed first, in its name."""
        bad = list(shift.endings.values())
        if self.asked:  # then ends by force, and what the others say of them, are what was asked for
            bad = [one for one in bad if one.is_said and not one.is_echo]
            if not bad:
                self._say_end(endings.stopped())
                return
        cause = endings.with_worker(endings.first_cause(bad))
        self._say_end(cause.error, cause.worker)

    def _say_end(self, error: dict[str, Any] | None, worker: str = NAME) -> None:
        state = "succeeded" if error is None else "cancelled" if error["kind"] == "cancelled" else "failed"
        for has_reserve in (True, False):
            try:
                records.append(self.paths.events, "run_ended", worker, state=state, error=error, attempt=self.attempt)
                return
            except OSError as failure:
                if has_reserve:
                    self._free_reserve()
                    continue
                with contextlib.suppress(OSError):  # the run is then lost, which is what can be seen of it
                    say(f"the end could not be written: {failure}; it was {error or state}", file=sys.stderr)

    def _free_reserve(self) -> None:
        with contextlib.suppress(OSError):
            (self.paths.folder / RESERVE_NAME).unlink()


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
    parser.add_argument("--module", default=WORKER_MODULE, help="what the workers run")
    parser.add_argument(
        "--crew", type=CrewPlan.from_word, default=CrewPlan(), help="how many workers, and how they work"
    )
    parser.add_argument("--gpu", action="append", default=[], metavar="UUID", help="GPU to lease; may be repeated")
    parser.add_argument("--slot", action="append", default=[], metavar="NAME", help="slot to lease; may be repeated")
    parser.add_argument("--ready", type=int, default=None, metavar="FD", help="file to answer to whoever launched this")
    given = parser.parse_args(arguments)
    if given.ready is not None:
        os.set_inheritable(given.ready, False)
    supervisor = Supervisor(
        RunPaths(given.run_dir.absolute()), given.attempt, given.module, given.crew, tuple(given.gpu), tuple(given.slot)
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
        supervisor.give_back()
    return 0


if __name__ == "__main__":
    sys.exit(main())
