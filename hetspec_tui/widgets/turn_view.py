"""One turn of a conversation: who speaks, and the text, as coloured tokens or as Markdown. It is told both."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Markdown, Static


class TurnView(Vertical):
    """A heading and a text.

    Args:
        heading: who speaks.
        speaker: class of its colours: user, assistant or note.
    """

    DEFAULT_CSS = """
    TurnView {
        height: auto;
        padding: 0 1;
        & > .turn-head { height: 1; text-style: bold; color: $foreground-muted; }
        & > .turn-text { height: auto; }
        &.-user > .turn-head { color: $text-primary; }
        &.-assistant > .turn-head { color: $text-accent; }
        &.-note > .turn-head { color: $text-error; }
        & Markdown { height: auto; padding: 0; margin: 0; background: transparent; }
    }
    """

    def __init__(self, heading: str, speaker: str, content: Content) -> None:
        super().__init__(classes=f"-{speaker}")
        self._heading, self._content, self._source = heading, content, ""

    def compose(self) -> ComposeResult:
        yield Static(self._heading, classes="turn-head", markup=False)
        yield Static(self._content, classes="turn-text")

    def show(self, heading: str, content: Content) -> None:
        """Other words, as coloured text."""
        self._heading, self._content = heading, content
        if self.is_mounted:
            self.query_one(".turn-head", Static).update(Content(heading))
            self.query_one(".turn-text", Static).update(content)

    async def render_markdown(self, source: str | None) -> None:
        """Show the text as Markdown; None = as coloured text again."""
        found = list(self.query(Markdown))
        self.query_one(".turn-text").display = source is None
        if source is None:
            for one in found:
                await one.remove()
        elif not found:
            await self.mount(Markdown(source, open_links=False))
        elif source != self._source:
            await found[0].update(source)
        self._source = source or ""
