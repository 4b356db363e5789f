"""The dotted keys of a run spec: which there are, which one was meant, and which values are taken away by `none`."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from hetspec_core.spec import RunSpec
from hetspec_core.spec.decode import near_word

SECTIONS = ("base", "draft", "algorithm", "dataset", "training", "decoding", "bench", "sglang", "tune", "resources")
LOOSE = ("name", "backend", "prompts", "parents")
GIVEN = ("schema_version", "stage", "recipe")
"""Keys that follow from the recipe and the command; neither presets nor --set say them."""

ABSENT = "none"
"""The word that takes an optional value away again; TOML itself has no null."""


def spec_class(annotation: Any) -> type[BaseModel] | None:
    """The one spec class of an annotation such as `DraftSpec | None`; None when there is none, or several."""
    found = [item for item in _branches(annotation) if isinstance(item, type) and issubclass(item, BaseModel)]
    return found[0] if len(found) == 1 else None


def _branches(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


@cache
def every_key() -> tuple[str, ...]:
    """Dotted keys of all leaves that a preset, a file or --set may say."""
    return tuple(key for key in _dotted(RunSpec) if key not in GIVEN)


def _dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = spec_class(field.annotation)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _dotted(inner, f"{prefix}{name}.")


def meant(wanted: str) -> str:
    """`; did you mean 'x'?` for a dotted key whose first part is unknown, or the list of what there is."""
    first, _, rest = wanted.partition(".")
    section = near_word(first, (*SECTIONS, *LOOSE))
    if section is not None:
        full = f"{section}.{rest}" if rest else section
        if full not in every_key() and full not in SECTIONS:
            full = near_word(full, every_key()) or section
        return f"; did you mean '{full}'?"
    by_last = {key.rpartition(".")[2]: key for key in reversed(every_key())}
    last = near_word(wanted.rpartition(".")[2], by_last)
    if last is not None:
        return f"; did you mean '{by_last[last]}'?"
    return f"; known: {', '.join((*SECTIONS, *LOOSE))}"


def without_absent(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Data without the optional keys whose value is the word `none`."""
    kept = dict(data)
    for name, value in data.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        inner = spec_class(field.annotation)
        if value == ABSENT and type(None) in _branches(field.annotation):
            del kept[name]
        elif inner is not None and isinstance(value, Mapping):
            kept[name] = without_absent(inner, value)
    return kept
