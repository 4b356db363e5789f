"""The runs as a whole: how many there are in each state, and the few that somebody wants to see first.

It reads rows as they were last taken in; whether processes live is asked by the service.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetspec_core.events import UNFINISHED
from hetspec_core.runs.ingest import Registry
from hetspec_core.runs.rows import RunRow

_COLUMNS = "SELECT * FROM runs WHERE archived = 0 AND"
_MOST_UNFINISHED = 500  # more than that are left from a machine that went down


@dataclass(frozen=True)
class Census:
    """All runs that are not archived.

    Attributes:
        counts: state -> how many, as the journals say.
        unfinished: those that have not said that they ended, oldest first.
        ended: those that ended last, newest first.
        failed: the newest ones that failed, are known to be lost, or cannot be read, newest first.
    """

    counts: dict[str, int]
    unfinished: list[RunRow]
    ended: list[RunRow]
    failed: list[RunRow]


def take_census(registry: Registry, *, most: int) -> Census:
    """Count all runs, and read at most so many of those that ended and of those that failed."""
    counts = registry.select("SELECT state, COUNT(*) AS n FROM runs WHERE archived = 0 GROUP BY state")
    unfinished = f"{_COLUMNS} state IN {tuple(sorted(UNFINISHED))} ORDER BY created DESC, run_id DESC LIMIT ?"
    ended = f"{_COLUMNS} ended IS NOT NULL ORDER BY ended DESC, run_id DESC LIMIT ?"
    failed = f"{_COLUMNS} state IN ('failed', 'lost', 'unreadable') ORDER BY created DESC, run_id DESC LIMIT ?"
    return Census(
        counts={row["state"]: row["n"] for row in counts},
        unfinished=[RunRow.from_columns(row) for row in registry.select(unfinished, (_MOST_UNFINISHED,))][::-1],
        ended=[RunRow.from_columns(row) for row in registry.select(ended, (most,))],
        failed=[RunRow.from_columns(row) for row in registry.select(failed, (most,))],
    )
