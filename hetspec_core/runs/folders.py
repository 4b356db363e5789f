"""Run folders on disk: their ids, why one cannot be read, and a scan for those with something new.

Nothing in here needs the registry, and nothing raises because of what one folder holds. The scan compares file lengths,
so it takes milliseconds for a thousand runs. By its rules no event is missed:

- A folder is new, or missing, by its name.
- A known run has something new when one of its journals is not as long as what has been taken in of it.
- desk.jsonl is looked at every time: it says when a new attempt begins, before a worker is started.
- events.jsonl is looked at every time too, until its newest attempt has had a supervisor and has ended some time ago.
  From then on (`quiet_after`) it does not grow before desk.jsonl has grown.

A worker that is started by hand, without a supervisor, in the folder of a quiet run is seen when that run is asked for
by its id, or at a rebuild.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from hetspec_core.paths import RunPaths

_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MISSING = "is not there"

Known = Mapping[str, tuple[int, int, int | None]]
"""Run id -> bytes taken in of events.jsonl and of desk.jsonl, and whether events.jsonl is quiet."""


def run_id_of(name: str) -> str:
    r"""The id of the run in a folder of this name: the name, with bytes that are not UTF-8 written as `\xfc`."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace")
    return name


def run_paths(runs: Path, run_id: str) -> RunPaths:
    """The folder of a run, the inverse of `run_id_of`; it need not be there.

    Args:
        runs: the folder of the run folders.
        run_id: of the run.
    """
    folder = runs / run_id
    if _ESCAPED.search(run_id) and not os.path.lexists(folder):
        raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes([int(found[1], 16)]), run_id.encode())
        folder = runs / os.fsdecode(raw)
    return RunPaths(folder)


def is_run(paths: RunPaths) -> bool:
    """Whether the folder holds a run: it has a spec.toml, or this user may not look whether it has one."""
    try:
        paths.spec.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return paths.folder.name != "lost+found"  # which every ext4 has at its root, for root alone
    return True


def why_unreadable(paths: RunPaths) -> str:
    """Why a run folder cannot be taken in, in a few words; empty when its files can be opened. Nothing is read."""
    if run_id_of(paths.folder.name) != paths.folder.name:
        return "the name of the folder is not UTF-8"
    for path in (paths.spec, paths.desk, paths.events):
        if (why := _why_not_opened(path)) and not (why == _MISSING and path != paths.spec):
            return why
    return ""


def _why_not_opened(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = next((word for is_kind, word in _KINDS if is_kind(mode)), "no regular file")
            return f"{path.name} is {kind}"
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return f"{path.name}: {(error.strerror or str(error)).lower()}"
    return ""


def run_names(runs: Path) -> list[str]:
    """Ids of the folders, and of any other entry, in order; folders that are being made are left out."""
    try:
        return sorted(run_id_of(name) for name in os.listdir(runs) if name[0] != ".")  # noqa: PTH208 - names, and fast
    except FileNotFoundError:
        return []


def changed_runs(runs: Path, known: Known) -> Iterator[str]:
    """Ids of the folders that are new, missing, or have journals of another length than is known.

    Args:
        runs: the folder of the run folders.
        known: what has been taken in. A run of which that is nothing is given every time.
    """
    names = run_names(runs)
    changed = []
    with _opened(runs) as folder:
        status, nothing = os.stat, (0, 0, None)
        for name in names:
            events, desk, quiet = known.get(name, nothing)
            try:  # this loop runs ten thousand times before a list appears
                same = status(f"{name}/desk.jsonl", dir_fd=folder).st_size == desk
            except (FileNotFoundError, NotADirectoryError):
                same = desk == 0
            except OSError:  # this user may not look there; taking it in reports that
                same = False
            if not (same and (desk or events) and (quiet or _events_size(name, folder) == events)):
                changed.append(name)
    yield from changed
    yield from sorted(known.keys() - set(names))


def _events_size(name: str, folder: int | None) -> int:
    try:
        return os.stat(f"{name}/events.jsonl", dir_fd=folder).st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """The folder as a file, so that paths are not walked from the root each time; None when it is not there."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)
