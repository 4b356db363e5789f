"""Looking for what is new in run folders, ten thousand of them in a moment. It knows file lengths, not what is in them.

The rule, by which nothing that is said is missed:

- A folder is new, or gone, by its name.
- The journals of a known run have something new when one of them is not as long as what has been taken in of it.
- desk.jsonl is looked at every time: it says when a new attempt begins, before a worker is started.
- events.jsonl is looked at every time too, until its newest attempt has had a supervisor and said how it ended, some
  time ago. From then on (`quiet_after`) nobody writes there before desk.jsonl has grown.

A worker that somebody starts by hand, without a supervisor, in the folder of such a run is seen when that run is asked
for by its id, or at a rebuild.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hetspec_core.runs.folders import run_id_of

Known = Mapping[str, tuple[int, int, int | None]]
"""Run id -> bytes taken in of events.jsonl and of desk.jsonl, and whether events.jsonl is quiet."""


def run_names(runs: Path) -> list[str]:
    """Ids of the folders, and of whatever else there is, in order; those that are being made are left out."""
    try:
        return sorted(run_id_of(name) for name in os.listdir(runs) if name[0] != ".")  # noqa: PTH208 - names, and fast
    except FileNotFoundError:
        return []


def changed_runs(runs: Path, known: Known) -> Iterator[str]:
    """Ids of the folders that are new, gone, or have journals of another length than is known.

    Args:
        runs: the folder of the run folders.
        known: what has been taken in. A run of which that is nothing is looked into every time.
    """
    names = run_names(runs)
    changed = []
    with _opened(runs) as place:
        look, nothing = os.stat, (0, 0, None)
        for name in names:
            events, desk, quiet = known.get(name, nothing)
            try:  # this loop runs ten thousand times before a list appears
                same = look(f"{name}/desk.jsonl", dir_fd=place).st_size == desk
            except (FileNotFoundError, NotADirectoryError):
                same = desk == 0
            except OSError:  # this user may not look there; ingest reports it
                same = False
            if not (same and (desk or events) and (quiet or _size(name, place) == events)):
                changed.append(name)
    yield from changed
    yield from sorted(known.keys() - set(names))


def _size(name: str, place: int | None) -> int:
    try:
        return os.stat(f"{name}/events.jsonl", dir_fd=place).st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """The folder, so that paths need not be walked from the root each time; None when it is not there."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)
