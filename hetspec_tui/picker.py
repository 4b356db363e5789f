"""Lists to choose from, above any other screen: one of many, or several of many in an order, filtered as one types.

They know nothing of runs. A page awaits their answer inside a worker, as with `dialogs`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.choice_list import ChoiceList

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Choice:
    """One line to choose.

    Attributes:
        key: what is given back.
        text: what is shown.
        about: said dimly behind it.
    """

    key: str
    text: str
    about: str = ""


class _Line(Input):
    """A filter line that leaves some keys to the list below it."""

    def __init__(self, left_out: Collection[str]) -> None:
        super().__init__(placeholder="filter", compact=True)
        self._left_out = left_out

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return key not in self._left_out and super().check_consume_key(key, character)


class _List(ModalScreen[Answer], Generic[Answer]):
    """A filter line above a list; typing filters, arrows move, Enter takes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", id="picker.cancel"),
        Binding("enter", "take", "Take", id="picker.take", priority=True),
        Binding("up", "move('cursor_up')", show=False, id="picker.up", priority=True),
        Binding("down", "move('cursor_down')", show=False, id="picker.down", priority=True),
        Binding("pageup", "move('page_up')", show=False, id="picker.page_up", priority=True),
        Binding("pagedown", "move('page_down')", show=False, id="picker.page_down", priority=True),
    ]
    LEFT_OUT: ClassVar[Collection[str]] = ()
    HINT: ClassVar[str] = "type to filter, enter takes it, esc leaves"

    def __init__(self, title: str, choices: Sequence[Choice], *, empty: str = "nothing to choose from") -> None:
        super().__init__(classes="dialog picker")
        self.title_text, self.choices, self.empty = title, list(choices), empty
        self.current: str | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self.title_text, markup=False, classes="dialog-title")
            yield _Line(self.LEFT_OUT)
            yield ChoiceList()
            yield Static(self.HINT, markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self.fill(self.current)

    def line(self, choice: Choice) -> Content:
        """How a choice is drawn."""
        return Content.assemble(safe(choice.text), "  ", (safe(choice.about), "dim"))

    def fill(self, chosen: str | None = None) -> None:
        """Show the choices that the filter lets through, the cursor on `chosen`."""
        words = self.query_one(Input).value.casefold().split()
        shown = [
            choice
            for choice in self.choices
            if all(word in f"{choice.key} {choice.text} {choice.about}".casefold() for word in words)
        ]
        options = self.query_one(OptionList)
        options.clear_options()
        if shown:
            options.add_options([Option(self.line(choice), id=choice.key) for choice in shown])
            keys = [choice.key for choice in shown]
            options.highlighted = keys.index(chosen) if chosen in keys else 0
        else:
            words_shown = "no match: shorten the filter" if self.choices else self.empty
            options.add_option(Option(Content.styled(words_shown, "dim"), disabled=True))

    @property
    def highlighted(self) -> str | None:
        """Key of the choice under the cursor."""
        options = self.query_one(OptionList)
        return options.get_option_at_index(options.highlighted).id if options.highlighted is not None else None

    def on_input_changed(self) -> None:
        self.fill()

    def on_option_list_option_selected(self) -> None:
        self.clicked()

    def clicked(self) -> None:
        """A choice was clicked."""
        self.action_take()

    def action_move(self, how: str) -> None:
        """Move the cursor of the list."""
        getattr(self.query_one(OptionList), f"action_{how}")()

    def action_take(self) -> None:
        """Give back what is chosen."""
        raise NotImplementedError

    def action_leave(self) -> None:
        """Give back nothing."""
        self.dismiss(None)


class Choose(_List["str | None"]):
    """One of many; gives its key, or None when it is left.

    Args:
        title: what is chosen.
        choices: in order.
        current: key of the one that the cursor is on at first.
    """

    def __init__(
        self,
        title: str,
        choices: Sequence[Choice],
        current: str | None = None,
        *,
        empty: str = "nothing to choose from",
    ) -> None:
        super().__init__(title, choices, empty=empty)
        self.current = current

    def action_take(self) -> None:
        if self.highlighted is not None:
            self.dismiss(self.highlighted)


class ChooseMany(_List["list[str] | None"]):
    """Several of many, in an order of their own; gives their keys, or None when it is left.

    Args:
        title: what is chosen.
        choices: all; those that are chosen are shown first.
        chosen: keys of those that are chosen at first, in order.
    """

    LEFT_OUT = ("space",)
    HINT = "space on/off, shift+↑↓ moves, type to filter, enter takes, esc leaves"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On or off", id="picker.toggle", priority=True),
        Binding("shift+up", "shift(-1)", show=False, id="picker.earlier", priority=True),
        Binding("shift+down", "shift(1)", show=False, id="picker.later", priority=True),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], chosen: Sequence[str]) -> None:
        by_key = {choice.key: choice for choice in choices}
        self.chosen = [key for key in chosen if key in by_key]
        rest = [choice for choice in choices if choice.key not in self.chosen]
        super().__init__(title, [*(by_key[key] for key in self.chosen), *rest])

    def line(self, choice: Choice) -> Content:
        return Content.assemble(("■ " if choice.key in self.chosen else "□ ", "$text-accent"), super().line(choice))

    def action_switch(self) -> None:
        """Take the choice under the cursor in or out."""
        key = self.highlighted
        if key is None:
            return
        if key in self.chosen:
            self.chosen.remove(key)
        else:
            self.chosen.append(key)
        self.fill(key)

    def action_shift(self, by: int) -> None:
        """Move the choice under the cursor among those that are chosen."""
        key = self.highlighted
        if key not in self.chosen:
            return
        place = self.chosen.index(key)
        self.chosen.insert(max(0, place + by), self.chosen.pop(place))
        by_key = {choice.key: choice for choice in self.choices}
        rest = [choice for choice in self.choices if choice.key not in self.chosen]
        self.choices = [*(by_key[one] for one in self.chosen), *rest]
        self.fill(key)

    def clicked(self) -> None:
        self.action_switch()

    def action_take(self) -> None:
        self.dismiss(list(self.chosen))
