"""The workbench: make, start, follow and stop runs, and give their states.

It joins run folders, registry, queue and executor.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hetspec_core.errors import NotFoundError, RunError
from hetspec_core.events import (
    AT_WORK,
    CancelAsked,
    EventBase,
    FoundLost,
    Journal,
    RunState,
    read_facts,
)
from hetspec_core.events.state import FINISHED, UNREADABLE
from hetspec_core.files import DISK_FULL, NOT_WRITABLE
from hetspec_core.jobs import Executor, Job, Queue, look_at, open_executor, run_state
from hetspec_core.paths import HOME_VARIABLE, Roots, RunPaths, make_folders, roots
from hetspec_core.runs import Registry, RunName, RunRow
from hetspec_core.runs.folders import is_run, run_paths
from hetspec_core.runs.rows import with_facts
from hetspec_core.service.folders import (
    desk_lock,
    keys_of,
    look_into,
    make_run_folder,
    no_run,
    queue_lock,
    refuse_copy,
    seal,
    submit_folder,
    submitted,
)
from hetspec_core.service.gpus import (
    GpuReport,
    read_gpus,
    stopped_children,
    waiting_reasons,
    waiting_run,
    waits_for,
    workers_on_processor,
)
from hetspec_core.service.names import InputKind, check_name, find_product, find_run
from hetspec_core.service.report import RunReport, RunSummary, read_report
from hetspec_core.service.watch import Watch, reap
from hetspec_core.spec import RunSpec

if TYPE_CHECKING:
    from hetspec_core.config.resolve import Resolved

RESUMABLE = frozenset({"dataset", "train"})
"""Stages that continue from what is on disk; the others are short, and are submitted again."""

_QUEUE_LOOK_S = 0.5  # between looks at the GPUs that a run waits for
_CHUNK = 500  # SQLite takes so many values at once, and some more


@dataclass(frozen=True)
class RunHandle:
    """A submitted run."""

    run_id: str
    paths: RunPaths


class Workbench:
    """All runs below one home.

    Args:
        home: folder of everything, as HETSPEC_HOME; the roots in force when absent.
        executor: starts supervisors; the usual one when absent.
    """

    def __init__(self, home: Path | None = None, executor: Executor | None = None) -> None:
        self.roots = roots() if home is None else Roots.below(home)
        environment = {} if home is None else {HOME_VARIABLE: str(self.roots.data)}
        self.executor = executor or open_executor(environment=environment)
        self.queue = Queue(self.roots.data)
        self._jobs: dict[str, Job] = {}
        self._keys: dict[str, dict[str, str]] = {}
        self._registry: Registry | None = None
        self._reasons: tuple[float, dict[str, str]] = (-_QUEUE_LOOK_S, {})

    @property
    def registry(self) -> Registry:
        """The index of the runs, opened at the first use."""
        if self._registry is None:
            self._registry = Registry(self.roots.registry, self.roots.runs)
        return self._registry

    def close(self) -> None:
        """Close the registry. Runs at work go on."""
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def paths(self, run_id: str) -> RunPaths:
        """File names of a run."""
        return run_paths(self.roots.runs, run_id)

    # --- making and starting ---------------------------------------------------------------------------------------

    def submit(self, spec: RunSpec | Resolved, *, folder: Path | None = None, after: tuple[str, ...] = ()) -> RunHandle:
        """Make the run folder, complete or not at all. The run is then queued; `start` starts it.

        Args:
            spec: of the run; a resolved one has the origins of its values, which are kept with the run.
            folder: base of relative paths in the spec; the current folder when absent.
            after: runs that must succeed before it starts.

        Raises:
            UsageError: its name is too long or has characters that are not allowed.
            ResourceError: the folder cannot be written.
            SpecError: it needs a key that is neither in the spec nor in the environment.
        """
        check_name((spec if isinstance(spec, RunSpec) else spec.spec).name)
        spec, keys = seal(spec)
        make_folders(self.roots.runs, self.roots)
        paths = make_run_folder(self.roots.runs, spec, (folder or Path.cwd()).absolute(), after)
        self._keys[paths.run_id] = keys
        return RunHandle(paths.run_id, paths)

    def start(self, run_id: str) -> None:
        """Start an attempt of a run. It waits in the queue while its GPUs or its processor slot are not free, or runs
        before it have not succeeded yet.

        Raises:
            NotFoundError: there is no such run.
            RunError: it is at work or in the queue, or a run before it ended without success.
            SpecError: it needs a key that is not in the environment.
            ResourceError: no process could be started, or this machine has fewer GPUs than it needs.
        """
        paths = self.paths(run_id)
        with desk_lock(paths):
            row, state = self.look(run_id)
            refuse_unreadable(row)
            waits = run_id in self.queue.waiting_ids()
            if waits or state not in FINISHED | {"queued"}:
                raise RunError(f"run {run_id} is {state} already", hint=f"follow it: hetspec-core runs follow {run_id}")
            if row.attempt:
                self.executor.clear(paths, row.attempt)
            folder, attempt = submit_folder(paths), row.attempt + 1
            after = waits_for(self.roots.data, run_id, submitted(paths).after)
            executor = self._executor_with_keys(paths)
            waiting = waiting_run(executor, paths, attempt, folder, after)
            if waiting is None:
                workers = workers_on_processor(paths)
                self._jobs[run_id] = executor.launch(paths, attempt=attempt, folder=folder, workers=workers)
                return
            with self.queue.lock():
                self.queue.put(waiting)
        self._jobs.update(self.queue.dispatch(run_id))

    def _executor_with_keys(self, paths: RunPaths) -> Executor:
        """The executor, with the keys that were removed from the run's spec as variables of its workers.

        Raises:
            SpecError: a key is neither known from `submit` nor in the environment.
        """
        keys = keys_of(paths, {**os.environ, **self._keys.get(paths.run_id, {})})
        return self.executor.with_variables(keys) if keys else self.executor

    def dispatch(self) -> None:
        """Start the queued runs that can start now. A supervisor does the same when it ends, unless it is killed.

        Nothing is started from a home that cannot be written.
        """
        try:
            self._jobs.update(self.queue.dispatch())
        except OSError as error:
            if error.errno not in NOT_WRITABLE | DISK_FULL:
                raise

    def resume(self, run_id: str) -> None:
        """Start a cancelled, failed or lost run again; it continues from what is on disk. The runs that were cancelled
        because of it wait for it again.

        Raises:
            NotFoundError: there is no such run.
            RunError: its stage is not resumed, or it is at work or has succeeded.
        """
        row, state = self.look(run_id)
        refuse_unreadable(row)
        if state == "succeeded":
            raise RunError(f"run {run_id} has succeeded; there is nothing left to do")
        if row.stage not in RESUMABLE and state != "queued":
            raise RunError(f"run {run_id} is of stage {row.stage}, which is not resumed", hint="submit it again")
        self.start(run_id)
        self.registry.sync_all()
        for child in stopped_children(run_id, self.registry.rows()):
            self.start(child)

    # --- watching ----------------------------------------------------------------------------------------------------

    def watch(self, run_id: str) -> Watch:
        """The events of the run's newest attempt; waits for new ones until its end.

        Raises:
            NotFoundError: there is no such run.
            RunError: it was never started, so it has no events.
        """
        waits = run_id in self.queue.waiting_ids()  # read first: a run leaves the queue with a new attempt
        row, state = self.look(run_id)
        refuse_unreadable(row)
        attempt = row.attempt + (waits and state == "queued")
        if attempt == 0:
            raise RunError(f"run {run_id} is {state}; it was never started")
        return Watch(self.paths(run_id), attempt, lambda: self._find_lost(run_id, attempt))

    def wait(self, run_id: str, timeout_s: float | None = None) -> RunState:
        """Wait until the run is no longer at work, at most `timeout_s`; returns its state then."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            state = self.state(run_id)
            if state not in AT_WORK and run_id not in self.queue.waiting_ids():
                state = self.state(run_id)
                if state not in AT_WORK:
                    reap(self.executor, self.paths(run_id), self._jobs.get(run_id))
                    return state
            if state == "queued":
                self.dispatch()
                time.sleep(_QUEUE_LOOK_S)
            if limit is not None and time.monotonic() >= limit:
                return state
            time.sleep(0.05)

    def _find_lost(self, run_id: str, attempt: int) -> FoundLost | None:
        """The event for an attempt that exited without an end event; None while it waits or lives, or has ended."""
        if run_id in self.queue.waiting_ids():
            self.dispatch()
            return None
        job = self._jobs.get(run_id)
        # Polled before the journal is read, so that it is complete when the process has ended.
        status = job.poll() if job is not None else None
        row, state = self.look(run_id)
        if row.attempt < attempt:  # it was taken out of the queue
            return FoundLost(attempt=attempt, worker="desk")
        if row.attempt != attempt or row.facts.ended == attempt:
            return None
        if state not in ("lost", "cancelled"):
            return None
        if row.facts.lost >= attempt:
            return FoundLost(attempt=attempt, exit_status=row.facts.exit_status, worker="desk")
        self.executor.clear(self.paths(run_id), attempt)
        event = FoundLost(attempt=attempt, exit_status=status, worker="desk")
        if job is not None:
            self._note(run_id, event)
        return event

    # --- stopping ----------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, force: bool = False, grace_s: float | None = None) -> bool:
        """Ask the run to stop at its next safe point; with `force`, end its processes now. Only the two journals of the
        run are read: the registry is not opened.

        Args:
            run_id: of the run.
            force: do not wait for the safe point.
            grace_s: seconds after which its supervisor ends it anyway; two minutes when absent.

        Returns:
            Whether there was a process to ask. A queued run is removed from the queue: one that never started is
            cancelled, another one has its former state.

        Raises:
            NotFoundError: there is no such run.
            RunError: it has ended, is on another host, belongs to another user, or is a copy of a run that is at work
                in another folder.
        """
        with queue_lock(self.roots.data):  # the run cannot change from waiting to having a supervisor meanwhile
            waited = self.queue.remove(run_id)
        facts, state = look_into(self.executor, self.paths(run_id))
        if state in FINISHED and not waited:
            refuse_copy(self.executor, self.paths(run_id), facts)
            raise RunError(f"run {run_id} is {state}; there is nothing to cancel")
        if waited and facts.attempt:
            return False
        process = facts.process
        if process is not None and look_at(self.executor, self.paths(run_id), facts).phase == "unreachable":
            raise RunError(f"run {run_id} works on {process.host}", hint="cancel it there")
        try:
            self._note(run_id, CancelAsked(attempt=facts.attempt, forced=force, grace_s=grace_s))
        except OSError:  # a full or read-only disk: the process can be asked all the same
            if process is None:
                raise
        if process is None:
            self.dispatch()  # cancels those that wait for it
            return False
        try:
            act = self.executor.kill if force else self.executor.request_stop
            return act(self.paths(run_id), process, supervised=facts.is_supervised)
        except PermissionError:
            raise RunError(
                f"run {run_id} is kept by process {process.pid} of another user", hint="ask that user to stop it"
            ) from None

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, run_id: str) -> tuple[RunRow, RunState]:
        """The row of a run with what its journals say now, and its state.

        Raises:
            NotFoundError: there is no such run.
        """
        return self._now(self._sync(run_id), self.queue.waiting_ids())

    def state(self, run_id: str) -> RunState:
        """The state of a run now; errors as `look`."""
        return self.look(run_id)[1]

    def states(self, rows: Iterable[RunRow]) -> Iterator[tuple[RunRow, RunState]]:
        """Rows and the states of their runs now, one after the other. A row is read again if its process has ended
        since it was read; a run that no longer exists is left out.
        """
        waiting = self.queue.waiting_ids()
        for row in rows:
            with contextlib.suppress(NotFoundError):
                yield self._now(row, waiting)

    def _now(self, row: RunRow, waiting: Collection[str]) -> tuple[RunRow, RunState]:
        state = run_state(self.executor, self.paths(row.run_id), row.facts)
        if state != row.state:
            # The process has ended, so its journal is complete now, which it may not have been when it was read.
            row = self._sync(row.run_id)
            state = run_state(self.executor, self.paths(row.run_id), row.facts)
        return row, "queued" if state in FINISHED and row.run_id in waiting else state

    def summary(self, run_id: str) -> RunSummary:
        """One run as it is now; errors as `look`."""
        return self.summary_of(*self.look(run_id))

    def summaries(
        self, query: Sequence[str] = (), *, sort: str = "created", archived: bool = False, limit: int | None = None
    ) -> list[RunSummary]:
        """The runs that a query asks for, as in `runs.query`, in the order of a column, metric or setting.

        Raises:
            UsageError: the query or the order cannot be understood.
        """
        self.registry.sync_all()
        runs = self.registry.find(query, sort=sort, archived=archived, waiting=self.queue.waiting_ids())
        found = (self.summary_of(row, state) for row, state in self.states(runs) if runs.accepts(state))
        return list(itertools.islice(found, limit))

    def summaries_of(self, run_ids: Sequence[str]) -> list[RunSummary]:
        """Some runs, in this order; one that does not exist is left out. The rows of finished runs are taken as they
        are.
        """
        waiting = self.queue.waiting_ids()
        rows: dict[str, RunRow] = {}
        for start in range(0, len(run_ids), _CHUNK):
            rows |= {row.run_id: row for row in self.registry.rows_of(run_ids[start : start + _CHUNK])}
        found: list[RunSummary] = []
        for run_id in run_ids:
            row = rows.get(run_id)
            if row is not None and row.state in FINISHED and run_id not in waiting:
                found.append(self.summary_of(row, row.state))
                continue
            with contextlib.suppress(NotFoundError):
                found.append(self.summary(run_id))
        return found

    def runs(self, *, state: str | None = None, stage: str | None = None, limit: int | None = None) -> list[RunSummary]:
        """All runs, archived ones too, newest first; or those in a state, of a stage, and at most `limit`."""
        query = [f"{name}:{value}" for name, value in (("state", state), ("stage", stage)) if value]
        return self.summaries(query, archived=True, limit=limit)

    def summary_of(self, row: RunRow, state: RunState) -> RunSummary:
        """The summary of a row in the state that `look` or `states` gave with it."""
        return RunSummary.of(row, state, self.paths(row.run_id).folder, self.waits(row.run_id, state))

    def show(self, run_id: str) -> RunReport:
        """Everything about one run; errors as `look`."""
        row, state = self.look(run_id)
        return read_report(self.paths(run_id), self.summary_of(row, state), self.registry, row.facts)

    def waits(self, run_id: str, state: RunState = "queued") -> str:
        """What a queued run waits for; empty for one that waits for nothing."""
        if state != "queued":
            return ""
        looked_s, found = self._reasons
        if time.monotonic() - looked_s >= _QUEUE_LOOK_S or run_id not in found:
            found = waiting_reasons(self.queue)
            self._reasons = time.monotonic(), found | {run_id: found.get(run_id, "")}
        return found.get(run_id, "")

    def resolve_run(self, word: str) -> str:
        """The run that a word means: an id, the beginning of exactly one, or a name.

        Raises:
            NotFoundError: it means no run, or several.
        """
        if self._is_id(word):  # the registry is not needed for it
            return word
        return find_run(word, self._names())

    def resolve_input(self, word: str, kind: InputKind) -> Path:
        """The folder of hidden states or of a draft that a directory, or a run as in `resolve_run`, holds.

        Raises:
            NotFoundError: there is no such run or directory, or it holds none.
        """
        return find_product(word, kind, names=self._names, paths=self.paths, look=self.look)

    def _names(self) -> list[RunName]:
        self.registry.sync_all()
        return self.registry.names()

    def gpus(self) -> GpuReport:
        """The GPUs of this machine and the runs that lease them."""
        return read_gpus(self.roots.data)

    def rebuild(self) -> int:
        """Make the registry again from the run folders; returns how many runs there are."""
        return self.registry.rebuild()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _is_id(self, word: str) -> bool:
        """Whether a word is the whole id of an existing run."""
        if not word or word.startswith(".") or os.sep in word or "\0" in word:
            return False
        return is_run(self.paths(word))

    def _sync(self, run_id: str) -> RunRow:
        try:
            row = self.registry.sync(run_id)
        except (sqlite3.Error, RunError):  # the registry cannot be used: the folder says as much as its state needs
            if not is_run(self.paths(run_id)):
                raise
            facts = read_facts(self.paths(run_id))
            return with_facts(RunRow(run_id), facts)
        if row is None:
            raise no_run(run_id)
        return row

    def _note(self, run_id: str, event: EventBase) -> None:
        with Journal(self.paths(run_id).desk, "desk") as desk:
            desk.write(event)


def refuse_unreadable(row: RunRow) -> None:
    """Raise if the run cannot be read.

    Raises:
        RunError: it cannot be read.
    """
    if row.state == UNREADABLE:
        raise RunError(f"run {row.run_id} cannot be read: {row.error_message}", hint=row.error_hint)
