"""Runs that wait for other runs: whether they may, and which of them an ended run has stopped. It starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hetspec_core.errors import RunError
from hetspec_core.jobs import PARENT_ENDED, outcome
from hetspec_core.runs import RunRow


def waits_for(data: Path, run_id: str, after: Sequence[str]) -> tuple[str, ...]:
    """Those of the runs before `run_id` that have not succeeded yet.

    Args:
        data: the data root.
        run_id: the run that waits.
        after: the runs that go before it.

    Raises:
        RunError: one of them ended without success.
    """
    open_runs = []
    for parent in after:
        end = outcome(data, parent)
        if end == "open":
            open_runs.append(parent)
        elif end != "succeeded":
            hint = "submit it anew" if end == "gone" else f"`hetspec-core runs resume {parent}` goes on with both"
            raise RunError(f"run {run_id} waits for run {parent}, which is {end}", hint=hint)
    return tuple(open_runs)


def stopped_children(run_id: str, rows: Sequence[RunRow]) -> list[str]:
    """Runs that were ended because `run_id` did not succeed, and those ended because of these, parents first."""
    found = [run_id]
    for parent in found:  # grows while it is walked
        found += [
            row.run_id
            for row in rows
            if parent in row.parents
            and row.run_id not in found
            and row.state == "cancelled"
            and row.error_kind == PARENT_ENDED
        ]
    return found[1:]
