"""The presets: which files there are, shipped and the user's, what `extends` makes of them, and copies of them.

What a key means is decided in `resolve`.
"""

from __future__ import annotations

import copy
import importlib.resources
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hetspec_core import documents
from hetspec_core.config.origins import Key, Leaf, Place, Table, merge, to_table
from hetspec_core.documents import key_lines, nearest_line
from hetspec_core.errors import HetSpecError, NotFoundError, SpecError, UsageError
from hetspec_core.files import write_atomic
from hetspec_core.paths import roots
from hetspec_core.spec.decode import did_you_mean

KINDS: dict[str, str] = {
    "base": "The frozen model that decides: source, sizes, chat template.",
    "draft": "The small model that proposes: sizes, often as formulas over the base's.",
    "algorithm": "How the draft is trained: a card and its options.",
    "recipe": "What a user picks: one of each, and settings of the stages.",
}
"""Kind -> what it describes; also the folder's name."""

NO_DRAFT = "none"
PARTS = ("base", "draft", "algorithm")
LENDER = "smollm2-llama-eagle"
"""The recipe that lends the other parts to a part on its own; its base is the one that every installation has."""

_BORROWED = Place("preset", f"preset recipe/{LENDER}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIX = ".toml"


@dataclass(frozen=True)
class PresetFile:
    """One preset on disk.

    Attributes:
        kind: one of `KINDS`.
        name: file name without `.toml`.
        path: the file.
        shipped: whether it came with HetSpec; else it is the user's.
        overrides: a user's file that hides a shipped one of the same name.
    """

    kind: str
    name: str
    path: Path
    shipped: bool
    overrides: bool = False

    @property
    def reference(self) -> str:
        """`kind/name`."""
        return f"{self.kind}/{self.name}"

    @property
    def label(self) -> str:
        """How origins call it."""
        return f"preset {self.reference}" if self.shipped else f"your preset {self.reference}"


@dataclass(frozen=True)
class Preset:
    """A preset with everything it extends merged beneath it.

    Attributes:
        file: the file.
        table: its keys with their places; `summary` included, `extends` not.
        lineage: itself and every preset it extends, nearest first.
    """

    file: PresetFile
    table: Table
    lineage: tuple[PresetFile, ...]

    @property
    def summary(self) -> str:
        """Its one line for lists."""
        leaf = self.table.get("summary")
        return str(leaf.value) if isinstance(leaf, Leaf) else ""


def shipped_folder() -> Path:
    """Presets that came with HetSpec: inside the installed package, or beside it in a source checkout."""
    package = Path(str(importlib.resources.files("hetspec_core")))
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def user_folder() -> Path:
    """The user's own presets; the folder may not exist yet."""
    return roots().user_presets


def check_kind(kind: str) -> None:
    """Refuse a kind that does not exist.

    Raises:
        NotFoundError: there is no such kind.
    """
    if kind not in KINDS:
        raise NotFoundError(
            f"no kind of preset {kind!r}{did_you_mean(kind, KINDS) or '; there are: ' + ', '.join(KINDS)}"
        )


def check_name(name: str) -> None:
    """Refuse a name that cannot be a preset's file name.

    Raises:
        SpecError: it has characters that are not allowed.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"preset name {name!r}; allowed: letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )


def preset_files(kind: str) -> dict[str, PresetFile]:
    """Name -> file of one kind, by name; the user's hide the shipped ones.

    Raises:
        NotFoundError: there is no such kind.
    """
    check_kind(kind)
    names = {path.stem for folder in (shipped_folder(), user_folder()) for path in (folder / kind).glob(f"*{_SUFFIX}")}
    found = {name: _file(kind, name) for name in sorted(names)}
    return {name: file for name, file in found.items() if file is not None}


def find(kind: str, name: str) -> PresetFile:
    """The file of a preset.

    Raises:
        NotFoundError: there is none; says which is meant, if one is near.
    """
    check_kind(kind)
    file = _file(kind, name)  # not from a listing of all presets: a review of every pair asks hundreds of times
    if file is None:
        files = preset_files(kind)
        listed = did_you_mean(name, files) or (f"; there are: {', '.join(files)}" if files else "; there are none")
        raise NotFoundError(f"no {kind} preset {name!r}{listed}", hint=f"see `hetspec-core presets list {kind}`")
    return file


def _file(kind: str, name: str) -> PresetFile | None:
    """The file of a preset, if there is one: the user's hides the shipped one."""
    if not _NAME.fullmatch(name):
        return None
    shipped, own = _shipped(kind, name), user_folder() / kind / f"{name}{_SUFFIX}"
    is_shipped = _is_there(shipped.path)
    if _is_there(own):
        return PresetFile(kind, name, own, shipped=False, overrides=is_shipped)
    return shipped if is_shipped else None


def _shipped(kind: str, name: str) -> PresetFile:
    return PresetFile(kind, name, shipped_folder() / kind / f"{name}{_SUFFIX}", shipped=True)


def _is_there(path: Path) -> bool:
    """Whether the name is taken, be it by a folder or a dangling link; reading it reports what is wrong."""
    try:
        path.lstat()
    except OSError:  # a name too long for the file system, too
        return False
    return True


def find_anywhere(reference: str) -> PresetFile:
    """The file of `kind/name`, or of a bare name that only one kind has; a recipe goes before the others.

    Raises:
        NotFoundError: there is none, or several kinds other than recipe have the name.
    """
    kind, slash, name = reference.partition("/")
    if slash:
        return find(kind, name)
    shelf = {kind: preset_files(kind) for kind in KINDS}
    holders = [kind for kind, files in shelf.items() if reference in files]
    if not holders:
        every = [name for files in shelf.values() for name in files]
        raise NotFoundError(
            f"no preset {reference!r}{did_you_mean(reference, every)}", hint="see `hetspec-core presets list`"
        )
    if len(holders) > 1 and "recipe" not in holders:
        several = " and ".join(f"{kind}/{reference}" for kind in holders)
        raise NotFoundError(f"several presets are called {reference!r}: {several}", hint="write kind/name")
    return shelf["recipe" if "recipe" in holders else holders[0]][reference]


def read_toml(path: Path, label: str, *, streams: bool = False) -> tuple[dict[str, Any], Mapping[Key, int]]:
    """Data and lines of a TOML file; `streams` as of `documents.read_bounded`.

    Raises:
        NotFoundError: it is not there.
        SpecError: it cannot be read, or is not TOML in UTF-8.
    """
    try:
        text = documents.read_bounded(path, streams=streams).decode("utf-8-sig")
    except FileNotFoundError:
        what = f"{label} is a link to a file that does not exist ({path})" if path.is_symlink() else f"no file {path}"
        raise NotFoundError(what) from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{label} is not UTF-8: {error.reason} at byte {error.start} ({path})") from None
    except documents.DocumentError as error:
        raise SpecError(f"{label} {error} ({path})") from None
    except OSError as error:
        raise SpecError(f"{label} cannot be read: {error.strerror or error} ({path})") from None
    return parse_toml(text, label, path)


def parse_toml(text: str, label: str, path: Path) -> tuple[dict[str, Any], Mapping[Key, int]]:
    """As `read_toml`, of a text that is in `path`, or is about to be written there."""
    try:
        data, lines = _parsed(text)
    except documents.DocumentError as error:
        raise SpecError(f"{label} {error} ({path})") from None
    return copy.deepcopy(data), lines


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[dict[str, Any], Mapping[Key, int]]:
    """By the text, so that a file that changed is read anew: presets build on each other, and parsing is what costs."""
    return documents.parse_toml(text), MappingProxyType(key_lines(text))


def load(kind: str, name: str) -> Preset:
    """A preset with all that it extends.

    Raises:
        NotFoundError: it, or one that it extends, is not there.
        SpecError: a file is not TOML, or `extends` is malformed or circular.
    """
    return load_file(find(kind, name))


def load_file(file: PresetFile, chain: tuple[PresetFile, ...] = (), *, text: str | None = None) -> Preset:
    """As `load`, for a file that was found; `chain` are the presets that extend it.

    With `text`, the file is taken to hold that, whatever is in it now.
    """
    if any(file.path == other.path for other in chain):
        circle = " -> ".join(other.reference for other in (*chain, file))
        raise SpecError(f"extends is circular: {circle}", hint=f"remove one `extends`, e.g. that of {file.path}")
    data, lines = read_toml(file.path, file.label) if text is None else parse_toml(text, file.label, file.path)
    table: Table = {}
    lineage: list[PresetFile] = [file]
    for reference in _extended(file, data):
        parent = load_file(_parent(file, reference), (*chain, file))
        lineage += [item for item in parent.lineage if item not in lineage]
        # A draft that extends a base takes its sizes: that is all the two have in common.
        taken = {
            key: item for key, item in parent.table.items() if key == "architecture" or parent.file.kind == file.kind
        }
        table = merge(table, {key: item for key, item in taken.items() if key != "summary"})
    own = expand(file.kind, {key: value for key, value in data.items() if key != "extends"})

    def place(key: Key) -> Place:
        return Place("preset", file.label, str(file.path), nearest_line(lines, key))

    return Preset(file, merge(table, to_table(own, place)), tuple(lineage))


def _extended(file: PresetFile, data: Mapping[str, Any]) -> list[str]:
    value = data.get("extends", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(f"{file.label} has extends = {value!r}; needs a name or a list of names ({file.path})")
    return names


def _parent(file: PresetFile, reference: str) -> PresetFile:
    kind, slash, name = reference.partition("/")
    if not slash:
        kind, name = file.kind, reference
    if kind != file.kind and (file.kind, kind) != ("draft", "base"):
        other = " or a base, whose sizes it takes" if file.kind == "draft" else ""
        fix = "; a recipe names its parts with base, draft and algorithm" if file.kind == "recipe" else ""
        raise SpecError(f"{file.label} extends {reference!r}; it can extend another {file.kind} preset{other}{fix}")
    if name == file.name and kind == file.kind and file.overrides:
        return _shipped(kind, name)  # a user's preset over the shipped one of its name
    try:
        return find(kind, name)
    except NotFoundError as error:
        raise NotFoundError(f"{file.label} extends {reference!r}: {error.message}", hint=error.hint) from None


def expand(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms written out: in a recipe, `draft = "x"` is `[draft] preset = "x"`; `tree = "6/10/60"` is a table."""
    if kind != "recipe":
        return dict(data)
    full = dict(data)
    for part in PARTS:
        if isinstance(full.get(part), str):
            full[part] = {"preset": full[part]}
    decoding = full.get("decoding")
    if isinstance(decoding, Mapping) and isinstance(decoding.get("tree"), str):
        from hetspec_core.spec import TreeSpec

        with suppress(ValueError):  # what is no tree is left as it is: decoding the spec reports it with its key
            full["decoding"] = {**decoding, "tree": TreeSpec.parse(decoding["tree"]).model_dump()}
    return full


@dataclass(frozen=True)
class Listed:
    """One line of a list of presets.

    Attributes:
        file: the file.
        summary: its one line; empty when it cannot be read.
        problem: why it cannot be read; empty when it can.
    """

    file: PresetFile
    summary: str
    problem: str = ""


def list_presets(kind: str | None = None) -> tuple[Listed, ...]:
    """All presets, or those of one kind; one that cannot be read is listed with its problem.

    Raises:
        NotFoundError: there is no such kind.
    """
    kinds = KINDS if kind is None else (kind,)
    return tuple(_listed(file) for name in kinds for file in preset_files(name).values())


def _listed(file: PresetFile) -> Listed:
    try:
        return Listed(file, load_file(file).summary)
    except HetSpecError as error:
        return Listed(file, "", error.message)


def copy_preset(reference: str, name: str) -> Path:
    """Copy a preset's file into the user's folder under a new name, and return the new file's path.

    Raises:
        NotFoundError: there is no such preset.
        UsageError: the user has one of that name already.
        SpecError: the name is not allowed, the preset cannot be read, or the copy cannot be written.
    """
    file = find_anywhere(reference)
    kind, slash, bare = name.partition("/")
    if slash and kind != file.kind:
        raise UsageError(f"{file.reference} is a {file.kind} preset and cannot become {name}")
    new = bare if slash else name
    check_name(new)
    target = user_folder() / file.kind / f"{new}.toml"
    if os.path.lexists(target):
        raise UsageError(f"{target} already exists", hint="choose another name, or delete that file")
    try:
        data = documents.read_bounded(file.path)
    except (OSError, documents.DocumentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SpecError(f"{file.path} cannot be copied: {reason}") from None
    try:
        write_atomic(target, data)
    except OSError as error:
        raise SpecError(f"{target} cannot be written: {error.strerror}") from None
    return target


# --- a part as a recipe -----------------------------------------------------------------------------------------------


def lent_parts() -> dict[str, str]:
    """Part -> name of the preset that `LENDER` takes for it."""
    table = load("recipe", LENDER).table
    names: dict[str, str] = {}
    for part in PARTS:
        section = table.get(part)
        chosen = section.get("preset") if isinstance(section, dict) else None
        if isinstance(chosen, Leaf):
            names[part] = str(chosen.value)
    return names


def as_recipe(preset: Preset, partners: Mapping[str, str] | None = None) -> Preset:
    """A base, draft or algorithm preset as a recipe, so that it is resolved and checked by the same rules.

    The sizes of a draft need a base, and an algorithm is checked against both. Parts that are not named come from
    `LENDER`. A recipe is returned as it is.

    Args:
        preset: a preset of any kind.
        partners: part -> preset name, in place of those of `LENDER`; the entry of the part itself is ignored.
    """
    kind = preset.file.kind
    if kind == "recipe":
        return preset
    names = lent_parts() | dict(partners or {})
    table: Table = {part: {"preset": Leaf(name, _BORROWED)} for part, name in names.items() if part != kind}
    # As in `resolve`: an algorithm is named by its card, a model by its preset.
    own: Table = {} if kind == "algorithm" else {"name": Leaf(preset.file.name, Place("preset", preset.file.label))}
    table[kind] = merge(own, preset.table)
    if kind == "base":  # it is checked without a draft
        table["draft"] = {"preset": Leaf(NO_DRAFT, _BORROWED)}
    return Preset(preset.file, table, preset.lineage)


def stage_of(kind: str) -> str:
    """The stage that a preset of this kind is checked for: a base for dataset, the rest for train."""
    return "dataset" if kind == "base" else "train"
