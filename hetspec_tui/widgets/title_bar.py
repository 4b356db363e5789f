"""The line above every screen: the pages with their keys, which of them is open, and what is open above it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

BRAND = " ⬢ HetSpec "


@dataclass(frozen=True)
class Tab:
    """One page in the line; `key` is empty while its digit means something else."""

    name: str
    key: str
    title: str


class TitleBar(Widget):
    """Tabs, then the words of the screens above the open page, then words at the right end such as "read-only"."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "title-bar--brand",
        "title-bar--key",
        "title-bar--tab",
        "title-bar--open",
        "title-bar--crumb",
        "title-bar--badge",
    }
    DEFAULT_CSS = """
    TitleBar {
        dock: top;
        height: 1;
        width: 1fr;
        background: $panel;
        color: $foreground;

        .title-bar--brand { color: $primary; text-style: bold; }
        .title-bar--key { color: $accent; text-style: bold; }
        .title-bar--tab { color: $text-muted; }
        .title-bar--open { color: $background; background: $primary; text-style: bold; }
        .title-bar--crumb { color: $text; text-style: bold; }
        .title-bar--badge { color: $warning; text-style: bold; }
    }
    """

    @dataclass
    class Chosen(Message):
        """Somebody clicked on the tab of a page."""

        name: str

    def __init__(self) -> None:
        super().__init__(id="title-bar")
        self._tabs: tuple[Tab, ...] = ()
        self._open = ""
        self._crumbs: tuple[str, ...] = ()
        self._badges: tuple[str, ...] = ()
        self._spans: list[tuple[int, int, str]] = []

    def show(self, tabs: Sequence[Tab], name: str, crumbs: Sequence[str] = (), badges: Sequence[str] = ()) -> None:
        """Show these tabs, with the page `name` open, and the words of what is open above it."""
        self._tabs, self._open, self._crumbs, self._badges = tuple(tabs), name, tuple(crumbs), tuple(badges)
        self.refresh()

    def render(self) -> Content:
        width = self.size.width
        line = self._line(titles=True)
        if line.cell_length > width:
            line = self._line(titles=False)
        badges = "".join(f" {badge} " for badge in self._badges)
        if badges and line.cell_length + len(badges) <= width:
            style = self.get_visual_style("title-bar--badge")
            line = Content.assemble(line, " " * (width - line.cell_length - len(badges)), (badges, style))
        return line

    def _line(self, *, titles: bool) -> Content:
        """The line; without `titles`, of the pages that are not open there is the key only."""
        style = self.get_visual_style
        parts: list[Content | tuple[str, object]] = [(BRAND, style("title-bar--brand"))]
        place = len(BRAND)
        self._spans = []
        for tab in self._tabs:
            is_open = tab.name == self._open
            if is_open:
                text = f" {tab.key} {tab.title} " if tab.key else f" {tab.title} "
                parts.append((text, style("title-bar--open")))
                width = len(text)
            elif not titles and not tab.key:
                continue
            else:
                title = f" {tab.title} " if titles else " "
                parts += [(f" {tab.key}", style("title-bar--key")), (title, style("title-bar--tab"))]
                width = len(tab.key) + 1 + len(title)
            self._spans.append((place, place + width, tab.name))
            place += width
        parts += [(f" › {crumb}", style("title-bar--crumb")) for crumb in self._crumbs]
        return Content.assemble(*parts)  # type: ignore[arg-type]

    def on_click(self, event: Click) -> None:
        for start, end, name in self._spans:
            if start <= event.x < end:
                self.post_message(self.Chosen(name))
