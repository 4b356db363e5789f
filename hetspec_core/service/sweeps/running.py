"""Submitting what a sweep still needs, and seeing it through. It starts runs by the workbench only.

A cell needs a run when its run failed, was stopped, is lost or was thrown away, and when somebody stands on it: the
dataset of trainings that have all succeeded is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hetspec_core.errors import HetSpecError, NotFoundError
from hetspec_core.events import AT_WORK, UNFINISHED, Marked
from hetspec_core.service.library import Library
from hetspec_core.service.sweeps.cells import SweepCell
from hetspec_core.service.sweeps.document import SweepSpec
from hetspec_core.service.sweeps.ledger import SubmittedCell, SweepLedger

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

_POLL_S = 0.3


@dataclass(frozen=True)
class Standing:
    """A cell, its run if it has one, and what is to be done with it.

    Attributes:
        state: of the run; `none` when there is none.
        action: submit (a new run), resume (it goes on from what is on disk), start, or empty for nothing.
    """

    cell: SweepCell
    run_id: str
    state: str
    action: str


def standings(workbench: Workbench, sweep: SweepSpec, cells: Sequence[SweepCell]) -> list[Standing]:
    """How far a sweep is, and what is missing."""
    entries = SweepLedger(workbench.roots.data, sweep.name).read()
    states = {cell.key: _state(workbench, entries.get(cell.key)) for cell in cells}
    waiting = workbench.queue.waiting_ids()
    # Submitted, and whoever did so was stopped before it came to start them.
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
        say: told (cell, run id, state) when the state of a run is another than before.
    """

    workbench: Workbench
    sweep: SweepSpec
    cells: Sequence[SweepCell]
    say: Callable[[SweepCell, str, str], None]
    _states: dict[str, str] = field(default_factory=dict)

    def submit(self) -> list[Standing]:
        """Make the runs that are missing; gives all of them, with what is left to do: start or resume.

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
                action = "submit"  # what it stood on is gone, and was made anew
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
        """Start or resume one run; it waits for GPUs and for its parent by itself.

        Raises:
            RunError: what it waits for has ended otherwise.
            ResourceError: this machine will never have what it needs.
        """
        if self._begun(standing.run_id):  # it was started with the run that it waited for
            return
        if standing.action == "resume":
            self.workbench.resume(standing.run_id)
        else:
            self.workbench.start(standing.run_id)

    def follow(self, made: Sequence[Standing], most: int) -> dict[str, str]:
        """Start runs, at most so many at a time, parents first, until all have ended; gives cell -> how.

        A run whose parent did not succeed is left as it is; `blocked` is its end then.
        """
        todo = [standing for standing in made if standing.action]
        ends: dict[str, str] = {}
        left: set[str] = set()  # cells that are not started after all
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


def _state(workbench: Workbench, entry: SubmittedCell | None) -> str:
    if entry is None:
        return "none"
    try:
        return str(workbench.state(entry.run_id))
    except NotFoundError:
        return "gone"
