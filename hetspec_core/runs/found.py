"""What a search gives: ids in order, whose rows are read as they are asked for; and settings laid flat. No database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hetspec_core.events.state import RunState
from hetspec_core.runs.rows import RunRow

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
