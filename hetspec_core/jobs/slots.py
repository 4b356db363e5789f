"""Processor slots: how many runs compute on the processor of this machine at a time. They are leased like GPUs.

Runs that compute side by side on one processor slow each other down, and their figures say nothing. A slot is the lock
of a file below `slots/` in the data root, held by the run's supervisor: the kernel gives it back however the supervisor
ends. The slots bind the runs of one data root, as the leases of GPUs do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.errors import UsageError
from hetspec_core.files import is_locked, take_lock

SLOTS_VARIABLE = "HETSPEC_CPU_SLOTS"
USUAL_SLOTS = 1
_LEASE_PATIENCE_S = 2.0


@dataclass(frozen=True)
class SlotStatus:
    """A processor slot and the run that has it; empty when it is free."""

    name: str
    run_id: str = ""


def slot_count() -> int:
    """How many slots this machine has: HETSPEC_CPU_SLOTS, one when it is absent; 0 = runs wait for none.

    Raises:
        UsageError: the variable is not a whole number from 0.
    """
    word = os.environ.get(SLOTS_VARIABLE, "").strip()
    if not word:
        return USUAL_SLOTS
    if not (word.isascii() and word.isdecimal() and len(word) < 5):
        raise UsageError(
            f"{SLOTS_VARIABLE} is {word!r}; it needs a whole number from 0 to 9999",
            hint="1 = one run computes on the processor at a time, 0 = no run waits for another",
        )
    return int(word)


def slot_status(data: Path) -> list[SlotStatus]:
    """Who has which slot now. A variable that is not a number counts as absent here: a start has refused it."""
    try:
        count = slot_count()
    except UsageError:
        count = USUAL_SLOTS
    found = []
    for number in range(count):
        path = _path(data, f"cpu-{number}")
        holder = ""
        if is_locked(path):  # the name is written right after the lock is taken
            holder = path.read_text(encoding="utf-8", errors="replace") or "another run"
        found.append(SlotStatus(f"cpu-{number}", holder))
    return found


def take_slot(data: Path, name: str, run_id: str) -> int | None:
    """Take a slot for a run; returns the file to hold, None when another run has it."""
    file = take_lock(_path(data, name), patience_s=_LEASE_PATIENCE_S)
    if file is not None:
        os.ftruncate(file, 0)
        os.pwrite(file, run_id.encode(), 0)
    return file


def _path(data: Path, name: str) -> Path:
    return data / "slots" / f"{name}.lock"
