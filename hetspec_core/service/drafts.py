"""The drafts that can be chosen for a base: trained by runs, or in a directory.

It knows where they are, not what is in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetspec_core.documents import DocumentError, read_toml
from hetspec_core.errors import NotFoundError
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench


@dataclass(frozen=True)
class DraftChoice:
    """A draft that can be chosen: what it is called, its directory, and the run that trained it."""

    name: str
    folder: Path
    run_id: str = ""


def draft_name(folder: Path) -> str:
    """What a draft is called: its directory, or the run, and the checkpoint, that has it under the usual name.

    A run that has a name is called by it and the end of its id, because other runs may have the same name.
    """
    folder = folder.absolute()
    if folder.name != "draft":
        return folder.name
    owner = folder.parent
    if owner.parent.name == "checkpoints":
        return f"{_run_name(owner.parent.parent)} {owner.name}"
    return _run_name(owner)


def _run_name(folder: Path) -> str:
    try:
        name = read_toml(RunPaths(folder).spec).get("name")
    except (OSError, DocumentError):  # no run
        name = None
    return f"{name} {folder.name.rpartition('-')[2]}" if isinstance(name, str) and name else folder.name


def find_draft(workbench: Workbench, word: str | None, base: str) -> Path:
    """The draft directory that is meant, or the newest one trained on this base.

    Raises:
        NotFoundError: there is none.
    """
    if word is not None:
        return workbench.resolve_input(word, "draft")
    choices = draft_choices(workbench, base, limit=1)
    if choices:
        return choices[0].folder
    raise NotFoundError(
        f"no draft has been trained on {base} yet",
        hint="train one (`hetspec-core demo` does, in minutes), name one with --draft, or decode with --plain",
    )


def draft_choices(workbench: Workbench, base: str, limit: int | None = None) -> list[DraftChoice]:
    """Drafts trained on this base, newest first."""
    found: list[DraftChoice] = []
    for run in workbench.runs(stage="train", state="succeeded"):
        if run.base != base or (limit is not None and len(found) >= limit):
            continue
        try:
            folder = workbench.resolve_input(run.run_id, "draft")
        except NotFoundError:
            continue
        found.append(DraftChoice(run.name or run.run_id, folder, run.run_id))
    return found


def checkpoint_choices(workbench: Workbench, base: str) -> list[DraftChoice]:
    """Drafts in the checkpoints of runs on this base, whatever became of the runs; newest run and last step first."""
    found: list[DraftChoice] = []
    for run in workbench.runs(stage="train"):
        if run.base != base:
            continue
        steps = sorted((workbench.roots.runs / run.run_id).glob("checkpoints/step-*/draft/config.json"), reverse=True)
        for file in steps:
            folder = file.parent.absolute()
            found.append(DraftChoice(f"{run.name or run.run_id} {folder.parent.name}", folder, run.run_id))
    return found
