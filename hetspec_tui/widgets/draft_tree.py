"""The draft tree of one verify step: which tokens were proposed, what draft and base gave them, which were accepted.

Lines are drawn when they are seen, so that a wide tree costs no more than a small one. It is told what to show.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Size
from textual.strip import Strip

from hetspec_tui.widgets.cells import fit
from hetspec_tui.widgets.gauges import bar
from hetspec_tui.widgets.growing import GrowingView
from hetspec_tui.widgets.tree_layout import BONUS, SIGNS, TreeFrame, branches, levels, percent, place

View = Literal["tree", "table", "compact"]
VIEWS: tuple[View, ...] = ("tree", "table", "compact")
Row = list[tuple[str, str]]
"""Pieces of a line: text, and the name of its style."""

_BARS_FROM, _BAR = 62, 7  # cells of a width with bars, and of a bar
_CELL, _WIDEST_CELL = 13, 26  # cells of a column of the table
_PARENT, _WITH_PARENT = 4, 18  # cells of where a node hangs, and of a column that has room for it
_LEAST_TEXT, _MOST_TEXT = 14, 60  # cells of stem and token; figures far from them cannot be told apart
_SMALL = Size(44, 9)  # in less room a tree is not readable


class DraftTreeView(GrowingView, can_focus=True):
    """A draft tree.

    Attributes:
        chosen: the view that was asked for; None = as fits the room.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "draft-tree--accepted",
        "draft-tree--bonus",
        "draft-tree--failed",
        "draft-tree--rejected",
        "draft-tree--root",
        "draft-tree--path",
        "draft-tree--head",
    }
    DEFAULT_CSS = """
    DraftTreeView {

        & .draft-tree--accepted { color: $text-success; text-style: bold; }
        & .draft-tree--path { color: $success; text-style: bold; }
        & .draft-tree--bonus { color: $text-warning; text-style: bold; }
        & .draft-tree--failed { color: $text-error; }
        & .draft-tree--rejected { text-style: dim; }
        & .draft-tree--root { color: $text-primary; }
        & .draft-tree--head { text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", id="tree.up", show=False),
        Binding("down,j", "scroll_down", "Down", id="tree.down", show=False),
        Binding("pageup", "page_up", "Page up", id="tree.page-up", show=False),
        Binding("pagedown", "page_down", "Page down", id="tree.page-down", show=False),
        Binding("shift+left", "scroll_left", "Left", id="tree.left", show=False),
        Binding("shift+right", "scroll_right", "Right", id="tree.right", show=False),
    ]

    def __init__(self, *, empty: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.empty = empty
        self.chosen: View | None = None
        self._frame: TreeFrame | None = None
        self._rows: list[Row] = []
        self._head: Row = []
        self._laid_for: tuple[str, int] | None = None  # view and width
        self._widest = 0
        self._strips: dict[int, Strip] = {}
        self._styles: dict[str, Style] = {}

    # --- what is shown ----------------------------------------------------------------------------------------------

    @property
    def frame(self) -> TreeFrame | None:
        """The step that is shown."""
        return self._frame

    @property
    def view(self) -> View:
        """The view that is shown."""
        if self.chosen is not None:
            return self.chosen
        small = self.size.width < _SMALL.width or self.size.height < _SMALL.height
        return "compact" if small else "tree"

    @property
    def rows(self) -> list[str]:
        """All lines below the heading as text."""
        return ["".join(text for text, _ in row) for row in self._rows]

    def show(self, frame: TreeFrame | None) -> None:
        """Show another step; None = nothing yet."""
        if frame is not self._frame:
            self._frame = frame
            self._lay_out()

    def set_empty(self, text: str) -> None:
        """What is said when there is no tree."""
        if text != self.empty:
            self.empty = text
            if self._frame is None:
                self._lay_out()

    def next_view(self) -> View:
        """Choose the next view."""
        self.chosen = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._lay_out()
        return self.chosen

    def choose(self, view: View | None) -> None:
        """Choose a view; None = as fits the room."""
        self.chosen = view
        self._lay_out()

    # --- layout -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        width, frame = self.scrollable_content_region.width or self.size.width, self._frame
        self._strips.clear()
        if width <= 0:
            return
        if frame is None:
            self._head, self._rows = [], [[(fit(line, width), "head")] for line in self.empty.split("\n")]
        elif self.view == "tree":
            self._head, self._rows = tree_rows(frame, width)
        elif self.view == "table":
            self._head, self._rows = table_rows(frame, width)
        else:
            self._head, self._rows = compact_rows(frame, width)
        wide = max((_width(row) for row in [self._head, *self._rows]), default=0)
        if self._laid_for != (self.view, width):
            self._laid_for, self._widest = (self.view, width), width
        self._widest = max(self._widest, wide)  # it never becomes narrower: that would lay out the whole screen
        size = Size(self._widest, len(self._rows) + (1 if self._head else 0))
        self.set_extent(size)
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        self._lay_out()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()
        self._strips.clear()

    def _style(self, name: str) -> Style:
        style = self._styles.get(name)
        if style is None:
            style = self.get_component_rich_style(f"draft-tree--{name}", partial=True) if name else Style()
            self._styles[name] = style
        return style

    def render_line(self, y: int) -> Strip:
        base, (left, top), width = self.base_style(y), self.scroll_offset, self.size.width
        if self._head and y == 0:
            row: Row | None = self._head
            number = -1
        else:
            number = y + top - (1 if self._head else 0)
            row = self._rows[number] if 0 <= number < len(self._rows) else None
        if row is None:
            return Strip.blank(width, base)
        strip = self._strips.get(number)
        if strip is None:
            strip = Strip([Segment(text, self._style(name)) for text, name in row], _width(row))
            self._strips[number] = strip
        return strip.crop_extend(left, left + width, base).apply_style(base)


def tree_rows(frame: TreeFrame, width: int) -> tuple[Row, list[Row]]:
    """Heading and lines of the tree view: every node once, figures at the right edge."""
    bars = _BAR if width >= _BARS_FROM else 0
    figures = 1 + 6 + bars + 6 + bars + 7
    with_figures = width >= figures + _LEAST_TEXT
    room = min(width - figures, _MOST_TEXT) if with_figures else width
    head = f"{'':{bars}}{'draft':>6}{'':{bars}}{'base':>6}{'rank':>7} "
    rows: list[Row] = []
    for branch in branches(frame):
        node, kind = branch.node, frame.kind(branch.node)
        stem = branch.stem if len(branch.stem) <= room - 6 else "…" + branch.stem[-max(2, room - 7) :]
        own = 2 if kind in ("accepted", "bonus") else 0  # the last corner is part of the path
        row: Row = [(stem[: len(stem) - own], "rejected"), (stem[len(stem) - own :], "path")]
        row.append((fit(f"{SIGNS[kind]} {frame.label(node)}", room - len(stem)), kind))
        if with_figures:
            draft, base = frame.draft(node), frame.base(node)
            for value in (draft, base):
                if bars:
                    full, rest = bar(value, bars - 1) if value is not None else ("", " " * (bars - 1))
                    row += [(f" {full}", kind), (rest, "rejected")]
                row.append((f"{percent(value) if node else '':>6}", kind))
            rank = "bonus" if node == BONUS else place(frame.rank(node))
            row.append((f"{rank:>7} ", kind))
        rows.append([(text, name) for text, name in row if text])
    return [(fit(head, room + figures, "right"), "head")] if with_figures else [], rows


def table_rows(frame: TreeFrame, width: int) -> tuple[Row, list[Row]]:
    """Heading and lines of the table view: a column a level; behind a token stands the row of its parent, with room."""
    columns = levels(frame)
    cell = max(_CELL, min(_WIDEST_CELL, (width - 3) // max(1, len(columns))))
    parents = cell >= _WITH_PARENT
    head = fit(f"   {SIGNS['root']} {frame.labels[0]}", cell + 3) + "".join(
        fit(f"level {number + 2}", cell) for number in range(len(columns) - 1)
    )
    rows: list[Row] = []
    for number in range(max(len(column) for column in columns)):
        row: Row = [(f"{number + 1:>2} ", "head")]
        for column in columns:
            if number >= len(column):
                row.append((" " * cell, ""))
                continue
            node, kind = column[number].node, frame.kind(column[number].node)
            chance = percent(frame.base(node) if node == BONUS else frame.draft(node))
            text = fit(frame.label(node), cell - 8 - _PARENT * parents)
            row.append((f"{SIGNS[kind]} {text} {chance:>4} ", kind))
            if parents:
                row.append((f"{'←' + str(column[number].parent + 1):<{_PARENT}}", "head"))
        rows.append(row)
    return [(head, "head")], rows


def compact_rows(frame: TreeFrame, width: int) -> tuple[Row, list[Row]]:
    """Lines of the compact view: a line a level, its accepted token first, then as many others as fit."""
    rows: list[Row] = []
    for number, column in enumerate(levels(frame), 1):
        row: Row = [(f"{number:>2} ", "head")]
        room = width - 3
        for at, spot in enumerate(column):
            node, kind = spot.node, frame.kind(spot.node)
            chances = percent(frame.base(node)) if node == BONUS else percent(frame.draft(node))
            if kind in ("accepted", "failed") and node != BONUS:
                chances += f"→{percent(frame.base(node))}"
            label = frame.label(node)
            text = f"{SIGNS[kind]} {fit(label, min(12, max(1, cell_len(label))))} {chances}  "
            behind = len(column) - at - 1
            most = room - (len(f"+{behind}") if behind else 0)
            if cell_len(text) > most:
                if at:
                    row.append((f"+{behind + 1}", "rejected"))
                    break
                text = fit(text, most)
            row.append((text, kind))
            room -= cell_len(text)
        rows.append(row)
    return [], rows


def _width(row: Row) -> int:
    return sum(cell_len(text) for text, _ in row)
