"""The draft tree of one verify step, drawn as a tree, as a table of levels, or one line a level.

The layout functions are pure: they give rows of styled text. The widget keeps the rows and draws those in view.
Token texts are raw in a `TreeStep`; a `Label` makes them safe to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Size
from textual.strip import Strip

from hetspec_core.events.steps import TreeStep
from hetspec_tui.formatting import bar
from hetspec_tui.widgets.cells import fit
from hetspec_tui.widgets.growing import GrowingView

Kind = Literal["root", "accepted", "rejected", "failed", "bonus"]
SIGNS: dict[Kind, str] = {"root": "◉", "accepted": "●", "rejected": "○", "failed": "✗", "bonus": "★"}
"""What became of a node -> its sign, so that colour is never the only mark."""
BONUS = -1
"""Stands for the bonus token, which is no node of the tree."""

Label = Callable[[str], str]
"""Raw text of a token -> text that is safe to draw."""
View = Literal["tree", "table", "compact"]
VIEWS: tuple[View, ...] = ("tree", "table", "compact")
Row = list[tuple[str, str]]
"""Pieces of a line: text, and the name of its style."""

_BARS_FROM, _BAR = 62, 7  # least width with bars, and width of a bar, in cells
_CELL, _WIDEST_CELL = 13, 26  # width of a table column, in cells
_PARENT, _WITH_PARENT = 4, 18  # width of the parent's row number, and the least column width that shows it
_LEAST_TEXT, _MOST_TEXT = 14, 60  # width of stem and token; the figures must stay near them
_SMALL = Size(44, 9)  # a tree needs more room than this


# --- layout ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """A node in the tree view, and the lines that lead to it: heavy ones on the accepted path."""

    node: int
    stem: str


@dataclass(frozen=True)
class NodePosition:
    """A node in the table view; `parent` is the row of its parent in the level before, from 0."""

    node: int
    parent: int


def kind_of(step: TreeStep, node: int, failed: int | None) -> Kind:
    """What became of a node; `failed` is the draft's best proposal where the path ended."""
    if node == BONUS:
        return "bonus"
    if node == 0:
        return "root"
    if node in step.path:
        return "accepted"
    return "failed" if node == failed else "rejected"


def _text(step: TreeStep, node: int) -> str:
    return step.bonus_text if node == BONUS else step.texts[node]


def _draft_prob(step: TreeStep, node: int) -> float | None:
    return None if node <= 0 else step.draft_probs[node]


def _base_prob(step: TreeStep, node: int) -> float | None:
    return step.bonus_prob if node == BONUS else None if node == 0 else step.base_probs[node]


def _group(step: TreeStep, node: int, failed: int | None) -> int:
    """Sort key: the accepted node comes first, then the failed one, then all others."""
    return {"accepted": 0, "failed": 1}.get(kind_of(step, node, failed), 2)


def branches(step: TreeStep, failed: int | None) -> list[Branch]:
    """The tree line by line: every node once, the accepted path on the first lines.

    Children stand in this order: the accepted one or the bonus, the failed one, then by draft probability.
    """
    end = step.path[-1] if step.path else 0
    children: list[list[int]] = [[] for _ in step.tokens]
    for node in range(1, len(step.tokens)):
        children[step.parents[node]].append(node)
    for siblings in children:
        siblings.sort(key=lambda node: (_group(step, node, failed), -_known(step.draft_probs[node])))
    children[end].insert(0, BONUS)
    lines = [Branch(0, "")]
    stack = [(node, "", index == len(children[0]) - 1) for index, node in enumerate(children[0])][::-1]
    while stack:
        node, above, last = stack.pop()
        on_path = kind_of(step, node, failed) in ("accepted", "bonus")
        corner = ("┗" if last else "┡") if on_path else ("└" if last else "├")
        lines.append(Branch(node, f"{above}{corner}{'━' if on_path else '─'}"))
        if node != BONUS:
            below = children[node]
            stem = above + ("  " if last else "│ ")
            stack += [(child, stem, index == len(below) - 1) for index, child in enumerate(below)][::-1]
    return lines


def levels(step: TreeStep, failed: int | None) -> list[list[NodePosition]]:
    """The nodes by level, from 1: the accepted one or the bonus first, then by joint draft probability."""
    depths = step.depths
    joint = [0.0] * len(step.tokens)
    for node in range(1, len(step.tokens)):
        joint[node] = joint[step.parents[node]] + math.log(max(_known(step.draft_probs[node]), 1e-38))
    columns: list[list[int]] = [[] for _ in range(max([*depths, len(step.path) + 1]))]
    for node in range(1, len(step.tokens)):
        columns[depths[node] - 1].append(node)
    for nodes in columns:
        nodes.sort(key=lambda node: (_group(step, node, failed), -joint[node]))
    columns[len(step.path)].insert(0, BONUS)
    rows = {node: row for nodes in columns for row, node in enumerate(nodes)}
    rows[0] = 0
    end = step.path[-1] if step.path else 0
    return [
        [NodePosition(node, rows[end if node == BONUS else step.parents[node]]) for node in nodes] for nodes in columns
    ]


def tree_rows(step: TreeStep, failed: int | None, label: Label, width: int) -> tuple[Row, list[Row]]:
    """Heading and lines of the tree view: every node once, figures at the right edge."""
    bars = _BAR if width >= _BARS_FROM else 0
    figures = 1 + 6 + bars + 6 + bars + 7
    with_figures = width >= figures + _LEAST_TEXT
    room = min(width - figures, _MOST_TEXT) if with_figures else width
    head = f"{'':{bars}}{'draft':>6}{'':{bars}}{'base':>6}{'rank':>7} "
    rows: list[Row] = []
    for branch in branches(step, failed):
        node, kind = branch.node, kind_of(step, branch.node, failed)
        stem = branch.stem if len(branch.stem) <= room - 6 else "…" + branch.stem[-max(2, room - 7) :]
        own = 2 if kind in ("accepted", "bonus") else 0  # the last corner is part of the path
        row: Row = [(stem[: len(stem) - own], "rejected"), (stem[len(stem) - own :], "path")]
        row.append((fit(f"{SIGNS[kind]} {label(_text(step, node))}", room - len(stem)), kind))
        if with_figures:
            for value in (_draft_prob(step, node), _base_prob(step, node)):
                if bars:
                    full, rest = bar(value, bars - 1) if value is not None else ("", " " * (bars - 1))
                    row += [(f" {full}", kind), (rest, "rejected")]
                row.append((f"{percent(value) if node else '':>6}", kind))
            rank = "bonus" if node == BONUS else ordinal(step.base_ranks[node]) if node else ""
            row.append((f"{rank:>7} ", kind))
        rows.append([(text, name) for text, name in row if text])
    return [(fit(head, room + figures, "right"), "head")] if with_figures else [], rows


def table_rows(step: TreeStep, failed: int | None, label: Label, width: int) -> tuple[Row, list[Row]]:
    """Heading and lines of the table view: one column per level. A wide column also names the row of the parent."""
    columns = levels(step, failed)
    cell = max(_CELL, min(_WIDEST_CELL, (width - 3) // max(1, len(columns))))
    parents = cell >= _WITH_PARENT
    head = fit(f"   {SIGNS['root']} {label(step.texts[0])}", cell + 3) + "".join(
        fit(f"level {index + 2}", cell) for index in range(len(columns) - 1)
    )
    rows: list[Row] = []
    for index in range(max(len(column) for column in columns)):
        row: Row = [(f"{index + 1:>2} ", "head")]
        for column in columns:
            if index >= len(column):
                row.append((" " * cell, ""))
                continue
            node = column[index].node
            kind = kind_of(step, node, failed)
            chance = percent(_base_prob(step, node) if node == BONUS else _draft_prob(step, node))
            text = fit(label(_text(step, node)), cell - 8 - _PARENT * parents)
            row.append((f"{SIGNS[kind]} {text} {chance:>4} ", kind))
            if parents:
                row.append((f"{'←' + str(column[index].parent + 1):<{_PARENT}}", "head"))
        rows.append(row)
    return [(head, "head")], rows


def compact_rows(step: TreeStep, failed: int | None, label: Label, width: int) -> tuple[Row, list[Row]]:
    """Lines of the compact view: one per level, its accepted token first, then as many others as fit."""
    rows: list[Row] = []
    for number, column in enumerate(levels(step, failed), 1):
        row: Row = [(f"{number:>2} ", "head")]
        room = width - 3
        for index, position in enumerate(column):
            node, kind = position.node, kind_of(step, position.node, failed)
            base = percent(_base_prob(step, node))
            chances = base if node == BONUS else percent(_draft_prob(step, node))
            if kind in ("accepted", "failed"):
                chances += f"→{base}"
            token = label(_text(step, node))
            text = f"{SIGNS[kind]} {fit(token, min(12, max(1, cell_len(token))))} {chances}  "
            behind = len(column) - index - 1
            most = room - (len(f"+{behind}") if behind else 0)
            if cell_len(text) > most:
                if index:
                    row.append((f"+{behind + 1}", "rejected"))
                    break
                text = fit(text, most)
            row.append((text, kind))
            room -= cell_len(text)
        rows.append(row)
    return [], rows


def percent(value: float | None) -> str:
    """A probability in five cells at most: 62%, 3.1%, <.1%."""
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 0.0995:
        return f"{value:.0%}"
    return f"{value:.1%}" if value >= 0.001 else "<.1%"


def ordinal(rank: int) -> str:
    """A rank in six cells at most, counted from 1: #1, #4,312, #128k."""
    return f"#{rank + 1:,}" if rank < 9999 else f"#{(rank + 1) // 1000}k"


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _width(row: Row) -> int:
    return sum(cell_len(text) for text, _ in row)


class DraftTreeView(GrowingView, can_focus=True):
    """A draft tree.

    Args:
        label: makes the text of a token safe to draw.
        failed: the node that is the draft's best proposal where the path ended; None when there is none.
        empty: text that is shown while there is no tree.

    Attributes:
        chosen: the view that was asked for; None = the one that fits the room.
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

    def __init__(
        self, label: Label, failed: Callable[[TreeStep], int | None], *, empty: str = "", id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._label, self._failed = label, failed
        self.empty = empty
        self.chosen: View | None = None
        self._step: TreeStep | None = None
        self._rows: list[Row] = []
        self._head: Row = []
        self._laid_for: tuple[str, int] | None = None  # view and width
        self._widest = 0
        self._strips: dict[int, Strip] = {}

    # --- what is shown ----------------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        if self.chosen is not None:
            return self.chosen
        small = self.size.width < _SMALL.width or self.size.height < _SMALL.height
        return "compact" if small else "tree"

    @property
    def rows(self) -> list[str]:
        """All lines below the heading as text."""
        return ["".join(text for text, _ in row) for row in self._rows]

    def show(self, step: TreeStep | None) -> None:
        """Show another step; None = nothing yet."""
        if step is not self._step:
            self._step = step
            self._lay_out()

    def set_empty(self, text: str) -> None:
        """Change the text that is shown while there is no tree."""
        if text != self.empty:
            self.empty = text
            if self._step is None:
                self._lay_out()

    def next_view(self) -> View:
        self.chosen = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._lay_out()
        return self.chosen

    def choose(self, view: View | None) -> None:
        """Choose a view; None = the one that fits the room."""
        self.chosen = view
        self._lay_out()

    # --- layout -----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        width, step = self.scrollable_content_region.width or self.size.width, self._step
        self._strips.clear()
        if width <= 0:
            return
        if step is None:
            self._head, self._rows = [], [[(fit(line, width), "head")] for line in self.empty.split("\n")]
        else:
            draw = {"tree": tree_rows, "table": table_rows, "compact": compact_rows}[self.view]
            self._head, self._rows = draw(step, self._failed(step), self._label, width)
        wide = max((_width(row) for row in [self._head, *self._rows]), default=0)
        if self._laid_for != (self.view, width):
            self._laid_for, self._widest = (self.view, width), width
        self._widest = max(self._widest, wide)  # it never becomes narrower: that would lay out the whole screen
        self.set_extent(Size(self._widest, len(self._rows) + bool(self._head)))
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        self._lay_out()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    def render_line(self, y: int) -> Strip:
        base, (left, top), width = self.base_style(y), self.scroll_offset, self.size.width
        index = -1 if self._head and y == 0 else y + top - bool(self._head)
        if index >= len(self._rows):
            return Strip.blank(width, base)
        strip = self._strips.get(index)
        if strip is None:
            row = self._head if index < 0 else self._rows[index]
            segments = [Segment(text, self.part_style(f"draft-tree--{name}") if name else None) for text, name in row]
            strip = Strip(segments, _width(row))
            self._strips[index] = strip
        return strip.crop_extend(left, left + width, base).apply_style(base)
