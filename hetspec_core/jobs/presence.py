"""Whether the process that a journal names works on the run in this very folder, and not on the one it was copied from.

A copied run folder has the journals of the original, and so the identity of its supervisor. What a copy does not have
is the lock that the supervisor holds: the kernel ties it to the file, not to its name or content.
"""

from __future__ import annotations

from pathlib import Path

from hetspec_core.files import is_locked
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity


def is_at_work(paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool | None:
    """Whether `process` lives and works on the run in this folder.

    Args:
        paths: the run folder that is looked at.
        process: what its journals name.
        supervised: whether that is a supervisor, which holds the lock of the run folder for as long as it works. A
            worker that was started by hand holds no such lock; it counts unless its command line names another folder.

    Returns:
        None when it cannot be told: the process is on another host, or the lock may not be opened.
    """
    alive = process.is_alive()
    if not alive:
        return alive
    if supervised:
        try:
            return is_locked(paths.supervisor_lock)
        except OSError:
            return None
    named = run_folder_of(process)
    return named is None or _is_same(named, paths.folder)


def is_copy(paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
    """Whether the process lives and works on a run that this folder is a copy of; arguments as of `is_at_work`."""
    if process.is_alive() is not True or is_at_work(paths, process, supervised=supervised) is not False:
        return False
    named = run_folder_of(process)
    return named is None or not _is_same(named, paths.folder)


def run_folder_of(process: ProcessIdentity) -> Path | None:
    """The run folder that a supervisor or a worker names in its command line; None when it cannot be seen."""
    import psutil

    try:
        seen = psutil.Process(process.pid)
        words, place = seen.cmdline(), seen.cwd()
    except (psutil.Error, OSError):
        return None
    if process.is_alive() is not True:  # another process may have had the number meanwhile
        return None
    for word in words[1:]:
        folder = Path(place) / word
        try:
            if RunPaths(folder).spec.is_file():
                return folder
        except (OSError, ValueError):
            continue
    return None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
