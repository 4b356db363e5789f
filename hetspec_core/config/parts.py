"""A base, draft or algorithm preset as a recipe of its own, so that it is resolved and checked by the same rules.

A part says little alone: a draft's sizes stand on a base, an algorithm's demands on both. It borrows the others from a
recipe.
"""

from __future__ import annotations

from collections.abc import Mapping

from hetspec_core.config import library
from hetspec_core.config.library import NO_DRAFT, PARTS, Preset
from hetspec_core.config.origins import Leaf, Place, Table, merge

LENDER = "smollm2-llama-eagle"
"""The recipe that lends the other parts; its base is the one that every installation has."""

_BORROWED = Place("preset", f"preset recipe/{LENDER}")


def lent_parts() -> dict[str, str]:
    """Part -> name of the preset that is put beside a part when nothing else is asked for."""
    table = library.load("recipe", LENDER).table
    names: dict[str, str] = {}
    for part in PARTS:
        section = table.get(part)
        chosen = section.get("preset") if isinstance(section, dict) else None
        if isinstance(chosen, Leaf):
            names[part] = str(chosen.value)
    return names


def as_recipe(preset: Preset, partners: Mapping[str, str] | None = None) -> Preset:
    """A recipe made of a part and its partners; a recipe is given back as it is.

    Args:
        preset: a preset of any kind.
        partners: part -> preset name, for those that are not lent; the name of the part itself is ignored.
    """
    kind = preset.file.kind
    if kind == "recipe":
        return preset
    names = lent_parts() | dict(partners or {})
    table: Table = {part: {"preset": Leaf(name, _BORROWED)} for part, name in names.items() if part != kind}
    # As in `resolve`: an algorithm's name is its card, which its preset says; a model's is that of its preset.
    own: Table = {} if kind == "algorithm" else {"name": Leaf(preset.file.name, Place("preset", preset.file.label))}
    table[kind] = merge(own, preset.table)
    if kind == "base":  # it must hold whatever draft there is
        table["draft"] = {"preset": Leaf(NO_DRAFT, _BORROWED)}
    return Preset(preset.file, table, preset.lineage)


def stage_of(kind: str) -> str:
    """The stage for which a preset of this kind is checked: with a draft where there is one."""
    return "dataset" if kind == "base" else "train"
