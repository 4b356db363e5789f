"""`hetspec config`: where the user's files are, what is wrong in them, and the schema of the settings.

It prints, and draws nothing; what is wrong with settings the app knows, which has read them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetspec_core.errors import HetSpecError, SpecError
from hetspec_core.service.places import DashboardFiles
from hetspec_core.terminal_text import say
from hetspec_tui import pages
from hetspec_tui.settings import place_of, settings_schema


def print_schema() -> int:
    """Print the JSON schema of `dashboard.toml`; gives the exit status."""
    try:
        say(json.dumps(settings_schema([entry.name for entry in pages.available()]), indent=2))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough; Python would complain of it once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def refuse(error: HetSpecError) -> int:
    """Print why the dashboard cannot be opened; gives the exit status."""
    say(f"hetspec: {error.message}", file=sys.stderr)
    if error.hint:
        say(error.hint, file=sys.stderr)
    return error.exit_code


def report(files: DashboardFiles, keys: Mapping[str, str], problems: Sequence[str]) -> int:
    """Print the user's files and what does not hold in them; gives the exit status.

    Args:
        files: where they are.
        keys: the keymap that was read.
        problems: what is wrong with the other files, and with reading this one.
    """
    wrong = [*problems, *key_problems(files.keys, keys)]
    for name, path in (("settings", files.settings), ("keys", files.keys), ("themes", files.themes)):
        say(f"{name:<9} {path}{'' if path.exists() else '  not there'}")
    say(f"{'log':<9} {files.log}")
    for problem in wrong:
        say(problem, file=sys.stderr)
    if not wrong:
        return 0
    count = "1 fault" if len(wrong) == 1 else f"{len(wrong)} faults"
    say(f"hetspec: {count}; what does not hold is left at its default", file=sys.stderr)
    return SpecError.exit_code


def key_problems(path: Path, keys: Mapping[str, str]) -> list[str]:
    """What is wrong with a keymap, each with its line. Imports all pages, which bind keys."""
    if not keys:
        return []
    from hetspec_tui.keymap import bound_classes, check_keymap

    for target in (*(entry.target for entry in pages.available()), pages.RUN, pages.COMPARISON):
        pages.load(target)
    return [f"{place_of(path, *name.split('.'))}: {said}" for name, said in check_keymap(keys, bound_classes())]
