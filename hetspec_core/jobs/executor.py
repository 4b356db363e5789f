"""What an executor is: it starts attempts at runs somewhere, looks whether they work, and stops them.

An executor is one module and one card of the axis `executors`. The variable HETSPEC_EXECUTOR names the card that is
used; nothing else names an implementation. An executor answers for processes. The states of runs follow from the
journals and from `Observation.is_at_work` (`events.derive_state`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from hetspec_core.events import RunFacts, RunState, derive_state
from hetspec_core.jobs.workers import WorkerPlan
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity

EXECUTOR_VARIABLE = "HETSPEC_EXECUTOR"
USUAL_EXECUTOR = "local"
WORKER_MODULE = "hetspec_core.engine.worker"

Phase = Literal["working", "ending", "ended", "copied", "unreachable", "unknown"]


@dataclass(frozen=True)
class Observation:
    """What can be seen of the process that the journals of a run folder name.

    Attributes:
        phase: `working`, on the run in this folder; `ending`, it has released the run; `ended`; `copied`, it works on
            the run that this folder was copied from; `unreachable`, it is where this executor cannot look or stop it;
            `unknown`, it lives, and whether it works in this folder is not known.
        original: the folder of the original, for `copied`; None when it cannot be seen.
    """

    phase: Phase
    original: Path | None = None

    @property
    def is_at_work(self) -> bool | None:
        """Whether the process works on the run in this folder; None when that is not known."""
        return None if self.phase in ("unreachable", "unknown") else self.phase == "working"


class Job(Protocol):
    """An attempt that this process has launched."""

    def poll(self) -> int | None:
        """The supervisor's exit status if it has ended (negative = a signal), else None."""
        ...


class Executor(Protocol):
    """Made by `open_executor`, which gives `module`, `environment` and `submitted` as keyword arguments, or fewer.

    Attributes:
        name: of its card.
        module: the Python module that a worker runs with the run folder as argument.
        environment: variables for the workers, over those of this process.
        submitted: `process.run_variables` of the process that submitted the run, which replace this process's; None
            when this process did.

    `process` is a process that a journal names: a supervisor (`Launched`), or, where `supervised` is False, a worker
    that was started by hand (`RunStarted`).
    """

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> str: ...
    @property
    def environment(self) -> Mapping[str, str]: ...

    def with_variables(self, variables: Mapping[str, str]) -> Executor:
        """The same executor, with further variables for the workers."""
        ...

    def launch(
        self,
        paths: RunPaths,
        *,
        attempt: int,
        folder: Path | None = None,
        gpus: tuple[str, ...] = (),
        slots: tuple[str, ...] = (),
        workers: WorkerPlan | None = None,
    ) -> Job:
        """Start an attempt at a run, and return when its supervisor has taken the run.

        Args:
            paths: the run folder.
            attempt: number of this start of the run.
            folder: working folder of the workers, where relative paths of the spec begin; the present one when absent.
            gpus: UUIDs of the GPUs that it leases; with none, the workers see what this process sees.
            slots: names of the processor slots that it leases.
            workers: how many workers it has and how they share the work; one when absent.

        Raises:
            RunError: another supervisor has the run.
            ResourceError: no process could be started, or a GPU or a slot is leased by another run.
        """
        ...

    def look(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> Observation:
        """What the process does now, as seen from this run folder."""
        ...

    def request_stop(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        """Ask the run to stop at its next safe point; False when the process does not work on the run in this folder.

        Raises:
            PermissionError: the process belongs to another user.
        """
        ...

    def kill(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        """Kill the workers, and the supervisor if it does not end; result and errors as of `request_stop`."""
        ...

    def clear(self, paths: RunPaths, last_attempt: int) -> None:
        """Kill what is left of the attempts up to this one, whose supervisors have ended."""
        ...


def open_executor(name: str = "", **given: Any) -> Executor:
    """The executor with this card; when no name is given, that of HETSPEC_EXECUTOR, else `local`.

    Args:
        name: of the card.
        given: attributes of `Executor`.

    Raises:
        NotFoundError: there is no such card, or its module cannot be imported.
    """
    from hetspec_core.catalog import load_card

    return load_card("executors", name or os.environ.get(EXECUTOR_VARIABLE, "") or USUAL_EXECUTOR).load()(**given)


def look_at(executor: Executor, paths: RunPaths, facts: RunFacts) -> Observation:
    """What can be seen of the process of a run's newest attempt."""
    if facts.process is None:
        return Observation("ended")
    return executor.look(paths, facts.process, supervised=facts.is_supervised)


def run_state(executor: Executor, paths: RunPaths, facts: RunFacts) -> RunState:
    """The state of a run by its journals and by what its executor sees."""
    return derive_state(facts, lambda process: look_at(executor, paths, facts).is_at_work)
