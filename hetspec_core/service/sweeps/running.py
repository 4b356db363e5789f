"""The run of each cell of a sweep, kept in a file beside the runs; missing runs are submitted and followed.

A cell needs a run when its run failed, was stopped, is lost or was deleted, and when a missing run depends on it: the
dataset of trainings that have all succeeded is not made again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from pydantic_core import to_json

from hetspec_core.documents import read_json
from hetspec_core.errors import CorruptFileError, HetSpecError, NotFoundError, RunError
from hetspec_core.events import AT_WORK, UNFINISHED, Marked
from hetspec_core.files import write_atomic
from hetspec_core.service.library import Library
from hetspec_core.service.sweeps.cells import SweepCell, SweepSpec

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

_POLL_S = 0.3


@dataclass(frozen=True)
class SubmittedCell:
    """A cell that was submitted."""

    run_id: str
    label: str
    stage: str
    parent: str = ""


class SweepLedger:
    """The file with the runs of the cells of one sweep.

    Args:
        data: the data root.
        name: of the sweep.
    """

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.path = data / "sweeps" / f"{name}.json"

    @property
    def exists(self) -> bool:
        """Whether the sweep was ever submitted here."""
        return self.path.is_file()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the sweep against other commands.

        Raises:
            RunError: another command holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(self.path.with_suffix(".lock"))
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(
                f"another command works on sweep {self.name}", hint="wait for it, or stop it; its runs go on"
            ) from None
        try:
            yield
        finally:
            held.release()

    def read(self) -> dict[str, SubmittedCell]:
        """Cell -> its newest run.

        Raises:
            CorruptFileError: the file cannot be read.
        """
        if not self.exists:
            return {}
        try:
            return {key: SubmittedCell(**entry) for key, entry in read_json(self.path)["cells"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(
                f"{self.path} cannot be read: {error}", hint="remove it; the runs stay, and a sweep submits new ones"
            ) from None

    def write(self, cells: dict[str, SubmittedCell]) -> None:
        """Replace the cells in the file."""
        kept = {key: asdict(entry) for key, entry in cells.items()}
        write_atomic(self.path, to_json({"sweep": self.name, "cells": kept}, indent=1) + b"\n")


@dataclass(frozen=True)
class Standing:
    """A cell, its run if it has one, and what is to be done.

    Attributes:
        state: of the run; `none` when there is none.
        action: submit (a new run), resume (from what is on disk), start, or empty for nothing.
    """

    cell: SweepCell
    run_id: str
    state: str
    action: str


def standings(workbench: Workbench, sweep: SweepSpec, cells: Sequence[SweepCell]) -> list[Standing]:
    """The state of every cell, and what is missing."""
    entries = SweepLedger(workbench.roots.data, sweep.name).read()
    states = {cell.key: state_of(workbench, entries.get(cell.key)) for cell in cells}
    waiting = workbench.queue.waiting_ids()
    # Submitted by a command that was stopped before it started them.
    idle = {key for key, state in states.items() if state == "queued" and entries[key].run_id not in waiting}
    children: dict[str, list[str]] = {}
    for cell in cells:
        children.setdefault(cell.parent, []).append(cell.key)
    wanted: dict[str, bool] = {}
    for cell in reversed(cells):  # children come after their parents
        below = [wanted[key] for key in children.get(cell.key, ())]
        missing = cell.key in idle or states[cell.key] not in ("succeeded", *UNFINISHED)
        wanted[cell.key] = missing and (any(below) or not below)
    found = []
    for cell in cells:
        entry, state = entries.get(cell.key), states[cell.key]
        action = ""
        if cell.key in idle:
            action = "start"
        elif wanted[cell.key]:
            action = "resume" if cell.stage != "bench" and state not in ("none", "gone") else "submit"
        found.append(Standing(cell, entry.run_id if entry and state != "gone" else "", state, action))
    return found


@dataclass
class SweepRun:
    """A sweep at work.

    Args:
        workbench: where.
        sweep: what.
        cells: of it, parents first.
        say: called with (cell, run id, state) when the state of a run changes.
    """

    workbench: Workbench
    sweep: SweepSpec
    cells: Sequence[SweepCell]
    say: Callable[[SweepCell, str, str], None]
    _states: dict[str, str] = field(default_factory=dict)

    def submit(self) -> list[Standing]:
        """Submit the missing runs; gives all cells with what is left to do: start or resume.

        Raises:
            ResourceError: a run folder cannot be written.
        """
        ledger = SweepLedger(self.workbench.roots.data, self.sweep.name)
        entries = ledger.read()
        made: list[Standing] = []
        library = Library(self.workbench)
        for standing in standings(self.workbench, self.sweep, self.cells):
            cell, run_id, action = standing.cell, standing.run_id, standing.action
            parent = entries.get(cell.parent)
            if action in ("resume", "start") and parent and parent.run_id not in self._parents(run_id):
                action = "submit"  # the run that it depended on was replaced by a new one
            if action == "submit":
                asked = cell.linked(f"{self.sweep.name}: {cell.label}", parent.run_id if parent else None)
                run_id = self.workbench.submit(asked, after=(parent.run_id,) if parent else ()).run_id
                entries[cell.key] = SubmittedCell(run_id, cell.label, cell.stage, cell.parent)
                ledger.write(entries)
                library.mark(run_id, Marked(add_tags=(self.sweep.tag,)))
                action = "start"
            made.append(Standing(cell, run_id, self.workbench.state(run_id) if run_id else "none", action))
        return made

    def start(self, standing: Standing) -> None:
        """Start or resume one run; it waits in the queue for GPUs and for its parent.

        Raises:
            RunError: its parent ended without success.
            ResourceError: this machine has fewer GPUs than it needs.
        """
        if self._begun(standing.run_id):  # it was started with the run that it waited for
            return
        if standing.action == "resume":
            self.workbench.resume(standing.run_id)
        else:
            self.workbench.start(standing.run_id)

    def follow(self, made: Sequence[Standing], most: int) -> dict[str, str]:
        """Start runs, at most `most` at a time, parents first, until all have ended; gives cell -> end state.

        A run whose parent did not succeed is not started; its end is `blocked`.
        """
        todo = [standing for standing in made if standing.action]
        ends: dict[str, str] = {}
        left: set[str] = set()  # cells that are not started
        while True:
            self.workbench.dispatch()
            working = 0
            for standing in made:
                if standing.run_id and standing not in todo and standing.cell.key not in left:
                    state = self._tell(standing)
                    working += state in UNFINISHED
                    ends[standing.cell.key] = state
            for standing in list(todo):
                above = ends.get(standing.cell.parent, "succeeded") if standing.cell.parent else "succeeded"
                if above not in ("succeeded", *UNFINISHED):
                    ends[standing.cell.key] = "blocked"
                    left.add(standing.cell.key)
                    todo.remove(standing)
                    self.say(standing.cell, standing.run_id, "blocked")
                elif above == "succeeded" and working < most and not self._above_waits(standing, todo):
                    todo.remove(standing)
                    try:
                        self.start(standing)
                        working += 1
                        ends[standing.cell.key] = "starting"
                    except HetSpecError as error:
                        ends[standing.cell.key] = "failed"
                        left.add(standing.cell.key)
                        self.say(standing.cell, standing.run_id, f"not started: {error.message}")
            if not todo and not working:
                return ends
            time.sleep(_POLL_S)

    def _above_waits(self, standing: Standing, todo: Sequence[Standing]) -> bool:
        return any(other.cell.key == standing.cell.parent for other in todo)

    def _tell(self, standing: Standing) -> str:
        state = str(self.workbench.state(standing.run_id))
        if self._states.get(standing.run_id) != state:
            self._states[standing.run_id] = state
            self.say(standing.cell, standing.run_id, state)
        return state

    def _begun(self, run_id: str) -> bool:
        if run_id in self.workbench.queue.waiting_ids():
            return True
        return self.workbench.state(run_id) in AT_WORK

    def _parents(self, run_id: str) -> tuple[str, ...]:
        row = self.workbench.registry.row(run_id)
        return tuple(row.parents) if row is not None else ()


def state_of(workbench: Workbench, entry: SubmittedCell | None) -> str:
    """The state of the run of a cell; `none` before it has one, `gone` after the run was deleted."""
    if entry is None:
        return "none"
    try:
        return str(workbench.state(entry.run_id))
    except NotFoundError:
        return "gone"
