"""Run folders as they are found on disk: their ids, why one cannot be read, and what its own journals say of its state.

It knows no database, so it answers while the registry cannot be used. It never raises because of what one folder holds.
"""

from __future__ import annotations

import os
import re
import stat
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


_MISSING = "is not there"


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
