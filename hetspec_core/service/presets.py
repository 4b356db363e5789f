"""Presets for the desk: lists, resolved values with their origins, differences, copies, edits.

Every kind is resolved by the rules of a run: a base, draft or algorithm alone borrows the other parts of a recipe.
Files are written atomically, and never over a shipped one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.config import library
from hetspec_core.config.library import KINDS, Preset, PresetFile, as_recipe, stage_of
from hetspec_core.config.origins import leaves
from hetspec_core.config.resolve import Resolved, resolve_preset
from hetspec_core.documents import DocumentError, parse_toml, read_bounded
from hetspec_core.errors import HetSpecError, SpecError, UsageError
from hetspec_core.files import write_atomic
from hetspec_core.paths import Roots
from hetspec_core.service.plan import Plan, gather_facts, plan

__all__ = ["KINDS", "Difference", "PresetLine", "PresetView", "ResolvedValue"]

PLANNED: dict[str, tuple[str, ...]] = {
    "base": ("dataset",),
    "draft": ("train",),
    "algorithm": ("train",),
    "recipe": ("dataset", "train", "bench"),
}
"""Kind -> the stages whose plans are shown for it."""


@dataclass(frozen=True)
class PresetLine:
    """One line of a list.

    Attributes:
        kind, name: as in `kind/name`.
        summary: its one line; empty when it cannot be read.
        problem: why it cannot be read; empty when it can.
        path: the file.
        shipped: whether it is shipped with HetSpec; else it is the user's.
        overrides: whether it is the user's and hides a shipped one of the same name.
    """

    kind: str
    name: str
    summary: str
    problem: str
    path: Path
    shipped: bool
    overrides: bool

    @property
    def reference(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"

    @property
    def owner(self) -> str:
        """The owner, in words."""
        return "shipped" if self.shipped else "yours, over the shipped one" if self.overrides else "yours"


@dataclass(frozen=True)
class ResolvedValue:
    """One key: its value, the source of the value in words, and its layer (`default` = written nowhere)."""

    key: str
    value: Any
    source: str
    layer: str


@dataclass(frozen=True)
class PresetView:
    """One preset with its content.

    Attributes:
        line: as in the list.
        lineage: presets that it extends, nearest first, as `kind/name`.
        text: the file.
        values: every key after resolution; as written when it is not valid.
        problems: all reasons why it is not valid; empty when it is.
    """

    line: PresetLine
    lineage: tuple[str, ...]
    text: str
    values: tuple[ResolvedValue, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One key in which two presets differ; None = absent there."""

    key: str
    first: Any
    second: Any


def list_presets(kind: str | None = None, search: str = "") -> tuple[PresetLine, ...]:
    """All presets, or those of one kind whose name or summary has every word of `search`.

    Raises:
        NotFoundError: there is no such kind.
    """
    words = search.casefold().split()
    lines = (_line(item.file, item.summary, item.problem) for item in library.list_presets(kind))
    return tuple(line for line in lines if all(word in f"{line.reference} {line.summary}".casefold() for word in words))


def view(reference: str, *, stage: str | None = None, partners: Mapping[str, str] | None = None) -> PresetView:
    """One preset, resolved.

    Args:
        reference: name, or kind/name.
        stage: to resolve for; the usual one of its kind when absent.
        partners: part -> preset to combine with a base, draft or algorithm; default ones when absent.

    Raises:
        NotFoundError: there is no such preset.
    """
    file = library.find_anywhere(reference)
    text = _read(file)
    try:
        preset = library.load_file(file)
    except HetSpecError as error:
        line = _line(file, "", error.message)
        return PresetView(line, (), text, (), (str(error),))
    lineage = tuple(item.reference for item in preset.lineage[1:])
    line = _line(file, preset.summary, "")
    try:
        found = _resolve(preset, stage=stage, partners=partners)
    except SpecError as error:
        return PresetView(line, lineage, text, _as_written(preset), error.problems or (str(error),))
    return PresetView(line, lineage, text, _values(file.kind, found), ())


def plans(
    reference: str, roots: Roots, *, partners: Mapping[str, str] | None = None
) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plans of the stages of a preset on this machine: (stage -> plan, stage -> why it cannot be planned)."""
    file = library.find_anywhere(reference)
    made: dict[str, Plan] = {}
    missing: dict[str, str] = {}
    for stage in PLANNED[file.kind]:
        try:
            spec = _resolve(library.load_file(file), stage=stage, partners=partners).spec
            made[stage] = plan(spec, gather_facts(spec, roots))
        except HetSpecError as error:
            missing[stage] = error.message
    return made, missing


def differences(first: str, second: str, *, stage: str | None = None) -> tuple[Difference, ...]:
    """The keys in which two resolved presets of a kind differ.

    Raises:
        NotFoundError: one does not exist.
        UsageError: they are of different kinds.
        SpecError: one is not valid.
    """
    files = library.find_anywhere(first), library.find_anywhere(second)
    if files[0].kind != files[1].kind:
        raise UsageError(
            f"{files[0].reference} and {files[1].reference} are of different kinds and cannot be compared",
            hint="compare two of one kind",
        )
    left, right = (
        {item.key: item.value for item in _values(file.kind, _resolve(library.load_file(file), stage=stage))}
        for file in files
    )
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return tuple(Difference(key, left.get(key), right.get(key)) for key in keys)


def copy(reference: str, name: str) -> PresetLine:
    """Copy a preset into the user's folder under a name; a copy with the same name hides the shipped one.

    Raises:
        NotFoundError: there is no such preset.
        UsageError: the user has one of that name already.
        SpecError: the name is not allowed, or the file cannot be written.
    """
    kind = library.find_anywhere(reference).kind
    path = library.copy_preset(reference, name)
    file = library.find(kind, path.stem)
    return _line(file, "", "")


def new_name(kind: str, name: str) -> str:
    """A free name for a copy: NAME-mine, NAME-mine-2..."""
    taken = library.preset_files(kind)
    number, candidate = 1, f"{name}-mine"
    while candidate in taken:
        number += 1
        candidate = f"{name}-mine-{number}"
    return candidate


def check_text(kind: str, name: str, text: str) -> tuple[str, ...]:
    """All problems of a text as the user's preset of that kind and name; nothing is written."""
    try:
        library.check_kind(kind)
        library.check_name(name)
        file = _own_file(kind, name)
        resolve_preset(as_recipe(library.load_file(file, text=text)), stage=stage_of(kind))
    except SpecError as error:
        return error.problems or (str(error),)
    except HetSpecError as error:
        return (str(error),)
    return ()


def save(kind: str, name: str, text: str, *, replacing: str | None = None) -> Path:
    """Write the user's preset of that kind and name, if it is valid.

    Args:
        kind, name: which.
        text: the whole file.
        replacing: the expected content of the file; it is not written when the file was changed meanwhile.

    Raises:
        NotFoundError: there is no such kind.
        SpecError: it is not valid (every problem is listed), or it cannot be written.
        UsageError: it was changed meanwhile.
    """
    library.check_kind(kind)
    problems = check_text(kind, name, text)
    if problems:
        raise SpecError(f"{kind} '{name}' does not hold, and was not written", problems=problems)
    path = _own_file(kind, name).path
    if replacing is not None and path.is_file() and path.read_text(encoding="utf-8", errors="replace") != replacing:
        raise UsageError(f"{path} was changed meanwhile", hint="look at it again, and repeat what you changed")
    try:
        write_atomic(path, text)
    except OSError as error:
        raise SpecError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def delete(kind: str, name: str) -> None:
    """Delete a preset of the user; a shipped one of the same name is visible again.

    Raises:
        NotFoundError: there is no such preset.
        UsageError: it is shipped.
        SpecError: it is a folder, or the file system refuses.
    """
    file = library.find(kind, name)
    if file.shipped:
        raise UsageError(f"{file.reference} came with HetSpec and cannot be deleted", hint="your own can be")
    try:
        file.path.unlink(missing_ok=True)
    except OSError as error:
        raise SpecError(f"{file.path} cannot be deleted: {error.strerror or error}") from None


def with_values(kind: str, text: str, changes: Mapping[str, Any]) -> str:
    """A preset's text with some keys changed; its comments are lost.

    Args:
        kind: of the preset.
        text: the file.
        changes: dotted key as in a recipe (`draft.vocab_size`, also for a draft preset) -> value as TOML has it; None
            removes the key, so that the value below it applies.

    Raises:
        SpecError: the text is not TOML.
    """
    import tomli_w

    try:
        data = library.expand(kind, parse_toml(text))
    except DocumentError as error:
        raise SpecError(f"the preset {error}") from None
    for key, value in changes.items():
        path = key.split(".")
        _put(data, path if kind == "recipe" else path[1:], value)
    return tomli_w.dumps(data)


def _put(table: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    chain = [table]
    for name in parents:
        inner = chain[-1].get(name)
        if not isinstance(inner, dict):
            if value is None:
                return
            inner = chain[-1][name] = {}
        chain.append(inner)
    if value is not None:
        chain[-1][last] = value
        return
    chain[-1].pop(last, None)
    for name, inner in zip(reversed(parents), reversed(chain[:-1])):
        if inner[name] == {}:
            del inner[name]


def _own_file(kind: str, name: str) -> PresetFile:
    path = library.user_folder() / kind / f"{name}.toml"
    shipped = (library.shipped_folder() / kind / f"{name}.toml").is_file()
    return PresetFile(kind, name, path, shipped=False, overrides=shipped)


def _line(file: PresetFile, summary: str, problem: str) -> PresetLine:
    return PresetLine(file.kind, file.name, summary, problem, file.path, file.shipped, file.overrides)


def _read(file: PresetFile) -> str:
    """The file as text; empty when it cannot be read, which loading it reports."""
    try:
        return read_bounded(file.path).decode("utf-8", errors="replace")
    except (OSError, DocumentError):
        return ""


def _resolve(preset: Preset, *, stage: str | None = None, partners: Mapping[str, str] | None = None) -> Resolved:
    return resolve_preset(as_recipe(preset, partners), stage=stage or stage_of(preset.file.kind))


def _values(kind: str, found: Resolved) -> tuple[ResolvedValue, ...]:
    """The keys that belong to the preset: all of a recipe, else those of its part."""
    return tuple(
        ResolvedValue(key, origin.value, origin.source, origin.place.layer)
        for key, origin in found.origins.items()
        if (kind == "recipe" and key not in ("schema_version", "stage", "recipe")) or key.startswith(f"{kind}.")
    )


def _as_written(preset: Preset) -> tuple[ResolvedValue, ...]:
    prefix = "" if preset.file.kind == "recipe" else f"{preset.file.kind}."
    return tuple(
        ResolvedValue(prefix + ".".join(key), leaf.value, str(leaf.place), leaf.place.layer)
        for key, leaf in leaves(preset.table)
    )
