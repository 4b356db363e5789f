"""A list of cards of one or more lines each; only the lines in view are drawn.

A card gives its lines for a width as pieces of plain text with names of inks from `INKS`, separated by spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

INKS = ("strong", "dim", "faint", "primary", "accent", "good", "warn", "bad")
Piece = tuple[str, str]
Line = Sequence[Piece]
_GUTTER = 2


@dataclass(frozen=True)
class CardItem:
    """One entry.

    Attributes:
        key: identifies it when the list changes; unique in the list.
        height: number of its lines.
        lines: gives that many lines for a width in cells.
    """

    key: str
    height: int
    lines: Callable[[int], Sequence[Line]]


class CardList(ScrollView, can_focus=True):
    """Cards below each other, one of them current. `empty` is shown when there are none."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {*(f"ink--{name}" for name in INKS), "cards--chosen", "cards--mark"}
    DEFAULT_CSS = """
    CardList {
        height: 1fr;
        scrollbar-size-vertical: 1;
        overflow-x: hidden;

        .ink--strong { text-style: bold; }
        .ink--dim { color: $text-muted; }
        .ink--faint { color: $text-disabled; }
        .ink--primary { color: $primary; }
        .ink--accent { color: $accent; }
        .ink--good { color: $success; }
        .ink--warn { color: $warning; }
        .ink--bad { color: $text-error; }
        .cards--chosen { background: $foreground 8%; }
        .cards--mark { color: $accent; text-style: bold; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Open", id="cards.open"),
        Binding("up,k", "move(-1)", "Up", show=False, id="cards.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="cards.down"),
        Binding("home,g", "move(-1000000)", "First", show=False, id="cards.first"),
        Binding("end,G", "move(1000000)", "Last", show=False, id="cards.last"),
        Binding("pageup", "move(-8)", "Page up", show=False, id="cards.page_up"),
        Binding("pagedown", "move(8)", "Page down", show=False, id="cards.page_down"),
    ]

    @dataclass
    class Chosen(Message):
        """Enter, or a double click, on a card."""

        cards: CardList
        key: str

        @property
        def control(self) -> CardList:
            return self.cards

    @dataclass
    class Moved(Message):
        """Another card is the current one; empty key = there is none."""

        cards: CardList
        key: str

        @property
        def control(self) -> CardList:
            return self.cards

    @dataclass
    class Left(Message):
        """The user moved beyond the last card (by 1) or the first (by -1)."""

        cards: CardList
        by: int

        @property
        def control(self) -> CardList:
            return self.cards

    def __init__(self, title: str, *, empty: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.border_title = title
        self.empty = empty
        self._cards: list[CardItem] = []
        self._tops: list[int] = []
        self._at: list[int] = []  # line -> number of its card
        self._current = 0

    # --- what is shown ------------------------------------------------------------------------------------------------

    def show(self, cards: Sequence[CardItem]) -> None:
        """Show these cards; the current one stays current if possible."""
        before = self.key
        self._cards = list(cards)
        self._tops, self._at = [], []
        for number, card in enumerate(self._cards):
            self._tops.append(len(self._at))
            self._at += [number] * card.height
        keys = [card.key for card in self._cards]
        self._current = keys.index(before) if before in keys else min(self._current, max(0, len(keys) - 1))
        self.virtual_size = Size(0, len(self._at))
        self.refresh()
        if self.key != before:
            self.post_message(self.Moved(self, self.key))

    @property
    def key(self) -> str:
        """Key of the current card; empty when there is none."""
        return self._cards[self._current].key if self._cards else ""

    @key.setter
    def key(self, key: str) -> None:
        for number, card in enumerate(self._cards):
            if card.key == key:
                self._go_to(number)

    @property
    def lines_wanted(self) -> int:
        """Number of lines of all cards, or of the text in place of them."""
        return len(self._at) or len(self.empty.splitlines()) or 1

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        line = y + self.scroll_offset.y
        if not self._cards:
            words = self.empty.splitlines()
            text = words[line] if line < len(words) else ""
            style = base + self._ink("dim")
            return Strip([Segment(set_cell_size(f"  {text}", width), style)], width)
        if line >= len(self._at):
            return Strip.blank(width, base)
        number = self._at[line]
        card = self._cards[number]
        lines = card.lines(width - _GUTTER)
        inside = line - self._tops[number]
        pieces = lines[inside] if inside < len(lines) else ()
        chosen = number == self._current and self.has_focus
        if chosen:
            base += self.get_component_rich_style("cards--chosen")
        mark = base + self.get_component_rich_style("cards--mark", partial=True)
        segments = [Segment("▌ " if chosen and pieces else "  ", mark)]
        left = width - _GUTTER
        if left < 1:
            return Strip.blank(width, base)
        for text, inks in pieces:
            room = cell_len(text)
            if room > left:
                text, room = set_cell_size(text, left - 1) + "…", left
            segments.append(Segment(text, base + self._ink(inks)))
            left -= room
            if left <= 0:
                break
        segments.append(Segment(" " * max(0, left), base))
        return Strip(segments, width)

    def _ink(self, names: str) -> Style:
        style = Style.null()
        for name in names.split():
            mixed = self.get_visual_style(f"ink--{name}").rich_style  # its colour as it is on the background
            style += Style(color=None if name == "strong" else mixed.color, bold=mixed.bold or None)
        return style

    # --- moving -------------------------------------------------------------------------------------------------------

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def action_move(self, by: int) -> None:
        """Move the current card by a number of cards."""
        wanted = self._current + by
        if abs(by) == 1 and not 0 <= wanted < len(self._cards):
            self.post_message(self.Left(self, by))
        else:
            self._go_to(wanted)

    def _go_to(self, number: int) -> None:
        if not self._cards:
            return
        number = min(max(number, 0), len(self._cards) - 1)
        if number != self._current:
            self._current = number
            self.refresh()
            self.post_message(self.Moved(self, self.key))
        top, height = self._tops[number], self._cards[number].height
        self.scroll_to_region(Region(0, top, 1, height), animate=False)

    def action_choose(self) -> None:
        """Open the current card."""
        if self.key:
            self.post_message(self.Chosen(self, self.key))

    def on_click(self, event: Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        line = offset.y + self.scroll_offset.y
        if line < len(self._at):
            self._go_to(self._at[line])
            if event.chain == 2:
                self.action_choose()
