"""Records of benches and tunings as they were recorded: by this version, and by older ones (those with a date)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "results"
BENCHES = tuple(sorted(path.stem for path in FOLDER.glob("bench-*.json")))
_FREE = ("histogram", "left_out", "categories", "best")  # their keys are data


def recorded(name: str) -> dict[str, Any]:
    """The data of a recorded result."""
    return json.loads((FOLDER / f"{name}.json").read_text())["data"]


def keys_of(data: Any, place: str = "") -> set[str]:
    """Paths of all keys of a record; items of a list share theirs, and keys that are data are left out."""
    if isinstance(data, list):
        return set().union(*(keys_of(item, f"{place}[]") for item in data))
    if not isinstance(data, dict):
        return set()
    free = place.rpartition(".")[2] in _FREE
    names = {name: f"{place}.{'*' if free else name}" for name in data}
    return set() if free and not data else set(names.values()).union(*(keys_of(data[n], p) for n, p in names.items()))
