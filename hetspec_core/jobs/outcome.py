"""How a run has ended, told from its folder without the event models: what runs that wait for it have to know.

The states are those of `hetspec_core.events.state`, which it does not know, in as few words as waiting needs.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Literal

from hetspec_core.files import is_locked
from hetspec_core.jobs import records
from hetspec_core.paths import RunPaths

Outcome = Literal["open", "succeeded", "failed", "cancelled", "lost", "gone"]


def outcome(data: Path, run_id: str) -> Outcome:
    """How the newest attempt at a run ended; `open` while it has not, or waits; `gone` when there is no such run.

    A run at work is told by the lock that its supervisor holds, so that its journal is read once it has ended only.
    """
    paths = RunPaths(data / "runs" / run_id)
    if not paths.spec.is_file():
        return "gone"
    if (data / "queue" / f"{run_id}.json").exists() or is_locked(paths.supervisor_lock):
        return "open"
    launched, ended = _newest(paths.desk, "launched"), _newest(paths.events, "run_ended")
    attempt = int(launched.get("attempt", 0)) if launched else 0
    if ended and (_attempt_of(ended, paths) >= attempt):
        state = str(ended.get("state"))
        return "succeeded" if state == "succeeded" else "cancelled" if state == "cancelled" else "failed"
    asked = any(record.get("attempt") == attempt for record in records.records(paths.desk, kind="cancel_asked"))
    if launched is None:
        return "cancelled" if asked else "open"
    if launched.get("host") != socket.gethostname():
        return "open"  # nothing can be seen of it from here
    return "cancelled" if asked else "lost"


def _newest(journal: Path, kind: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None
    for record in records.records(journal, kind=kind):
        found = record
    return found


def _attempt_of(ended: dict[str, Any], paths: RunPaths) -> int:
    """Which attempt an end belongs to; one that does not say so ended the attempt that began last."""
    said = int(ended.get("attempt") or 0)
    began = _newest(paths.events, "run_started") if not said else None
    return int(began.get("attempt", 1)) if began else said
