"""Presets as the desk handles them: list, load, copy. See `library` for how files are found and merged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.config import library
from hetspec_core.config.library import KINDS, Preset, PresetFile, load
from hetspec_core.documents import DocumentError, read_bounded
from hetspec_core.errors import HetSpecError, SpecError, UsageError
from hetspec_core.files import write_atomic


@dataclass(frozen=True)
class Listed:
    """One line of a list of presets.

    Attributes:
        file: where it stands.
        summary: its one line; empty when it cannot be read.
        problem: why it cannot be read; empty when it can.
    """

    file: PresetFile
    summary: str
    problem: str = ""


def list(kind: str | None = None) -> tuple[Listed, ...]:
    """All presets, or those of one kind; one that cannot be read is listed with its problem.

    Raises:
        NotFoundError: there is no such kind.
    """
    kinds = KINDS if kind is None else (kind,)
    return tuple(_listed(file) for each in kinds for file in library.preset_files(each).values())


def _listed(file: PresetFile) -> Listed:
    try:
        return Listed(file, library.load_file(file).summary)
    except HetSpecError as error:
        return Listed(file, "", error.message)


def copy(reference: str, name: str) -> Path:
    """Copy a preset's file into the user's folder under a new name, and return the new file's path.

    Raises:
        NotFoundError: there is no such preset.
        UsageError: the user has one of that name already.
        SpecError: the name is not allowed, the preset cannot be read, or the copy cannot be written.
    """
    file = library.find_anywhere(reference)
    kind, slash, bare = name.partition("/")
    if slash and kind != file.kind:
        raise UsageError(f"{file.reference} is a {file.kind} preset and cannot become {name}")
    new = bare if slash else name
    library.check_name(new)
    target = library.user_folder() / file.kind / f"{new}.toml"
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="choose another name, or delete that file")
    try:
        data = read_bounded(file.path)
    except (OSError, DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{file.path} cannot be copied: {reason}") from None
    try:
        write_atomic(target, data)
    except OSError as error:
        raise SpecError(f"{target} cannot be written: {error.strerror}") from None
    return target


__all__ = ["KINDS", "Listed", "Preset", "PresetFile", "copy", "list", "load"]
