"""Where values come from: places in files and on the command line, and tables whose every leaf knows its place.

Here layers are put over each other; `resolve` decides what the keys mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Layer = Literal["default", "preset", "file", "option", "set"]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """One place where a value was written.

    Attributes:
        layer: which layer it belongs to.
        label: how it is called, e.g. `preset draft/llama-1l`.
        path: the file, if it is one.
        line: line in the file, from 1, if it could be found.
        formula: `formula '...'` that gave the value, if one did.
    """

    layer: Layer
    label: str
    path: str | None = None
    line: int | None = None
    formula: str | None = None

    def __str__(self) -> str:
        where = f"{self.label}:{self.line}" if self.line is not None else self.label
        return f"{where}: {self.formula}" if self.formula else where


DEFAULT = Place("default", "default")


@dataclass(frozen=True)
class Origin:
    """The value of one key of a resolved spec, and the place it came from."""

    value: Any
    place: Place

    @property
    def source(self) -> str:
        """The place in words, e.g. `preset draft/llama-1l:7: formula 'base.hidden_size' = 576`."""
        return str(self.place)


@dataclass(frozen=True)
class Leaf:
    """A value with its place, and the leaf that it covers in the layer beneath, if there is one."""

    value: Any
    place: Place
    beneath: Leaf | None = None


Table = dict[str, "Table | Leaf"]


def to_table(data: Mapping[str, Any], place: Callable[[Key], Place], key: Key = ()) -> Table:
    """Plain data as a table of leaves; `place` gives the place of each dotted key. Lists are leaves."""
    table: Table = {}
    for name, value in data.items():
        here = (*key, name)
        table[name] = to_table(value, place, here) if isinstance(value, Mapping) else Leaf(value, place(here))
    return table


def merge(lower: Table, upper: Table) -> Table:
    """`upper` over `lower`: tables key by key, anything else replaces.

    A `source` that states its kind replaces the whole source beneath: the keys of one kind mean nothing to another.
    """
    merged = dict(lower)
    for name, above in upper.items():
        below = merged.get(name)
        if isinstance(above, dict):
            whole = name == "source" and "kind" in above
            merged[name] = merge(below, above) if isinstance(below, dict) and not whole else above
        else:
            merged[name] = _over(above, below) if isinstance(below, Leaf) else above
    return merged


def _over(above: Leaf, below: Leaf) -> Leaf:
    return replace(above, beneath=below if above.beneath is None else _over(above.beneath, below))


def plain(table: Table) -> dict[str, Any]:
    """The values alone."""
    return {name: plain(item) if isinstance(item, dict) else item.value for name, item in table.items()}


def leaves(table: Table, key: Key = ()) -> Iterator[tuple[Key, Leaf]]:
    """Every leaf with its key, in order."""
    for name, item in table.items():
        if isinstance(item, dict):
            yield from leaves(item, (*key, name))
        else:
            yield (*key, name), item


def place_of(table: Table, key: Key) -> Place | None:
    """The place of a key, or of the nearest table or list around it; None when nothing of it was written."""
    item: Table | Leaf | None = table
    for name in key:
        if isinstance(item, Leaf):
            return item.place
        item = item.get(name) if item is not None else None
    if isinstance(item, Leaf):
        return item.place
    return None
