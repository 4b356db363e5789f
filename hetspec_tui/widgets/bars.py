"""The two lines around every screen: pages above it, keys below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.binding import ActiveBinding

BRAND = " ⬢ HetSpec "
LAST = ("app.help", "app.palette", "app.quit")
"""Ids of the bindings at the right end, which are never dropped."""


@dataclass(frozen=True)
class Tab:
    """One page in the title bar; `key` is empty while its digit means something else."""

    name: str
    key: str
    title: str


class TitleBar(Widget):
    """The line above every screen: tabs, names of the screens above the open page, and badges such as "read-only".

    It has one line; Textual's `Tabs` takes two, and has no place for names and badges.
    """

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
        """The tab of a page was clicked."""

        name: str

    def __init__(self) -> None:
        super().__init__(id="title-bar")
        self._tabs: tuple[Tab, ...] = ()
        self._open = ""
        self._crumbs: tuple[str, ...] = ()
        self._badges: tuple[str, ...] = ()
        self._spans: list[tuple[int, int, str]] = []

    def show(self, tabs: Sequence[Tab], name: str, crumbs: Sequence[str] = (), badges: Sequence[str] = ()) -> None:
        """Show these tabs, with the page `name` open and the names of the screens above it."""
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
        """The line; without `titles` only the open page has its title, the others have their keys."""
        style = self.get_visual_style
        parts: list[Content | tuple[str, object]] = [(BRAND, style("title-bar--brand"))]
        column = len(BRAND)
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
            self._spans.append((column, column + width, tab.name))
            column += width
        parts += [(f" › {crumb}", style("title-bar--crumb")) for crumb in self._crumbs]
        return Content.assemble(*parts)  # type: ignore[arg-type]

    def on_click(self, event: Click) -> None:
        for start, end, name in self._spans:
            if start <= event.x < end:
                self.post_message(self.Chosen(name))


class KeyBar(Widget):
    """The line below every screen: keys of the focused widget and of the screen; at the right end help, palette, quit.

    Textual's footer lays out one widget per key at every change of the focus, and scrolls the last keys out of view.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"key-bar--key", "key-bar--text", "key-bar--off"}
    DEFAULT_CSS = """
    KeyBar {
        dock: bottom;
        height: 1;
        width: 1fr;
        background: $panel;
        color: $foreground;

        .key-bar--key { color: $accent; text-style: bold; }
        .key-bar--text { color: $text; }
        .key-bar--off { color: $text-disabled; text-style: strike; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="key-bar")
        self._spans: list[tuple[int, int, str]] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render(self) -> Content:
        first: list[tuple[str, ActiveBinding]] = []
        last: dict[str, tuple[str, ActiveBinding]] = {}
        actions: set[str] = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in actions:
                continue
            actions.add(binding.action)
            entry = (self.app.get_key_display(binding), active)
            if binding.id in LAST:
                last[binding.id] = entry
            else:
                first.append(entry)
        end = [last[name] for name in LAST if name in last]
        room = self.size.width - sum(_width(entry) for entry in end)
        self._spans = []
        parts: list[Content] = []
        column = 0
        for entry in first:
            width = _width(entry)
            if column + width > room:
                break
            parts.append(self._piece(entry, column))
            column += width
        gap = self.size.width - column - sum(_width(entry) for entry in end)
        parts.append(Content(" " * max(0, gap)))
        column += max(0, gap)
        for entry in end:
            parts.append(self._piece(entry, column))
            column += _width(entry)
        return Content("").join(parts)

    def _piece(self, entry: tuple[str, ActiveBinding], column: int) -> Content:
        key, active = entry
        self._spans.append((column, column + _width(entry), active.binding.key))
        text = self.get_visual_style("key-bar--text" if active.enabled else "key-bar--off")
        style = self.get_visual_style("key-bar--key" if active.enabled else "key-bar--off")
        return Content.assemble(" ", (key, style), " ", (active.binding.description, text), " ")

    def on_click(self, event: Click) -> None:
        for start, end, key in self._spans:
            if start <= event.x < end:
                self.app.simulate_key(key)


def _width(entry: tuple[str, ActiveBinding]) -> int:
    key, active = entry
    return Content(key).cell_length + Content(active.binding.description).cell_length + 3
