"""The line below every screen: the keys that do something now, as many as fit, the most useful first.

One widget and one render, where a footer of a widget per key is laid out anew at every move of the focus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.events import Click
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.binding import ActiveBinding

LAST = ("app.help", "app.palette", "app.quit")
"""Ids of the bindings that stand at the right end, and are never dropped."""


class KeyBar(Widget):
    """Keys of the focused widget, then of the screen; at the right end help, palette and quit."""

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
        seen: set[str] = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if not binding.show or binding.action in seen:
                continue
            seen.add(binding.action)
            entry = (self.app.get_key_display(binding), active)
            if binding.id in LAST:
                last[binding.id] = entry
            else:
                first.append(entry)
        end = [last[name] for name in LAST if name in last]
        room = self.size.width - sum(_width(entry) for entry in end)
        self._spans = []
        parts: list[Content] = []
        place = 0
        for entry in first:
            width = _width(entry)
            if place + width > room:
                break
            parts.append(self._piece(entry, place))
            place += width
        gap = self.size.width - place - sum(_width(entry) for entry in end)
        parts.append(Content(" " * max(0, gap)))
        place += max(0, gap)
        for entry in end:
            parts.append(self._piece(entry, place))
            place += _width(entry)
        return Content("").join(parts)

    def _piece(self, entry: tuple[str, ActiveBinding], place: int) -> Content:
        key, active = entry
        self._spans.append((place, place + _width(entry), active.binding.key))
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
