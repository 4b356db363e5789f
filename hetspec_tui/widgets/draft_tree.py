"""The draft tree of one verify step, line by line: 20 times a second costs little, as only what is in view is drawn.

It is told a step; it does not know where steps come from.
"""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from hetspec_core.events import TreeStep
from hetspec_tui.widgets.tree_rows import SIGNS, VIEWS, TreeRow, View, rows_of

_LEAST_TOKEN = 8  # cells that a token is given at least, before its facts are left out


class DraftTree(ScrollView, can_focus=True):
    """Root, proposals, the accepted path, the bonus token.

    Attributes:
        view: tree, table (level by level), or compact (the accepted path and the best guess that failed).
    """

    DEFAULT_CSS = """
    DraftTree {
        height: 1fr;
        scrollbar-size-vertical: 1;
        & > .draft-tree--accepted { color: $text-success; text-style: bold; }
        & > .draft-tree--bonus { color: $text-warning; text-style: bold; }
        & > .draft-tree--best { color: $text-error; }
        & > .draft-tree--rejected { color: $foreground-muted; text-style: dim; }
        & > .draft-tree--root { text-style: bold; }
        & > .draft-tree--facts { color: $foreground-muted; }
    }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "draft-tree--accepted",
        "draft-tree--bonus",
        "draft-tree--best",
        "draft-tree--rejected",
        "draft-tree--root",
        "draft-tree--facts",
    }
    BINDINGS: ClassVar[list[BindingType]] = [Binding("v", "next_view", "View", id="tree.view")]

    view: reactive[View] = reactive("tree", repaint=False)

    def __init__(self, *, empty: str = "no draft tree yet", id: str | None = None) -> None:
        super().__init__(id=id)
        self.empty = empty
        self.step: TreeStep | None = None
        self.rows: list[TreeRow] = []

    def show(self, step: TreeStep | None) -> None:
        """Draw another step; None = none."""
        if step is not self.step:
            self.step = step
            self._fill()

    def watch_view(self) -> None:
        self._fill()

    def action_next_view(self) -> None:
        """The next of the three ways."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]

    def _fill(self) -> None:
        self.rows = [] if self.step is None else rows_of(self.step, self.view)
        self.virtual_size = Size(self.scrollable_content_region.width, len(self.rows))
        self.refresh()

    def on_resize(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, len(self.rows))

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        number = y + int(self.scroll_offset.y)
        if number >= len(self.rows):
            words = self.empty if self.step is None and y == 0 else ""
            faint = self.get_component_rich_style("draft-tree--facts")
            return Strip([Segment(set_cell_size(words, width), base + faint)], width)
        return strip_of(self.rows[number], width, base, self._styles())

    def _styles(self) -> dict[str, Style]:
        names = ("accepted", "bonus", "best", "rejected", "root", "facts")
        return {name: self.get_component_rich_style(f"draft-tree--{name}") for name in names}


def strip_of(row: TreeRow, width: int, base: Style, styles: dict[str, Style]) -> Strip:
    """One row, exactly `width` cells: branch, sign and token, then the facts flush right if there is room."""
    facts = row.facts if width >= len(row.branch) + 2 + _LEAST_TOKEN + len(row.facts) + 1 else ""
    room = max(0, width - (cell_len(facts) + 1 if facts else 0))
    style, faint = base + styles[row.kind], base + styles["facts"]
    sign = f"{SIGNS[row.kind]} "
    branch = set_cell_size(row.branch, min(cell_len(row.branch), max(0, room - len(sign))))
    token = f"{sign}{row.token}"
    left = max(0, room - cell_len(branch))
    if cell_len(token) > left and left > 1:
        token = set_cell_size(token, left - 1) + "…"
    segments = [Segment(branch, faint), Segment(set_cell_size(token, left), style)]
    if facts:
        segments.append(Segment(f" {facts}", style if row.kind in ("accepted", "best") else faint))
    return Strip(segments, width).adjust_cell_length(width, base)
