"""A table of any number of rows that fetches and draws only those near the view.

It holds the keys of all rows in order. When rows near the view are missing it posts `RowsWanted`, and its owner answers
with `put_rows`. Cursor and marks belong to keys, so they stay when rows are added, removed or moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hetspec_tui.widgets.cells import GAP, GUTTER, TONES, Column, Row, TableRenderer, share_out

_KEPT = 2000  # rows that are kept after they have left the view


@dataclass
class TableMessage(Message):
    """A message of a table."""

    table: PagedTable

    @property
    def control(self) -> PagedTable:
        return self.table


class PagedTable(ScrollView, can_focus=True):
    """Rows in columns, with a cursor, marks and a fixed heading.

    Attributes:
        cursor: index of the row that keys act on.
        empty: text that is shown when there are no rows.
        marking: whether rows can be marked.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "paged-table--header",
        "paged-table--cursor",
        "paged-table--marked",
        *(f"paged-table--{tone}" for tone in TONES),
    }
    DEFAULT_CSS = """
    PagedTable {
        background: $surface;
        color: $foreground;
        scrollbar-gutter: stable;

        & > .paged-table--header { text-style: bold; color: $text-accent; background: $panel; }
        & > .paged-table--cursor {
            color: $block-cursor-blurred-foreground; background: $block-cursor-blurred-background;
        }
        &:focus > .paged-table--cursor {
            color: $block-cursor-foreground; background: $block-cursor-background; text-style: bold;
        }
        & > .paged-table--marked { color: $text-accent; text-style: bold; }
        & > .paged-table--muted { color: $text-muted; }
        & > .paged-table--accent { color: $text-accent; }
        & > .paged-table--primary { color: $text-primary; }
        & > .paged-table--success { color: $text-success; }
        & > .paged-table--warning { color: $text-warning; }
        & > .paged-table--error { color: $text-error; }
        & > .paged-table--strong { text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "turn(-1)", "Page up", show=False, id="table.page_up"),
        Binding("pagedown", "turn(1)", "Page down", show=False, id="table.page_down"),
        Binding("home,g", "edge(-1)", "First row", show=False, id="table.first"),
        Binding("end,G", "edge(1)", "Last row", show=False, id="table.last"),
        Binding("left", "shift(-1)", "Scroll left", show=False, id="table.left"),
        Binding("right", "shift(1)", "Scroll right", show=False, id="table.right"),
        Binding("enter", "select", "Open", id="table.open"),
        Binding("space", "mark", "Mark", id="table.mark"),
        Binding("v,ctrl+@", "mark_range", "Mark to here", show=False, id="table.mark_range"),
        Binding("ctrl+a", "mark_all", "Mark all", show=False, id="table.mark_all"),
    ]

    cursor: reactive[int] = reactive(0)

    @dataclass
    class RowsWanted(TableMessage):
        """Rows near the view are missing: the owner asks `missing` which ones, and answers with `put_rows`."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, PagedTable.RowsWanted) and message.table is self.table

    @dataclass
    class Highlighted(TableMessage):
        """The cursor is on another row, or on none."""

        key: str | None

    @dataclass
    class Selected(TableMessage):
        """A row was opened with Enter or a double click."""

        key: str

    @dataclass
    class Marked(TableMessage):
        """The marks have changed."""

        marks: tuple[str, ...]

    @dataclass
    class HeadingClicked(TableMessage):
        """The heading of a column was clicked."""

        column: str

    def __init__(
        self,
        columns: Sequence[Column] = (),
        *,
        empty: str = "",
        marking: bool = True,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.columns: tuple[Column, ...] = tuple(columns)
        self.empty = empty
        self.marking = marking
        self.sort: tuple[str, bool] | None = None
        self._keys: Sequence[str] | None = None
        self._rows: dict[str, Row | None] = {}  # None = there is no such row any more
        self._marks: dict[str, None] = {}
        self._mark_signs: Mapping[str, tuple[str, str]] = {}
        self._anchor: str | None = None
        self._widths: list[int] = share_out(self.columns, 0)
        self._renderer = TableRenderer(self, "paged-table")
        self._announced: str | None = None

    # --- content -----------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> Sequence[str]:
        """Keys of all rows in order."""
        return self._keys or ()

    @property
    def loaded(self) -> bool:
        """Whether the keys were set."""
        return self._keys is not None

    @property
    def view(self) -> Size:
        """Size of heading and rows, without the scrollbars."""
        return self.scrollable_content_region.size

    @property
    def cursor_key(self) -> str | None:
        """Key of the row under the cursor; None when there are no rows."""
        return self.keys[self.cursor] if 0 <= self.cursor < len(self.keys) else None

    @property
    def marks(self) -> tuple[str, ...]:
        """Keys of the marked rows, in the order of marking; some may not be among `keys` now."""
        return tuple(self._marks)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The marked rows, or the one under the cursor when none is marked."""
        return self.marks or ((self.cursor_key,) if self.cursor_key is not None else ())

    def set_columns(self, columns: Sequence[Column], sort: tuple[str, bool] | None = None) -> None:
        """Show other columns. Rows with cells for the old columns are dropped.

        Args:
            columns: from left to right.
            sort: key of the column by which the rows are ordered, and whether the largest comes first.
        """
        if tuple(columns) != self.columns:
            self.columns = tuple(columns)
            self._rows.clear()
        self.sort = sort
        self._lay_out()

    def set_keys(self, keys: Sequence[str]) -> None:
        """Show these rows. The cursor stays on its row, and that row on its line of the screen, as far as possible."""
        if keys == self._keys:
            return
        key, line = self.cursor_key, self.cursor - self.scroll_offset.y
        was_at_top = self.scroll_offset.y == 0
        self._keys = keys
        index = self._index(key)
        if index is None:
            index = min(self.cursor, len(keys) - 1) if key is not None else 0
        self._lay_out()
        self.set_reactive(PagedTable.cursor, max(0, index))
        if not was_at_top:
            self._scroll_lines(index - line)
        self._show_cursor()
        self._announce()
        self._look()

    def _index(self, key: str | None) -> int | None:
        with contextlib.suppress(ValueError):
            return None if key is None else self.keys.index(key)  # faster than to keep a dictionary of all keys
        return None

    def near(self) -> list[str]:
        top = self.scroll_offset.y
        return list(self.keys[top : top + max(1, self.view.height)])

    def missing(self) -> list[str]:
        """Keys of the missing rows in the view and within one screen of it, those in view first."""
        keys, top, height = self.keys, self.scroll_offset.y, max(1, self.view.height)
        indices = [*range(top, top + 2 * height), *range(top - height, top)]
        return [keys[index] for index in indices if 0 <= index < len(keys) and keys[index] not in self._rows]

    def put_rows(self, asked: Iterable[str], rows: Iterable[Row]) -> None:
        """Take rows that were wanted, or newer ones.

        Args:
            asked: keys of all rows that were asked for; those without a row are shown as deleted.
            rows: the rows that exist.
        """
        by_key = {row.key: row for row in rows}
        changed = {key: by_key.get(key) for key in asked if self._rows.get(key, ...) != by_key.get(key)}
        self._rows.update(changed)
        if len(self._rows) > _KEPT:
            self._rows = {key: self._rows[key] for key in (*self.near(), *changed) if key in self._rows}
        if changed:
            self.refresh()
        self._look()

    def set_mark_signs(self, signs: Mapping[str, tuple[str, str]]) -> None:
        """Draw the marks of these rows with their own sign (one cell) and colour, for example those of their curves."""
        if signs != self._mark_signs:
            self._mark_signs = dict(signs)
            self.refresh()

    def set_marks(self, keys: Iterable[str]) -> None:
        marks = dict.fromkeys(keys)
        if list(marks) != list(self._marks):
            self._marks = marks
            self.refresh()
            self.post_message(self.Marked(self, self.marks))

    def move_to(self, key: str) -> bool:
        """Put the cursor on a row; False when there is no such row."""
        index = self._index(key)
        if index is not None:
            self.cursor = index
        return index is not None

    def set_empty(self, text: str) -> None:
        self.empty = text
        self.refresh()

    # --- keys and mouse ----------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("mark", "mark_range", "mark_all") and not self.marking:
            return False
        return super().check_action(action, parameters)

    def action_move(self, rows: int) -> None:
        self.cursor += rows

    def action_turn(self, pages: int) -> None:
        self.cursor += pages * max(1, self.view.height - 2)

    def action_edge(self, side: int) -> None:
        self.cursor = 0 if side < 0 else len(self.keys) - 1

    def action_shift(self, side: int) -> None:
        self.scroll_to(x=self.scroll_x + side * 12, animate=False)

    def action_select(self) -> None:
        if self.cursor_key is not None:
            self.post_message(self.Selected(self, self.cursor_key))

    def action_mark(self) -> None:
        key = self.cursor_key
        if key is not None:
            self._toggle(key)
            self.cursor += 1

    def action_mark_range(self) -> None:
        """Mark all rows from the last marked one to the cursor."""
        key = self.cursor_key
        if key is None:
            return
        start = self._index(self._anchor)
        low, high = sorted((self.cursor if start is None else start, self.cursor))
        self._anchor = key
        self.set_marks([*self._marks, *self.keys[low : high + 1]])

    def action_mark_all(self) -> None:
        """Mark all rows, or unmark all when all are marked."""
        everything = all(key in self._marks for key in self.keys)
        self.set_marks(() if everything else [*self._marks, *self.keys])

    async def on_click(self, event: Click) -> None:
        where = event.get_content_offset(self)
        if where is None:
            return
        if where.y == 0:
            column = self._column_at(where.x)
            if column is not None:
                self.post_message(self.HeadingClicked(self, column))
            return
        index = self.scroll_offset.y + where.y - 1
        if index >= len(self.keys):
            return
        self.cursor = index
        if event.shift and self.marking:
            self.action_mark_range()
        elif self.marking and (where.x < GUTTER or event.ctrl):
            self._toggle(self.keys[index])
        elif event.chain == 2:
            self.action_select()

    def _toggle(self, key: str) -> None:
        self._anchor = key
        self.set_marks([mark for mark in self._marks if mark != key] if key in self._marks else [*self._marks, key])

    def _column_at(self, x: int) -> str | None:
        left = GUTTER - self.scroll_offset.x
        for column, width in zip(self.columns, self._widths, strict=True):
            if left <= x < left + width + GAP and x >= GUTTER:
                return column.key
            left += width + GAP
        return None

    # --- following the cursor ----------------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, len(self.keys) - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        self._show_cursor()
        for index in (old, new):
            self.refresh_line(index + 1)
        self._announce()

    def _announce(self) -> None:
        key = self.cursor_key
        if key != self._announced:
            self._announced = key
            self.post_message(self.Highlighted(self, key))

    def _show_cursor(self) -> None:
        top, lines = self.scroll_offset.y, max(1, self.view.height - 1)
        if self.cursor < top:
            self._scroll_lines(self.cursor)
        elif self.cursor >= top + lines:
            self._scroll_lines(self.cursor - lines + 1)

    def _scroll_lines(self, top: int) -> None:
        if self.is_mounted:
            self.scroll_to(y=max(0, top), animate=False, force=True, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._look()

    def on_resize(self, event: Resize) -> None:
        self._lay_out()
        self._show_cursor()
        self._look()

    def _look(self) -> None:
        if self.is_mounted and self.missing():
            self.post_message(self.RowsWanted(self))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self._widths = share_out(self.columns, self.view.width - GUTTER)
        width = GUTTER + sum(self._widths) + GAP * max(0, len(self._widths) - 1)
        self.virtual_size = Size(width, len(self.keys) + 1)
        self.refresh()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._renderer.forget()

    def watch_has_focus(self, focus: bool) -> None:
        super().watch_has_focus(focus)
        self._renderer.forget()

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the heading, a row, or the text for no rows."""
        width, left, renderer = self.view.width, self.scroll_offset.x, self._renderer
        if y == 0:
            gutter, body = renderer.heading(self.columns, self._widths, self.sort)
            style = renderer.style("header")
        elif not self.keys:
            return renderer.message(self.empty if self.loaded else "loading…", y, Size(width, self.view.height))
        else:
            index = self.scroll_offset.y + y - 1
            style = renderer.style("cursor" if index == self.cursor else "")
            if index >= len(self.keys):
                return Strip.blank(width, style)
            gutter, body = self._draw_row(self.keys[index], index == self.cursor)
        return Strip.join([gutter, body.crop_extend(left, left + max(0, width - GUTTER), style)]).crop(0, width)

    def _draw_row(self, key: str, is_cursor: bool) -> tuple[Strip, Strip]:
        mark = None if key not in self._marks else self._mark_signs.get(key, ("●", ""))
        row = self._rows.get(key)
        if row is None:
            word = "deleted" if key in self._rows else "…"
            return self._renderer.placeholder(word, is_cursor, mark, self.virtual_size.width - GUTTER)
        return self._renderer.row(row, self.columns, self._widths, is_cursor, mark)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return self.virtual_size.width
