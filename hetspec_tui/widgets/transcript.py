"""A conversation while it grows: each token in the colour of its source, or a complete answer as Markdown.

Text is wrapped as it arrives and drawn when it is in view, so a longer answer costs no more per token. Only a complete
answer is read as Markdown; no other text is read as markup.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment
from rich.style import Style
from rich.theme import Theme
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region, Size
from textual.strip import Strip

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.cells import fit
from hetspec_tui.widgets.growing import GrowingView, Wrapping

Source = Literal["plain", "draft", "bonus"]
Voice = Literal["user", "assistant", "note", "error"]
DEPTHS_DARK = ("#5fd787", "#5fd7af", "#5fd7d7", "#5fafd7", "#5f87d7", "#8787d7")
DEPTHS_LIGHT = ("#007f3f", "#007f5f", "#00707f", "#005f9f", "#003f9f", "#3f3f9f")
"""Colours of accepted draft tokens by depth; deeper ones have the last colour."""
_INDENT = 2
_CODE_THEMES = {True: "ansi_dark", False: "ansi_light"}
_LOOK = Theme(
    {
        "markdown.code": "bold cyan",
        "markdown.code_block": "cyan",
        "markdown.h1": "bold",
        "markdown.h2": "bold underline",
        "markdown.item.number": "bold",
        "markdown.item.bullet": "bold",
    }
)


@dataclass(frozen=True)
class Token:
    """Text of one token.

    Attributes:
        text: raw text; the widget makes it safe.
        source: the model or step that gave it.
        depth: level in its draft tree, from 1.
        step: verify step that committed it; -1 = none.
    """

    text: str
    source: Source = "plain"
    depth: int = 0
    step: int = -1


@dataclass(frozen=True)
class TranscriptEntry:
    """One message, note or error.

    Attributes:
        key: stays the same while the entry only grows at its end.
        voice: its author.
        head: a line above it; empty = none.
        tokens: its text. A growing entry is given again with more tokens.
        markdown: draw it as Markdown; for complete answers.
    """

    key: str
    voice: Voice
    head: str
    tokens: Sequence[Token]
    markdown: bool = False

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


@dataclass
class _Laid:
    entry: TranscriptEntry
    wrapping: Wrapping | None = None
    taken: int = 0
    drawn: list[Strip] = field(default_factory=list)

    @property
    def height(self) -> int:
        body = len(self.wrapping) if self.wrapping is not None else len(self.drawn)
        return bool(self.entry.head) + body + 1


class Transcript(GrowingView, can_focus=True):
    """Entries below each other. It follows its end unless the user has scrolled up."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "transcript--user",
        "transcript--head",
        "transcript--note",
        "transcript--error",
        "transcript--bonus",
        "transcript--here",
        "transcript--later",
    }
    DEFAULT_CSS = """
    Transcript {
        overflow-x: hidden;

        & .transcript--user { color: $text-accent; text-style: bold; }
        & .transcript--head { text-style: dim; }
        & .transcript--note { text-style: dim; }
        & .transcript--error { color: $text-error; }
        & .transcript--bonus { color: $text-warning; }
        & .transcript--here { background: $primary 40%; text-style: bold; }
        & .transcript--later { text-style: dim; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", id="transcript.up", show=False),
        Binding("down,j", "scroll_down", "Down", id="transcript.down", show=False),
        Binding("pageup", "page_up", "Page up", id="transcript.page-up", show=False),
        Binding("pagedown", "page_down", "Page down", id="transcript.page-down", show=False),
        Binding("home", "scroll_home", "First", id="transcript.first", show=False),
        Binding("end", "scroll_end", "Last", id="transcript.last", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.here: int | None = None
        self._entries: list[TranscriptEntry] = []
        self._laid: list[_Laid] = []
        self._starts: list[int] = []
        self._grown: list[tuple[int, int]] = []  # lines: the first of them, and how many

    # --- content ---------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[TranscriptEntry]:
        return self._entries

    @property
    def _greets(self) -> bool:
        """Whether there are only notes; the view then stays at their beginning."""
        return all(entry.voice == "note" for entry in self._entries)

    @property
    def lines(self) -> list[str]:
        return [self._draw(number).text.rstrip() for number in range(self._height)]

    def show(self, entries: Sequence[TranscriptEntry], here: int | None = None) -> None:
        """Show these entries; only new text costs time.

        Args:
            entries: all entries, in order.
            here: verify step of the last entry to mark; later tokens are dim. None = no mark.
        """
        at_end, greeted = self.scroll_offset.y >= self.max_scroll_y, self._greets
        again = here != self.here
        self.here, self._entries = here, list(entries)
        again |= self._lay_out()
        if again:
            self.refresh()
        else:  # a growing entry changes in two places: its head and its last lines
            for first, count in self._grown:
                self.refresh(Region(0, first - self.scroll_offset.y, self.size.width, count))
        if self._greets:
            if not greeted:
                self.scroll_to(y=0, animate=False, immediate=True)
        elif at_end and here is None and self.max_scroll_y != self.scroll_offset.y:
            self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True)

    def bring_into_view(self, step: int) -> None:
        """Scroll to the first line with a token of this step of the last entry."""
        if not self._laid or self._laid[-1].wrapping is None:
            return
        laid, start = self._laid[-1], self._starts[-1]
        tokens = laid.entry.tokens
        for number, runs in enumerate(laid.wrapping.lines if laid.wrapping else []):
            if any(tokens[tag].step == step for _, tag in runs):
                line = start + bool(laid.entry.head) + number
                top, height = self.scroll_offset.y, self.size.height
                if not top <= line < top + height - 1:
                    self.scroll_to(y=max(0, line - height // 2), animate=False)
                return

    # --- layout -----------------------------------------------------------------------------------------------------

    @property
    def _height(self) -> int:
        return self._starts[-1] + self._laid[-1].height if self._laid else 0

    def _lay_out(self) -> bool:
        """Wrap new text; True when more has changed than the lines in `_grown`."""
        self._grown.clear()
        width = self.size.width - 1  # the bar at the right may appear with the next token
        if width < _INDENT + 2:
            return False
        again = len(self._laid) != len(self._entries)
        del self._laid[len(self._entries) :]
        for number, entry in enumerate(self._entries):
            if number == len(self._laid):
                self._laid.append(_Laid(TranscriptEntry("", "note", "", ())))
            laid = self._laid[number]
            if laid.entry is entry:
                continue
            again |= self._lay_one(number, laid, entry, width)
        self._starts, line = [], 0
        for laid in self._laid:
            self._starts.append(line)
            line += laid.height
        self.set_extent(Size(self.size.width, line))
        return again

    def _lay_one(self, number: int, laid: _Laid, entry: TranscriptEntry, width: int) -> bool:
        old, laid.entry = laid.entry, entry
        if entry.markdown:
            if old.markdown and old.key == entry.key and old.tokens == entry.tokens:
                return old.head != entry.head
            laid.wrapping, laid.drawn = None, self._draw_markdown(entry.text, width - _INDENT)
            return True
        taken = laid.taken
        grown = laid.wrapping is not None and old.key == entry.key and taken <= len(entry.tokens)
        if grown and taken:  # an edited or repeated answer has the same key
            grown = entry.tokens[0] == old.tokens[0] and entry.tokens[taken - 1] == old.tokens[taken - 1]
        if not grown:
            laid.wrapping, laid.drawn, taken = Wrapping(width - _INDENT), [], 0
        wrapping = laid.wrapping
        assert wrapping is not None
        before = len(wrapping)
        for tag in range(taken, len(entry.tokens)):
            wrapping.add(entry.tokens[tag].text, tag)
        laid.taken = len(entry.tokens)
        if not grown or bool(old.head) != bool(entry.head) or number < len(self._laid) - 1:
            return True
        top = self._starts[number] if number < len(self._starts) else 0
        if old.head != entry.head:
            self._grown.append((top, 1))
        if taken != len(entry.tokens):
            self._grown.append((top + bool(entry.head) + before - 1, len(wrapping) - before + 2))
        return False

    def _draw_markdown(self, text: str, width: int) -> list[Strip]:
        dark = self.app.current_theme.dark
        console = Console(
            file=io.StringIO(), width=max(8, width), force_terminal=True, color_system="truecolor", theme=_LOOK
        )
        text = "\n".join(safe(line.replace("\t", "    ")) for line in text.split("\n"))
        drawing = Markdown(text, code_theme=_CODE_THEMES[dark], hyperlinks=False)
        lines = console.render_lines(drawing, pad=False)
        while lines and not "".join(segment.text for segment in lines[-1]).strip():
            lines.pop()
        return [Strip(line).crop(0, max(8, width)) for line in lines] or [Strip([])]

    def on_resize(self, event: Resize) -> None:
        self._again()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._again()

    def _again(self) -> None:
        at_end = self.scroll_offset.y >= self.max_scroll_y
        self._laid.clear()
        self._starts.clear()
        self._lay_out()
        self.refresh()
        if at_end and self.here is None and not self._greets:
            self.call_after_refresh(self.scroll_end, animate=False)

    # --- drawing ----------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        base, width = self.base_style(y), self.size.width
        return self._draw(y + self.scroll_offset.y).adjust_cell_length(width, base).apply_style(base)

    def _draw(self, number: int) -> Strip:
        index = bisect_right(self._starts, number) - 1
        if index < 0:
            return Strip([])
        laid, line = self._laid[index], number - self._starts[index]
        entry = laid.entry
        if line >= laid.height - 1:  # the empty line below an entry
            return Strip([])
        mark = Segment("▌ " if entry.voice == "user" else "  ", self._style(entry.voice))
        if entry.head:
            if line == 0:
                name = "user" if entry.voice == "user" else "head"
                return Strip([mark, Segment(fit(entry.head, self.size.width - _INDENT - 1), self._style(name))])
            line -= 1
        if laid.wrapping is None:
            return Strip([mark, *laid.drawn[line]])
        last = index == len(self._laid) - 1
        runs = laid.wrapping.line(line)
        segments = [Segment(text, self._token_style(entry, entry.tokens[tag], last=last)) for text, tag in runs]
        return Strip([mark, *segments])

    def _token_style(self, entry: TranscriptEntry, token: Token, *, last: bool) -> Style:
        if entry.voice != "assistant":
            return self._style("" if entry.voice == "user" else entry.voice)
        if last and self.here is not None:
            if token.step == self.here:
                return self._source_style(token) + self._style("here")
            if token.step > self.here:
                return self._style("later")
        return self._source_style(token)

    def _source_style(self, token: Token) -> Style:
        name = "" if token.source == "plain" else token.source
        return self._style(f"draft {min(token.depth, len(DEPTHS_DARK))}" if name == "draft" else name)

    def _style(self, name: str) -> Style:
        if name.startswith("draft "):
            colours = DEPTHS_DARK if self.app.current_theme.dark else DEPTHS_LIGHT
            return Style(color=colours[max(1, int(name[6:])) - 1], bold=self.app.no_color or None)
        if name in ("", "assistant"):
            return Style()
        style = self.part_style(f"transcript--{name}")
        return style + Style(underline=True) if name == "bonus" and self.app.no_color else style
