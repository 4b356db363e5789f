"""From the name of a recipe to one frozen run spec: layers, parts, formulas, strict decoding, cross-checks.

    spec defaults < part presets (base, draft, algorithm) < recipe < file < options < --set

Every problem of all steps is reported at once. Nothing that is read is executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from pathlib import Path, PurePath
from typing import Any, get_args

from hetspec_core.config import library
from hetspec_core.config.checks import add_captured_layers, cross_check, find_card
from hetspec_core.config.formulas import compute_sizes
from hetspec_core.config.library import NO_DRAFT, PARTS, Preset, as_recipe, expand
from hetspec_core.config.origins import (
    DEFAULT,
    Key,
    Leaf,
    Origin,
    Place,
    Table,
    leaves,
    merge,
    place_of,
    plain,
    to_table,
)
from hetspec_core.documents import DocumentError, nearest_line, parse_toml
from hetspec_core.errors import HetSpecError, SpecError, UsageError
from hetspec_core.spec import BaseSpec, RunSpec, Stage
from hetspec_core.spec.decode import Problem, decode, did_you_mean
from hetspec_core.spec.run import GIVEN, LOOSE, SECTIONS, meant, spec_class, without_absent

STAGES: tuple[str, ...] = get_args(Stage)
_ASKED = Place("option", "command line")
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DIGITS = re.compile(r"[+-]?[0-9_]+")
_SHOWN = 80  # characters of a value that an error repeats


@dataclass(frozen=True)
class Resolved:
    """A valid spec, and where each of its values came from.

    Attributes:
        spec: the run spec, ready to be submitted.
        origins: dotted key of every leaf, in the order of the spec -> its value and place.
    """

    spec: RunSpec
    origins: dict[str, Origin]

    @property
    def stage(self) -> Stage:
        """The stage that it is for."""
        return self.spec.stage

    def explain(self) -> tuple[tuple[str, Any, str], ...]:
        """(dotted key, value, source) of every leaf, for `presets show --explain`."""
        return tuple((key, origin.value, origin.source) for key, origin in self.origins.items())


def resolve(
    recipe: str,
    *,
    stage: str,
    overrides: Sequence[str] = (),
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Resolved:
    """Resolve a recipe for one stage.

    Args:
        recipe: name of a recipe preset; for stage dataset that of a base preset will do.
        stage: dataset, train, bench, generate, serve or tune.
        overrides: `key.path=VALUE`, the value read as TOML; what is no TOML is taken as text.
        file: a TOML file in the form of a recipe, put over the recipe.
        options: dotted key -> value, from a command's own options; None values are left out.

    Raises:
        UsageError: there is no such stage.
        NotFoundError: there is no such recipe, or no such file.
        SpecError: the spec is not valid; every problem found is listed.
    """
    check_stage(stage)
    if stage == "dataset" and recipe not in library.preset_files("recipe") and recipe in library.preset_files("base"):
        preset = as_recipe(library.load("base", recipe))  # hidden states want no draft
    else:
        preset = library.load("recipe", recipe)
    return resolve_preset(preset, stage=stage, overrides=overrides, file=file, options=options)


def check_stage(stage: str) -> None:
    """Refuse a stage that does not exist.

    Raises:
        UsageError: there is no such stage.
    """
    if stage not in STAGES:
        raise UsageError(f"no stage {stage!r}{did_you_mean(stage, STAGES) or '; there are: ' + ', '.join(STAGES)}")


def resolve_preset(
    preset: Preset,
    *,
    stage: str,
    overrides: Sequence[str] = (),
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Resolved:
    """As `resolve`, for a recipe that has been loaded, or put together (`library.as_recipe`)."""
    problems: list[Problem] = []
    table = preset.table
    recipe = preset.file.name if preset.file.kind == "recipe" else ""
    if file is not None:
        table = merge(table, _file_layer(file))
    for layer in (*_option_layers(options or {}), *_set_layers(overrides, problems)):
        table = merge(table, layer)
    table = {key: item for key, item in table.items() if key != "summary"}
    for part in PARTS:
        _put_part_beneath(table, part, problems)
    failed = {problem.key for problem in problems}
    base, draft = table.get("base"), table.get("draft")
    if not isinstance(base, dict) or "base.preset" in failed:
        failed.add("draft.preset")  # its sizes depend on the base: errors in them would only repeat
    elif isinstance(draft, dict):
        table["draft"], faults, keys = compute_sizes(draft, base)
        problems += faults
        failed |= keys
    parts = _decode_sections(table, problems, failed)
    stored = parts.get("dataset")
    _check(parts, stage, problems)
    if problems:
        raise _spec_error(preset, file, _located(problems, table))
    spec = RunSpec(stage=stage, recipe=recipe, **parts)  # type: ignore[arg-type] - stage is one of Stage's words
    origins = _origins(spec, table)
    if spec.dataset != stored:  # the one value that a check completes
        given = origins["dataset.layers"].place
        place = replace(given, formula=f"with those that algorithm '{spec.algorithm.name}' reads")
        origins["dataset.layers"] = Origin(spec.dataset.layers, place)
    return Resolved(spec, origins)


def load_base(name: str) -> BaseSpec:
    """The spec of a base preset, where a base is needed without a recipe.

    Raises:
        NotFoundError: there is no such base preset.
        SpecError: it is not valid; every problem is listed.
    """
    preset = library.load("base", name)
    table = merge({"name": Leaf(name, Place("preset", preset.file.label))}, preset.table)
    spec, problems = decode(BaseSpec, without_absent(BaseSpec, plain(table)))
    if spec is None:
        raise SpecError(f"{preset.file.label} is not valid", problems=[str(item) for item in problems])
    return spec


def _file_layer(file: Path) -> Table:
    data, lines = library.read_toml(file, f"file {file}", streams=True)
    if "extends" in data:
        raise SpecError(f"file {file} has extends; the recipe that it goes over is named on the command line")

    def place(key: Key) -> Place:
        return Place("file", f"file {file}", str(file), nearest_line(lines, key))

    return to_table(expand("recipe", data), place)


def _option_layers(options: Mapping[str, Any]) -> Iterator[Table]:
    for key, value in options.items():
        if value is not None:
            yield _nested(key.split("."), str(value) if isinstance(value, PurePath) else value, _ASKED)


def _set_layers(overrides: Sequence[str], problems: list[Problem]) -> Iterator[Table]:
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not _KEY.fullmatch(key):
            problems.append(Problem("--set", f"is {text!r}; needs KEY=VALUE, e.g. training.optimizer.lr=1e-4"))
            continue
        try:
            yield _nested(key.split("."), toml_value(value), Place("set", f"--set {key}"))
        except ValueError as error:
            problems.append(Problem(key, f"is set to {_shortened(value)}, which {error}"))


def toml_value(text: str) -> Any:
    """The right side of --set: TOML, or a bare word as text.

    Raises:
        ValueError: it begins like a list, a table or a quoted text and is not whole, or is a number beyond 64 bits.
    """
    try:
        data = parse_toml(f"value = {text}")
    except DocumentError as error:
        if text[:1] in ("[", "{", '"', "'") or _DIGITS.fullmatch(text):
            raise ValueError(str(error)) from None
        return text
    if len(data) != 1 or isinstance(data["value"], date | datetime | time):  # several lines, or a word like 2024-01-01
        return text
    return data["value"]


def _shortened(value: str) -> str:
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."


def _nested(path: Sequence[str], value: Any, place: Place) -> Table:
    data: Any = value
    for name in reversed(path):
        data = {name: data}
    return to_table(expand("recipe", data), lambda _: place)


def _put_part_beneath(table: Table, part: str, problems: list[Problem]) -> None:
    """Put the preset that a section names beneath the section's own keys, in place."""
    section = table.get(part)
    if not isinstance(section, dict):
        return
    chosen = section.get("preset")
    own: Table = {key: item for key, item in section.items() if key != "preset"}
    table[part] = own
    if not isinstance(chosen, Leaf):
        return
    if part == "draft" and chosen.value == NO_DRAFT:
        del table[part]
        return
    key = f"{part}.preset"
    if not isinstance(chosen.value, str):
        problems.append(Problem(key, f"is {chosen.value!r}; needs the name of a {part} preset", str(chosen.place)))
        return
    try:
        preset = library.load(part, chosen.value)
    except HetSpecError as error:
        problems.append(Problem(key, error.message, str(chosen.place)))
        return
    # An algorithm's name is its card, which its preset says; the names of models are those of their presets.
    name: Table = {} if part == "algorithm" else {"name": Leaf(chosen.value, chosen.place)}
    table[part] = merge(merge(name, preset.table), own)


def _decode_sections(table: Table, problems: list[Problem], failed: set[str]) -> dict[str, Any]:
    """Decode section by section, so that a fault in one does not hide those of another.

    Args:
        table: all layers merged.
        problems: what is found is added here.
        failed: dotted keys that have been reported; `SECTION.preset` stands for the whole section.
    """
    parts: dict[str, Any] = {}
    for name in SECTIONS:
        field, item = RunSpec.model_fields[name], table.get(name)
        model = spec_class(field.annotation)
        assert model is not None, f"section {name} has no spec"
        if isinstance(item, Leaf):
            text = f"is {item.value!r}; needs a table with {', '.join(model.model_fields)}"
            problems.append(Problem(name, text))
        elif isinstance(item, dict):
            if f"{name}.preset" not in failed:
                spec, faults = decode(model, without_absent(model, plain(item)), prefix=name)
                problems += [fault for fault in faults if fault.key not in failed]
                parts |= {name: spec} if spec is not None else {}
        elif field.is_required():
            problems.append(Problem(name, f"is missing; name a {name} preset"))
        else:
            parts[name] = field.get_default(call_default_factory=True)
    loose = {name: _value(table[name]) for name in LOOSE if name in table}
    problems += _loose_faults(loose)
    problems += [Problem(key, _unknown(key, table)) for key in table if key not in (*SECTIONS, *LOOSE)]
    return parts | {name: tuple(value) if isinstance(value, list) else value for name, value in loose.items()}


def _value(item: Table | Leaf) -> Any:
    return item.value if isinstance(item, Leaf) else plain(item)


def _loose_faults(loose: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in loose.items():
        if name in ("name", "backend"):
            if not isinstance(value, str):
                yield Problem(name, f"is {value!r}; needs text")
        elif not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            yield Problem(name, f"is {value!r}; needs a list of text")


def _unknown(key: str, table: Table) -> str:
    if key in GIVEN:
        return "cannot be set: it follows from the recipe and the command"
    item = table[key]
    rest = next(leaves(item), ((), None))[0] if isinstance(item, dict) else ()
    return f"unknown key{meant('.'.join((key, *rest)))}"


def _check(parts: dict[str, Any], stage: str, problems: list[Problem]) -> None:
    """Cross-checks of the parts that could be decoded; fills in the algorithm's default options."""
    card = None
    algorithm = parts.get("algorithm")
    if algorithm is not None:
        card, faults = find_card("algorithms", algorithm.name, "algorithm.name")
        problems += faults
        model = card.options_model() if card is not None else None
        if model is not None:
            options, faults = decode(model, algorithm.options, prefix="algorithm.options")
            problems += faults
            if options is not None:
                parts["algorithm"] = algorithm.model_copy(
                    update={"options": options.model_dump(mode="json", exclude_none=True)}
                )
                problems += add_captured_layers(parts, card)
        elif card is not None and algorithm.options:
            problems.append(
                Problem("algorithm.options", f"algorithm '{card.name}' takes none; seen {', '.join(algorithm.options)}")
            )
    problems += cross_check(parts, stage=stage, algorithm=card)


def _located(problems: list[Problem], table: Table) -> list[str]:
    """Problems as text, each with the place of its key when it was written somewhere."""
    return [str(item if item.place else replace(item, place=_place_text(table, item.key))) for item in problems]


def _place_text(table: Table, key: str) -> str:
    item: Table | Leaf | None = table
    for name in key.split("."):
        if isinstance(item, Leaf):
            break
        item = item.get(name) if item is not None else None
    if isinstance(item, dict):
        item = next(leaves(item), (None, None))[1]
    return str(item.place) if item is not None else ""


def _spec_error(preset: Preset, file: Path | None, problems: list[str]) -> SpecError:
    over = f" with {file}" if file is not None else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return SpecError(
        f"{preset.file.kind} '{preset.file.name}'{over} is not valid: {count}",
        problems=problems,
        hint="keys, values and layers are explained in docs/presets.md",
    )


def _origins(spec: RunSpec, table: Table) -> dict[str, Origin]:
    given: dict[str, Place] = {"stage": _ASKED, "recipe": _ASKED}
    origins: dict[str, Origin] = {}
    for key, value in _flat(spec.model_dump(mode="json")):
        place = given.get(key[0]) or place_of(table, key) or DEFAULT
        origins[".".join(key)] = Origin(value, place)
    return origins


def _flat(data: Mapping[str, Any], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, (*key, name))
        else:
            yield (*key, name), value
