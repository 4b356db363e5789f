"""Choosing a theme: each is shown on the screen behind as the highlight moves."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.widgets.choice_list import ChoiceList


class ThemeScreen(ModalScreen[str | None]):
    """A list of the themes; gives the name of the one that was chosen, None when all is to stay as it was."""

    CSS_PATH = "themes.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave", id="themes.leave")]

    def __init__(self) -> None:
        super().__init__(classes="dialog")

    def compose(self) -> ComposeResult:
        self._before = self.app.theme
        names = sorted(self.app.available_themes)
        with Vertical(classes="dialog-box"):
            yield Static("Theme", markup=False, classes="dialog-title")
            yield ChoiceList(*(Option(name, id=name) for name in names), markup=False)
            yield Static("arrows show it, Enter keeps it, Esc goes back", markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        choices = self.query_one(OptionList)
        choices.highlighted = choices.get_option_index(self._before)
        choices.focus()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id and event.option.id != self.app.theme:
            self.app.theme = event.option.id

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_leave(self) -> None:
        self.app.theme = self._before
        self.dismiss(None)
