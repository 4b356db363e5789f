"""The table of runs: its columns, and how each shows a run; its order. Any metric or setting can be a column too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from textual import on

from hetspec_core.events import AT_WORK
from hetspec_tui.dialogs import Choice, Choose, ChooseMany
from hetspec_tui.formatting import STATE_SIGNS, ago, count, duration, number
from hetspec_tui.widgets.cells import Cell, Column, Row, Tone
from hetspec_tui.widgets.paged_table import PagedTable, TableMessage

if TYPE_CHECKING:
    from hetspec_core.service.pages import RunLine
    from hetspec_core.service.report import RunSummary

STATE_TONES: dict[str, Tone] = {
    "queued": "muted",
    "starting": "accent",
    "running": "primary",
    "succeeded": "success",
    "failed": "error",
    "cancelled": "warning",
    "lost": "error",
    "unreadable": "error",
}

NEWEST_FIRST = ("created", True)
DEFAULT = (
    *("state", "name", "stage", "progress", "accept_length", "speedup", "took", "age"),
    *("tag", "base", "draft", "algorithm", "id"),
)
"""Columns that are shown until others are chosen: the most important ones fit into 80 cells."""

_TEXTS_FROM_A = frozenset(
    {"state", "stage", "name", "recipe", "base", "draft", "algorithm", "note", "task", "id", "error", "hash"}
)
_UNSORTED = frozenset({"tag", "text"})

Write = Callable[["RunSummary"], Cell]
Align = Literal["left", "right"]


def _column(key: str, title: str, width: int, write: Write, align: Align = "left", grow: int = 0, most: int = 60
            ) -> tuple[Column, Write]:  # fmt: skip
    return Column(key, title, width, align, grow, most), write


def _text(name: str, tone: Tone = "") -> Write:
    return lambda run: Cell(getattr(run, name), tone)


def _figure(name: str, write: Callable[[float | None], str] = number) -> Write:
    return lambda run: Cell(write(getattr(run, name)))


def _moment(name: str) -> Write:
    return lambda run: Cell(moment(getattr(run, name)), "muted")


_KNOWN: tuple[tuple[Column, Write], ...] = (
    _column("state", "State", 11, lambda run: state_cell(run.state)),
    _column("name", "Name", 18, lambda run: name_cell(run), grow=3, most=40),
    _column("id", "Run", 27, _text("run_id", "muted")),
    _column("stage", "Stage", 8, _text("stage")),
    _column("progress", "Done", 5, lambda run: Cell("-" if run.progress is None else f"{run.progress:.0%}"), "right"),
    _column("accept_length", "Accept", 7, _figure("accept_length", lambda value: two_places(value)), "right"),
    _column("speedup", "Speed-up", 8, lambda run: Cell(times(run.speedup)), "right"),
    _column("step", "Step", 8, _figure("step"), "right"),
    _column("tokens", "Tokens", 7, lambda run: Cell("-" if run.tokens is None else count(run.tokens)), "right"),
    _column("took", "Took", 7, lambda run: Cell(duration(took_s(run)), "muted"), "right"),
    _column("age", "Age", 4, lambda run: Cell(ago(max(0.0, time.time() - run.created)), "muted"), "right"),
    _column("created", "Created", 16, _moment("created")),
    _column("started", "Started", 16, _moment("started")),
    _column("ended", "Ended", 16, _moment("ended")),
    _column("base", "Base", 12, _text("base"), grow=2, most=28),
    _column("draft", "Draft", 10, _text("draft"), grow=1, most=24),
    _column("algorithm", "Algorithm", 10, _text("algorithm"), grow=1, most=16),
    _column("recipe", "Recipe", 12, _text("recipe"), grow=1, most=24),
    _column("tag", "Tags", 10, lambda run: Cell(" ".join(run.tags), "accent"), grow=2, most=30),
    _column("note", "Note", 16, _text("note"), grow=3),
    _column("error", "Error", 20, lambda run: Cell(run.error["message"] if run.error else "", "error"), grow=3),
    _column("task", "Task", 12, lambda run: Cell(run.waits or run.task)),
    _column("attempt", "Attempt", 7, _figure("attempt"), "right"),
    _column("done", "Count", 9, _figure("done"), "right"),
    _column("total", "Of", 9, _figure("total"), "right"),
    _column("hash", "Spec", 10, lambda run: Cell(run.spec_hash[:10], "muted")),
    _column("starred", "Star", 4, lambda run: Cell("★" if run.starred else "", "warning")),
    _column("archived", "Archived", 8, lambda run: Cell("yes" if run.archived else "")),
)
_BY_KEY = {column.key: (column, write) for column, write in _KNOWN}
KNOWN = tuple(_BY_KEY)
"""Keys of the columns that every run has; others are names of metrics and settings."""


def columns_of(keys: Iterable[str]) -> list[Column]:
    """The columns under these keys; one that is not known is a metric or a setting."""
    return [_BY_KEY[key][0] if key in _BY_KEY else Column(key, _short(key), 10, "right") for key in keys]


def title_of(key: str) -> str:
    """The heading of a column."""
    return _BY_KEY[key][0].title if key in _BY_KEY else key


def is_sortable(key: str) -> bool:
    """Whether runs have an order by this column."""
    return key not in _UNSORTED


def falls_first(key: str) -> bool:
    """Whether the usual order by this column begins with the largest; texts begin with A."""
    return key not in _TEXTS_FROM_A


def further_names(keys: Iterable[str]) -> tuple[str, ...]:
    """Those of the keys that are metrics or settings, whose values have to be asked for."""
    return tuple(key for key in keys if key not in _BY_KEY)


def row_of(line: RunLine, keys: Sequence[str]) -> Row:
    """The row of a run in these columns."""
    run = line.summary
    cells = [_BY_KEY[key][1](run) if key in _BY_KEY else value_cell(line.values.get(key)) for key in keys]
    tone: Tone = "muted" if run.archived else "error" if run.state in ("failed", "lost", "unreadable") else ""
    return Row(run.run_id, tuple(cells), tone)


def state_cell(state: str) -> Cell:
    """A state as sign and word."""
    return Cell(f"{STATE_SIGNS.get(state, ' ')} {state}", STATE_TONES.get(state, ""))


def name_cell(run: RunSummary) -> Cell:
    """What a run is called, its star before it."""
    if run.state == "unreadable" and run.error:
        return Cell(run.error["message"])
    return Cell(("★ " if run.starred else "") + (run.name or "-"))


def value_cell(value: Any) -> Cell:
    """A metric or a setting of any type."""
    if value is None:
        return Cell("-", "muted")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(number(value))
    if isinstance(value, list | tuple):
        return Cell(", ".join(str(one) for one in value) or "none")
    return Cell(str(value))


def took_s(run: RunSummary) -> float | None:
    """Seconds from the first start to the end, or until now."""
    if run.started is None:
        return None
    if run.ended is None and run.state not in AT_WORK:
        return None  # it was lost, or waits for its next attempt: when it stopped is not known
    return (run.ended or time.time()) - run.started


def moment(seconds: float | None) -> str:
    """Local date and minute."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def two_places(value: float | None) -> str:
    """A figure between one and some tens, with two places, so that a column of them lines up."""
    return f"{value:.2f}" if value is not None and 0.1 <= abs(value) < 1000 else number(value)


def times(value: float | None) -> str:
    """A ratio."""
    return "-" if value is None else f"{two_places(value)}x"


def _short(key: str) -> str:
    last = key.replace("/", ".").rsplit(".", 1)[-1]
    return last if len(last) >= 3 else key


class RunsTable(PagedTable):
    """A table of runs whose order and columns are chosen.

    Attributes:
        order: key of a column, metric or setting, and whether the largest comes first.
        shown: keys of the columns.
    """

    @dataclass
    class Reordered(TableMessage):
        """Another order was chosen: the owner reads the ids again."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(columns_of(DEFAULT), id=id)
        self.order = NEWEST_FIRST
        self.shown: tuple[str, ...] = DEFAULT

    def show_columns(self, shown: tuple[str, ...] | None = None, order: tuple[str, bool] | None = None) -> None:
        """Draw the columns, after a change of which they are or of the order."""
        self.shown, self.order = shown or self.shown, order or self.order
        self.set_columns(columns_of(self.shown), self.order)

    def sort_by(self, key: str) -> None:
        """Order by a column; by the same one again reverses the order."""
        if not is_sortable(key):
            self.notify(f"{title_of(key)} have no order.", severity="warning", timeout=3, markup=False)
            return
        self.show_columns(order=(key, not self.order[1]) if key == self.order[0] else (key, falls_first(key)))
        self.post_message(self.Reordered(self))

    async def choose_order(self, keys: Iterable[str]) -> None:
        """Ask the user by which of these columns, metrics and settings the runs are ordered. Call it in a worker."""
        present, falls = self.order
        choices = []
        for key in filter(is_sortable, keys):
            title = title_of(key)
            about = f"{'▼' if falls else '▲'} now; choose it again to reverse it" if key == present else ""
            choices.append(Choice(key, title, about or (key if title.lower() != key else "")))
        chosen = await self.app.push_screen_wait(Choose("Order by", choices, present))
        if chosen is not None:
            self.sort_by(chosen)

    async def choose_columns(self, keys: Iterable[str]) -> bool:
        """Ask the user for the columns and their order; whether some were chosen. Call it in a worker."""
        choices = [Choice(key, title_of(key), key) for key in keys]
        chosen = await self.app.push_screen_wait(ChooseMany("Columns", choices, self.shown))
        if chosen:
            self.show_columns(tuple(chosen))
        return bool(chosen)

    @on(PagedTable.HeadingClicked)
    def _heading_clicked(self, event: PagedTable.HeadingClicked) -> None:
        self.sort_by(event.column)
