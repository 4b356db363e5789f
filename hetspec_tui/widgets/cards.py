"""A list of cards of one or more lines each: Textual's option list with prompts that depend on the width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.css.styles import RulesMap
from textual.message import Message
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual
from textual.widgets.option_list import Option

from hetspec_tui.widgets.choice_list import ChoiceList

Line = Sequence[tuple[str, str]]
"""Pieces of plain text, each with its style."""


class CardVisual(Visual):
    """One entry of a list.

    Args:
        key: identifies it when the list changes; unique in the list.
        height: number of its lines.
        lines: gives that many lines for a width in cells.
    """

    def __init__(self, key: str, height: int, lines: Callable[[int], Sequence[Line]]) -> None:
        self.key, self.height, self.lines = key, height, lines

    def render_strips(self, width: int, height: int | None, style: Style, options: RenderOptions) -> list[Strip]:
        lines = [Content.assemble(*line) for line in self.lines(width)]
        return Content("\n").join(lines).render_strips(width, height, style, options)

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:
        return container_width

    def get_height(self, rules: RulesMap, width: int) -> int:
        return self.height


class CardList(ChoiceList):
    """Cards below each other, one of them current. `empty` is shown when there are none."""

    DEFAULT_CSS = """
    CardList {
        height: 1fr;
        padding: 0;
        background: transparent;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        scrollbar-size-vertical: 1;

        & > .option-list--option { padding: 0 1; }
        & > .option-list--option-disabled { color: $text-muted; }
        & > .option-list--option-highlighted { background: transparent; color: $foreground; text-style: none; }

        &:focus {
            background-tint: $foreground 0%;
            & > .option-list--option-highlighted { background: $primary 25%; color: $foreground; text-style: none; }
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", id="cards.open"),
        Binding("up,k", "cursor_up", "Up", show=False, id="cards.up"),
        Binding("down,j", "cursor_down", "Down", show=False, id="cards.down"),
        Binding("home,g", "first", "First", show=False, id="cards.first"),
        Binding("end,G", "last", "Last", show=False, id="cards.last"),
        Binding("pageup", "page_up", "Page up", show=False, id="cards.page_up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="cards.page_down"),
    ]

    @dataclass
    class Left(Message):
        """The user moved beyond the last card (by 1) or the first (by -1)."""

        cards: CardList
        by: int

        @property
        def control(self) -> CardList:
            return self.cards

    def __init__(self, title: str, *, empty: str = "", id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self.border_title = title
        self.empty = empty
        self._cards: list[CardVisual] = []

    def on_mount(self) -> None:
        self.show(self._cards)

    def show(self, cards: Sequence[CardVisual]) -> None:
        """Show these cards; the current one stays current if possible."""
        before, place = self.key, self.highlighted or 0
        keys = [card.key for card in cards]
        same = bool(keys) and keys == [card.key for card in self._cards] and self.option_count == len(keys)
        self._cards = list(cards)
        if same:
            for number, card in enumerate(cards):
                self.replace_option_prompt_at_index(number, card)
            return
        top = self.scroll_offset.y
        self.clear_options()
        self.add_options([Option(card, id=card.key) for card in cards] or [Option(self.empty, disabled=True)])
        if keys:
            self.highlighted = keys.index(before) if before in keys else min(place, len(keys) - 1)
            self.scroll_to(y=top, animate=False)

    @property
    def key(self) -> str:
        """Key of the current card; empty when there is none."""
        option = self.highlighted_option
        return (option.id or "") if option is not None else ""

    @key.setter
    def key(self, key: str) -> None:
        for number, card in enumerate(self._cards):
            if card.key == key:
                self.highlighted = number

    @property
    def lines_wanted(self) -> int:
        """Number of lines of all cards, or of the text in place of them."""
        return sum(card.height for card in self._cards) or len(self.empty.splitlines()) or 1

    def action_cursor_up(self) -> None:
        if not self.highlighted:
            self.post_message(self.Left(self, -1))
        else:
            super().action_cursor_up()

    def action_cursor_down(self) -> None:
        if self.highlighted is None or self.highlighted == self.option_count - 1:
            self.post_message(self.Left(self, 1))
        else:
            super().action_cursor_down()
