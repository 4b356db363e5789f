"""Editing a file in the user's own editor: the dashboard steps aside and comes back. It knows nothing of the file."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from hetspec_core.errors import UsageError

FALLBACKS = ("nano", "vi")


def command(path: Path) -> list[str]:
    """The words that open a file: $VISUAL, $EDITOR, or an editor that is there.

    Raises:
        UsageError: there is none.
    """
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    words = shlex.split(named) if named else [name for name in FALLBACKS if shutil.which(name)][:1]
    if not words or shutil.which(words[0]) is None:
        seen = f"$EDITOR is {named!r}, which is not there" if named else "$EDITOR is not set"
        raise UsageError(f"no editor: {seen}", hint="set EDITOR to the name of one, e.g. EDITOR=nano")
    return [*words, str(path)]


async def edit(app: App[Any], path: Path) -> None:
    """Open a file in the editor, and come back when it is left.

    Raises:
        UsageError: there is no editor, this terminal cannot be given away, or the editor failed.
    """
    words = command(path)
    try:
        with app.suspend():
            status = subprocess.run(words, check=False).returncode
    except SuspendNotSupported:
        raise UsageError(
            "the terminal cannot be given to an editor here", hint=f"edit {path} in another terminal"
        ) from None
    except OSError as error:
        raise UsageError(f"{words[0]} could not be started: {error.strerror or error}") from None
    app.refresh(layout=True)
    if status != 0:
        raise UsageError(f"{words[0]} ended with status {status}", hint=f"the file is {path}")
