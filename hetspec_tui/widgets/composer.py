"""The line of the chat: Enter sends, ctrl+j breaks the line, up and down recall what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

_KEPT = 200


class Composer(TextArea):
    """A few lines of text to send."""

    DEFAULT_CSS = """
    Composer {
        height: auto;
        max-height: 6;
        padding: 0 1;
        border: round $panel;
        background: transparent;

        &:focus { border: round $accent; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="composer.send"),
        Binding("ctrl+j,shift+enter", "newline", "New line", id="composer.newline", show=False),
    ]

    @dataclass
    class Sent(Message):
        """Enter was pressed while the text was not empty."""

        text: str

    def __init__(self, *, placeholder: str = "", id: str | None = None) -> None:
        super().__init__(
            "", soft_wrap=True, show_line_numbers=False, tab_behavior="focus", placeholder=placeholder, id=id
        )
        self.cursor_blink = False
        self._sent: list[str] = []
        self._index = 0  # in `_sent`; its length = the draft of the user
        self._own = ""

    @property
    def sent_before(self) -> list[str]:
        """The sent texts, the newest last."""
        return self._sent

    def remember(self, texts: Sequence[str]) -> None:
        """Set the texts that were sent before."""
        self._sent = list(texts)[-_KEPT:]
        self._index = len(self._sent)

    def put(self, text: str) -> None:
        """Replace the text and put the cursor at its end."""
        self.load_text(text)
        self.move_cursor(self.document.end)

    async def on_key(self, event: Key) -> None:
        # Handled in the widget's queue, after the letters typed before it; a binding would run in the queue of the app.
        active = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if active is not None and active.node is self and active.binding.action == "send":
            event.stop()
            event.prevent_default()
            self.action_send()

    def action_send(self) -> None:
        text = self.text.strip()
        if text:
            self.post_message(self.Sent(text))

    def sent(self, text: str) -> None:
        """Clear the line after the owner has taken the text."""
        if not self._sent or self._sent[-1] != text:
            self._sent = [*self._sent, text][-_KEPT:]
        self._index = len(self._sent)
        self.load_text("")

    def render_lines(self, crop: Region) -> list[Strip]:
        # A late refresh can reach a detached line. It has no background then, and Textual's fallback in themes of
        # sixteen colours, "ansi_default", is no colour to Rich.
        if not self.is_attached:
            return [Strip.blank(crop.width)] * crop.height
        return super().render_lines(crop)

    def action_newline(self) -> None:
        self.insert("\n")

    def action_cursor_up(self, select: bool = False) -> None:
        if select or self.cursor_location[0] > 0 or not self._recall(-1):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if select or self.cursor_location[0] < self.document.line_count - 1 or not self._recall(1):
            super().action_cursor_down(select)

    def _recall(self, by: int) -> bool:
        index = self._index + by
        if not 0 <= index <= len(self._sent):
            return False
        if self._index == len(self._sent):
            self._own = self.text
        self._index = index
        self.put(self._own if index == len(self._sent) else self._sent[index])
        return True
