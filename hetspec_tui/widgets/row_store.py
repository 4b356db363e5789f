"""The rows of a table that are in memory: keys of all in their order, and the content of those that were fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from hetspec_tui.widgets.cells import Row

KEPT = 2000
"""Rows that are kept after they have left the view."""


class RowStore:
    """Keys and rows.

    Attributes:
        keys: of all rows, in order; None before they are known. They may be replaced, rows that are there stay.
    """

    def __init__(self) -> None:
        self.keys: Sequence[str] | None = None
        self._rows: dict[str, Row | None] = {}

    def place(self, key: str | None) -> int | None:
        """Where a row stands; None when there is no such row."""
        if key is None or self.keys is None:
            return None
        with contextlib.suppress(ValueError):
            return self.keys.index(key)  # of 100,000 keys a tenth of the time that a dictionary of them takes to make
        return None

    def has(self, key: str) -> bool:
        """Whether it is known what the row is, or that it is gone."""
        return key in self._rows

    def row(self, key: str) -> Row | None:
        """The row; None when it was not fetched yet, or is gone."""
        return self._rows.get(key)

    def near(self, top: int, height: int) -> list[str]:
        """Keys of the rows in view."""
        return list((self.keys or ())[top : top + height])

    def missing(self, top: int, height: int) -> list[str]:
        """Keys of the rows in view and a screenful around it that are not there, those in view first."""
        keys = self.keys or ()
        places = [*range(top, top + 2 * height), *range(top - height, top)]
        return [keys[place] for place in places if 0 <= place < len(keys) and keys[place] not in self._rows]

    def put(self, asked: Iterable[str], rows: Iterable[Row], near: Sequence[str]) -> set[str]:
        """Take rows that were asked for, one without content as gone; gives the keys of those that are new or other.

        Args:
            asked: keys of all that were asked for.
            rows: those that there are.
            near: keys of the rows in view, which are kept when there are too many.
        """
        found = {row.key: row for row in rows}
        changed = {key: row for key in asked if self._rows.get(key, ...) != (row := found.get(key))}
        self._rows.update(changed)
        if len(self._rows) > KEPT:
            self._rows = {key: self._rows[key] for key in (*near, *changed) if key in self._rows}
        return set(changed)

    def forget(self) -> None:
        """Forget what the rows are, not which there are."""
        self._rows.clear()
