"""Small screens above any other: a question with yes and no, one for a line of text, and a text to read and copy.

They know nothing of runs. A page awaits their answer inside a worker: `await self.app.push_screen_wait(Confirm(...))`.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static


class Confirm(ModalScreen[bool]):
    """Asks before something that cannot be taken back. "No" has the focus, so that Enter alone changes nothing.

    Args:
        question: one sentence that ends in a question mark.
        details: what will be lost or not; plain text.
        yes: the word on the button that does it.
        no: the word on the other.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "No", id="confirm.no"),
        Binding("left,right,up,down,h,l", "app.focus_next", show=False, id="confirm.move"),
    ]

    def __init__(self, question: str, details: str = "", *, yes: str = "Yes", no: str = "Cancel") -> None:
        super().__init__(classes="dialog")
        self._question, self._details, self._yes, self._no = question, details, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._question, markup=False, classes="dialog-title")
            if self._details:
                yield Static(self._details, markup=False, classes="dialog-text")
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(f"{self._no} (n)"), id="no")
                yield Button(Content(f"{self._yes} (y)"), id="yes", variant="error")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Prompt(ModalScreen[str | None]):
    """Asks for one line of text; gives None when it is left by Escape.

    Args:
        question: what is asked.
        value: what stands there at first.
        hint: what the text is for, below the line; plain text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="prompt.cancel")]

    def __init__(self, question: str, value: str = "", hint: str = "") -> None:
        super().__init__(classes="dialog")
        self._question, self._value, self._hint = question, value, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._question, markup=False, classes="dialog-title")
            yield Input(self._value)
            if self._hint:
                yield Static(self._hint, markup=False, classes="dialog-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    def action_leave(self) -> None:
        self.dismiss(None)


class Details(ModalScreen[None]):
    """Shows a text too long for a toast; `c` copies it, Escape closes.

    Args:
        title: one line.
        text: the whole; plain text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy", id="details.copy"),
        Binding("escape,enter,q", "leave", "Close", id="details.close"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__(classes="dialog -large")
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._title, markup=False, classes="dialog-title")
            with VerticalScroll():
                yield Static(self._text, markup=False)
            yield Static("c copies it, esc closes", markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(f"{self._title}\n{self._text}")
        self.notify("The text is on the clipboard.", timeout=2)

    def action_leave(self) -> None:
        self.dismiss(None)
