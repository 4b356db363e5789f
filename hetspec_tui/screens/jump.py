"""Jump mode: a letter on everything that can have the focus; pressing it goes there."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key, Resize
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Label, Static

LETTERS = "asdfghjklqwertyuiopzxcvbnm1234567890"


class JumpScreen(ModalScreen[Widget | None]):
    """Letters over the screen below; gives the widget whose letter was pressed."""

    CSS_PATH = "jump.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+o", "leave", "Leave", id="jump.leave")]

    def __init__(self, targets: list[Widget]) -> None:
        super().__init__()
        self._targets = dict(zip(LETTERS, targets, strict=False))

    def compose(self) -> ComposeResult:
        for letter, target in self._targets.items():
            label = Label(f" {letter} ", classes="jump-letter", markup=False)
            label.styles.offset = (target.region.x, target.region.y)
            yield label
        yield Static("press a letter to go there, Esc to stay", id="jump-hint", markup=False)

    def on_resize(self, event: Resize) -> None:
        for label, target in zip(self.query(".jump-letter"), self._targets.values(), strict=False):
            label.styles.offset = (target.region.x, target.region.y)

    def on_key(self, event: Key) -> None:
        if event.character in self._targets:
            event.stop()
            self.dismiss(self._targets[event.character])

    def action_leave(self) -> None:
        self.dismiss(None)
