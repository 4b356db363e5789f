"""A view of lines whose number changes twenty times a second: it grows without the whole screen being laid out anew."""

from __future__ import annotations

from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView

_SCROLL = 3


class GrowingView(ScrollView, inherit_bindings=False):
    """A scroll view that always has its vertical bar."""

    DEFAULT_CSS = """
    GrowingView {
        height: 1fr;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._base: Style | None = None

    def set_extent(self, size: Size) -> None:
        """There are so many lines of such a width now."""
        if size == self.virtual_size:
            return
        if size.width != self.virtual_size.width or not self.is_attached:
            self.virtual_size = size
            return
        self.set_reactive(ScrollView.virtual_size, size)  # type: ignore[arg-type] - a reactive, seen from the class
        self.vertical_scrollbar.window_virtual_size = size.height
        if self.scroll_offset.y > self.max_scroll_y:
            self.scroll_to(y=self.max_scroll_y, animate=False, immediate=True)

    def base_style(self, y: int) -> Style:
        """Style of line `y` of the screen; found once for all lines of a drawing."""
        if y == 0 or self._base is None:
            self._base = self.rich_style
        return self._base

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._base = None

    def on_mouse_scroll_down(self) -> None:
        self.scroll_relative(y=_SCROLL, animate=False)

    def on_mouse_scroll_up(self) -> None:
        self.scroll_relative(y=-_SCROLL, animate=False)
