"""What a search gives: ids in order, whose rows are read as they are asked for; and settings laid flat. No database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hetspec_core.runs.rows import RunRow
from hetspec_core.runs.state import RunState

_PAGE = 100


@dataclass(frozen=True)
class Found:
    """Runs in the order asked for.

    Attributes:
        run_ids: of the runs, as far as the registry can tell.
        accepts: whether a run that is in this state now is one of them; who lists them asks whether processes live.
        read: gives the rows of some ids.
    """

    run_ids: list[str]
    accepts: Callable[[RunState], bool]
    read: Callable[[Sequence[str]], list[RunRow]]

    def __iter__(self) -> Iterator[RunRow]:
        for start in range(0, len(self.run_ids), _PAGE):
            yield from self.read(self.run_ids[start : start + _PAGE])


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key. Lists are values; so are empty tables, which would vanish otherwise."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:  # not Mapping: this runs a million times for a first look at all runs
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
