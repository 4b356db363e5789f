"""The front door: make runs, start them, watch them, stop them, and say how they are.

It joins parts that do not know each other: run folders, registry and executor. It knows no torch, and draws nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.errors import HetSpecError, NotFoundError, ResourceError, RunError
from hetspec_core.events import CancelAsked, EventBase, FoundLost, Journal, Launched, Submitted, read_events
from hetspec_core.jobs import Executor, Job, LocalExecutor
from hetspec_core.paths import HOME_VARIABLE, Roots, RunPaths, roots, sync_folder, write_atomic
from hetspec_core.process import ProcessIdentity
from hetspec_core.runs import Registry, RunRow, RunState, derive_state
from hetspec_core.runs.state import FINISHED
from hetspec_core.service.inputs import InputKind, explain_missing, find_run, product_folder
from hetspec_core.service.report import (
    RunReport,
    RunSummary,
    digest_journal,
    list_files,
    lost_status,
    read_resolved,
)
from hetspec_core.service.watch import Watch
from hetspec_core.spec import RunSpec
from hetspec_core.spec.document import from_toml, to_toml

RESUMABLE = frozenset({"dataset", "train"})
"""Stages that go on from what is on disk; the others are short, and submitted again."""

_ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # no 0 o 1 l i
_REAP_S = 10.0


@dataclass(frozen=True)
class RunHandle:
    """A run that was made."""

    run_id: str
    paths: RunPaths


class Workbench:
    """All runs below one home.

    Args:
        home: folder of everything, as HETSPEC_HOME; the roots in force when absent.
        executor: who starts workers; child processes on this machine when absent.
    """

    def __init__(self, home: Path | None = None, executor: Executor | None = None) -> None:
        self.roots = roots() if home is None else Roots.below(home)
        environment = {} if home is None else {HOME_VARIABLE: str(self.roots.data)}
        self.executor: Executor = executor or LocalExecutor(environment=environment)
        self._jobs: dict[str, Job] = {}
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """The index of the runs, opened when it is first needed."""
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
        return RunPaths(self.roots.runs / run_id)

    # --- making and starting ---------------------------------------------------------------------------------------

    def submit(self, spec: RunSpec, *, folder: Path | None = None) -> RunHandle:
        """Make the run folder, complete or not at all. The run is then queued; `start` starts it.

        Args:
            spec: what to do.
            folder: where relative paths in the spec begin; the present folder when absent.

        Raises:
            ResourceError: the folder cannot be written.
        """
        self.roots.runs.mkdir(parents=True, exist_ok=True)
        while True:
            run_id = _new_id(spec.stage)
            staging = RunPaths(self.roots.runs / f".new-{run_id}")
            try:
                self._fill(staging, spec, (folder or Path.cwd()).absolute())
                staging.folder.rename(self.roots.runs / run_id)
            except FileExistsError:
                continue
            except OSError as error:
                if self.paths(run_id).folder.exists():  # another desk made this id in the same second
                    continue
                reason = error.strerror or str(error)
                raise ResourceError(f"the run folder cannot be written below {self.roots.runs}: {reason}") from error
            finally:
                shutil.rmtree(staging.folder, ignore_errors=True)
            sync_folder(self.roots.runs)
            return RunHandle(run_id, self.paths(run_id))

    def _fill(self, paths: RunPaths, spec: RunSpec, folder: Path) -> None:
        paths.folder.mkdir()
        paths.logs.mkdir()
        write_atomic(paths.spec, to_toml(spec), mode=0o444)
        with Journal(paths.desk, "desk") as desk:
            desk.write(Submitted(host=socket.gethostname(), folder=str(folder)))

    def start(self, run_id: str) -> None:
        """Start a worker for a run that is not at work: the first attempt, or a further one.

        Raises:
            NotFoundError: there is no such run.
            RunError: it is at work already.
            ResourceError: no process could be started.
        """
        paths = self.paths(run_id)
        with self._desk_lock(run_id):
            row, state = self._look(run_id)
            if state not in FINISHED | {"queued"}:
                raise RunError(f"run {run_id} is {state} already", hint=f"follow it: hetspec-core runs follow {run_id}")
            attempt = row.attempt + 1
            job = self.executor.launch(paths, attempt=attempt, folder=_submit_folder(paths))
            self._jobs[run_id] = job
            who = job.identity
            self._note(run_id, Launched(attempt=attempt, pid=who.pid, host=who.host, birth=who.birth))

    def resume(self, run_id: str) -> None:
        """Start a run again that was cancelled, failed or lost; it goes on from what is on disk.

        Raises:
            NotFoundError: there is no such run.
            RunError: its stage does not resume, or it is at work, or it has succeeded.
        """
        row, state = self._look(run_id)
        if state == "succeeded":
            raise RunError(f"run {run_id} has succeeded; there is nothing left to do")
        if row.stage not in RESUMABLE and state != "queued":
            raise RunError(
                f"run {run_id} is of stage {row.stage}, which is not resumed", hint="submit it again; it begins anew"
            )
        self.start(run_id)

    # --- watching ----------------------------------------------------------------------------------------------------

    def watch(self, run_id: str) -> Watch:
        """The events of the run's newest attempt, to the end of it; waits for what is still to come.

        Raises:
            NotFoundError: there is no such run.
            RunError: it was never started, so nothing would ever come.
        """
        row, state = self._look(run_id)
        if row.attempt == 0:
            raise RunError(f"run {run_id} is {state}; it was never started")
        return Watch(self.paths(run_id), row.attempt, lambda: self._find_lost(run_id, row.attempt))

    def wait(self, run_id: str, timeout_s: float | None = None) -> RunState:
        """Wait until the run is not at work any more, or the time is over; returns its state then."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            state = self.state(run_id)
            if state not in ("starting", "running"):
                self._reap(run_id)
                return state
            if limit is not None and time.monotonic() >= limit:
                return state
            time.sleep(0.05)

    def _find_lost(self, run_id: str, attempt: int) -> FoundLost | None:
        """The event that says that the worker is gone without a word; None while it lives, or has said how it ended."""
        job = self._jobs.get(run_id)
        status = (
            job.poll() if job is not None else None
        )  # before the look, so that the journal is complete when it ends
        row, state = self._look(run_id)
        if row.attempt != attempt or row.facts.ended == attempt:
            return None
        if state not in ("lost", "cancelled"):
            return None
        if row.facts.lost >= attempt:
            return FoundLost(attempt=attempt, exit_status=row.facts.exit_status, worker="desk")
        event = FoundLost(attempt=attempt, exit_status=status, worker="desk")
        if job is not None:
            self._note(run_id, event)
        return event

    def _reap(self, run_id: str) -> None:
        job = self._jobs.get(run_id)
        limit = time.monotonic() + _REAP_S
        while job is not None and job.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, force: bool = False) -> bool:
        """Ask the run to stop at its next safe point; with `force`, end its processes now.

        Returns:
            Whether there was a process to ask. A queued run is cancelled at once.

        Raises:
            NotFoundError: there is no such run.
            RunError: it has ended, or works on another host.
        """
        row, state = self._look(run_id)
        if state in FINISHED:
            raise RunError(f"run {run_id} is {state}; there is nothing to cancel")
        process = row.facts.process
        if process is not None and process.host != socket.gethostname():
            raise RunError(f"run {run_id} works on {process.host}", hint="cancel it there")
        self._note(run_id, CancelAsked(attempt=row.attempt, forced=force))
        if process is None:
            return False
        return self.executor.kill(process) if force else self.executor.ask_to_stop(process)

    # --- looking -----------------------------------------------------------------------------------------------------

    def state(self, run_id: str) -> RunState:
        """The state of a run now.

        Raises:
            NotFoundError: there is no such run.
        """
        return self._look(run_id)[1]

    def runs(self, *, state: str | None = None, stage: str | None = None, limit: int | None = None) -> list[RunSummary]:
        """All runs, newest first, or those in a state, of a stage, and at most `limit`."""
        self.registry.sync_all()
        found: list[RunSummary] = []
        for row in self.registry.rows(stage=stage):
            if limit is not None and len(found) >= limit:
                break
            now = derive_state(row.facts, ProcessIdentity.is_alive)
            if now == "lost" and row.state != "lost":  # it may have ended between the reading and the look
                row, now = self._look(row.run_id)
            if state in (None, now):
                found.append(RunSummary.of(row, now, self.paths(row.run_id).folder))
        return found

    def show(self, run_id: str) -> RunReport:
        """Everything about one run.

        Raises:
            NotFoundError: there is no such run.
        """
        row, state = self._look(run_id)
        paths = self.paths(run_id)
        try:
            spec = from_toml(paths.spec.read_text(encoding="utf-8"), name=str(paths.spec))
        except (HetSpecError, OSError, UnicodeDecodeError):
            spec = None
        digest = digest_journal(paths)
        return RunReport(
            summary=RunSummary.of(row, state, paths.folder),
            spec=spec,
            resolved=read_resolved(paths),
            metrics=self.registry.last_metrics(run_id),
            results=self.registry.results(run_id),
            artifacts=digest.artifacts,
            checkpoints=digest.checkpoints,
            warnings=digest.warnings,
            files=list_files(paths.folder),
            exit_status=lost_status(paths) if state == "lost" else None,
        )

    def resolve_run(self, word: str) -> str:
        """The run that is meant by an id, the beginning of exactly one, or a name.

        Raises:
            NotFoundError: no run, or more than one, is meant.
        """
        self.registry.sync_all()
        return find_run(word, self.registry.rows())

    def resolve_input(self, word: str, kind: InputKind) -> Path:
        """The folder of hidden states or of a draft that is meant by a directory, or by a run as in `resolve_run`.

        Raises:
            NotFoundError: there is no such run or directory, or it has none.
        """
        folder = Path(word).expanduser()
        if folder.is_dir():
            product = product_folder(folder, kind)
            if product is None:
                raise explain_missing(word, kind, None)
            return product
        if os.sep in word:
            raise NotFoundError(f"there is no directory {word}")
        self.registry.sync_all()
        try:
            run_id = find_run(word, self.registry.rows(), stage="dataset" if kind == "hidden_states" else "train")
        except NotFoundError as error:
            raise NotFoundError(f"{error.message}, and no such directory", hint=error.hint) from None
        product = product_folder(self.paths(run_id).folder, kind)
        if product is None:
            raise explain_missing(word, kind, self._look(run_id))
        return product

    def rebuild(self) -> int:
        """Make the registry again from the run folders; returns how many runs there are."""
        return self.registry.rebuild()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _look(self, run_id: str) -> tuple[RunRow, RunState]:
        row = self._sync(run_id)
        state = derive_state(row.facts, ProcessIdentity.is_alive)
        if state in ("lost", "cancelled") and row.state != state:
            # The process is gone, so its journal is complete now, which it may not have been when it was read.
            row = self._sync(run_id)
            state = derive_state(row.facts, ProcessIdentity.is_alive)
        return row, state

    def _sync(self, run_id: str) -> RunRow:
        row = self.registry.sync(run_id)
        if row is None:
            raise NotFoundError(f"there is no run {run_id!r}", hint="`hetspec-core runs list` shows those there are")
        return row

    def _note(self, run_id: str, event: EventBase) -> None:
        with Journal(self.paths(run_id).desk, "desk") as desk:
            desk.write(event)

    @contextlib.contextmanager
    def _desk_lock(self, run_id: str) -> Iterator[None]:
        """Hold the run against other desks that would start it; given back by the kernel if this process dies."""
        try:
            file = os.open(self.paths(run_id).folder / ".desk.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            raise NotFoundError(f"there is no run {run_id!r}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _new_id(stage: str) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{stamp}-{stage}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"


def _submit_folder(paths: RunPaths) -> Path | None:
    for event in read_events(paths.desk)[0]:
        if isinstance(event, Submitted) and event.folder:
            return Path(event.folder)
    return None
