"""Files that people take out of HetSpec, such as the points of a chart: below `exports` in the data folder."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hetspec_core.errors import ResourceError
from hetspec_core.files import explain, write_atomic
from hetspec_core.service.workbench import Workbench


def save_export(workbench: Workbench, name: str, suffix: str, text: str) -> Path:
    """Write a text to a new file, and give its path.

    Args:
        workbench: below whose data folder.
        name: what it is of; letters that do not belong into a file name are replaced.
        suffix: such as ".csv".
        text: the content.

    Raises:
        HetSpecError: it cannot be written; the sentence says why.
    """
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "export"
    folder = workbench.roots.data / "exports"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stem[:80]}-{stamp}{suffix}"
    count = 1
    while path.exists():
        count += 1
        path = folder / f"{stem[:80]}-{stamp}-{count}{suffix}"
    try:
        write_atomic(path, text)
    except OSError as error:
        told = explain(error, doing=f"{path} was not written")
        raise told or ResourceError(f"{path} was not written: {error.strerror or error}") from error
    return path
