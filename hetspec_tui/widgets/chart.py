"""A chart of curves in braille dots, with crosshair, zoom, logarithmic scale and smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from hetspec_tui.widgets import plot
from hetspec_tui.widgets.curves import Series, colour, colour_indices, sign
from hetspec_tui.widgets.plot import Drawing, Line, Picture

SMOOTHINGS = (0.0, 0.6, 0.9, 0.97, 0.99)
_ZOOM = 1.5
_ZOOM_LIMIT = 1e-9  # least visible share of x; floats do not resolve less


class Chart(Widget, can_focus=True):
    """A chart of several series.

    Args:
        x_name: the name of x, see `plot.Picture`.
        empty: text that is shown when there are no points.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--axis", "chart--cross", "chart--title", "chart--flag"}
    DEFAULT_CSS = """
    Chart {
        width: 1fr;
        height: 1fr;
        & .chart--axis { color: $text-muted; }
        & .chart--cross { color: $accent; }
        & .chart--title { color: $accent; text-style: bold; }
        & .chart--flag { color: $text-muted; text-style: italic; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "log", "Log", id="chart.log", tooltip="Logarithmic y axis"),
        Binding("s", "smooth", "Smooth", id="chart.smooth", tooltip="More smoothing, then none"),
        Binding("plus,equals_sign", "zoom(1)", "Zoom", id="chart.zoom-in", key_display="+"),
        Binding("minus", "zoom(-1)", "Zoom out", id="chart.zoom-out", key_display="-", show=False),
        Binding("0", "reset", "All", id="chart.reset", show=False, tooltip="See everything again"),
        Binding("left", "move(-1)", "Crosshair", id="chart.left", show=False),
        Binding("right", "move(1)", "Crosshair", id="chart.right", show=False),
        Binding("ctrl+left", "move(-10)", "Crosshair far", id="chart.far-left", show=False),
        Binding("ctrl+right", "move(10)", "Crosshair far", id="chart.far-right", show=False),
        Binding("shift+left", "pan(-1)", "Pan", id="chart.pan-left", show=False),
        Binding("shift+right", "pan(1)", "Pan", id="chart.pan-right", show=False),
        Binding("escape", "no_cursor", "No crosshair", id="chart.no-cursor", show=False),
    ]

    @dataclass
    class ViewChanged(Message):
        """Scale, smoothing, zoom or crosshair was changed by the user."""

        chart: Chart

        @property
        def control(self) -> Chart:
            return self.chart

    def __init__(
        self,
        *,
        x_name: str = "step",
        empty: str = "no points yet",
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.x_name = x_name
        self.empty = empty
        self.log_scale = False
        self.smoothing = 0.0
        self.x_range: tuple[float, float] | None = None
        self.cursor: float | None = None
        self._series: list[Series] = []
        self._drawing = Drawing([])
        self._strips: list[Strip] | None = None
        self._dragged_from: tuple[int, tuple[float, float]] | None = None

    # --- content ----------------------------------------------------------------------------------------------------

    @property
    def series(self) -> list[Series]:
        return self._series

    def set_series(self, series: Sequence[Series], *, x_name: str | None = None) -> None:
        """Show these series, in this order. A series that has not changed costs only the comparison."""
        if x_name is not None and x_name != self.x_name:
            self.x_name = x_name
            self.x_range = self.cursor = None
        known = {entry.key: entry for entry in self._series}
        shown = []
        for key, entry in {entry.key: entry for entry in series}.items():
            old = known.get(key)
            shown.append(old if old is not None and old.equals(entry) else entry)
        if shown != self._series:
            self._series = shown
            self._draw()

    @property
    def colours(self) -> dict[str, int]:
        """Key -> index of its colour and sign (`curves.colour`, `curves.sign`)."""
        return colour_indices(entry.key for entry in self._series)

    def drawing(self) -> Drawing:
        if self._strips is None:
            self._strips = self._build()
        return self._drawing

    def view_state(self) -> dict[str, Any]:
        """The user's choices as JSON types."""
        return {"log": self.log_scale, "smoothing": self.smoothing}

    def restore_view(self, state: dict[str, Any]) -> None:
        """Apply a `view_state`; invalid entries are ignored."""
        self.log_scale = state.get("log") is True
        if state.get("smoothing") in SMOOTHINGS:
            self.smoothing = float(state["smoothing"])
        self._draw()

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _log_is_on(self) -> bool:
        """Whether y is logarithmic: the user wants it, and a value is positive."""
        return self.log_scale and any(entry.has_positive for entry in self._series)

    def picture(self) -> Picture:
        log, indices = self._log_is_on(), self.colours
        lines = []
        for entry in self._series:
            raw = entry.curve(log) if self.smoothing else None
            lines.append(Line(entry.label, sign(indices[entry.key]), entry.curve(log, self.smoothing), raw))
        flags = ["log y"] if log else ["no value above 0 for log y"] if self.log_scale and lines else []
        flags += [f"smoothed {self.smoothing:g}"] if self.smoothing else []
        flags += ["zoomed"] if self.x_range else []
        return Picture(
            lines=tuple(lines),
            x_name=self.x_name,
            log=log,
            x_range=self.x_range,
            cursor=self.cursor,
            flags=tuple(flags),
            signs=bool(self.app.no_color or self.app.ansi_color),
            empty=self.empty,
        )

    def _build(self) -> list[Strip]:
        size = self.content_size
        self._drawing = plot.draw(self.picture(), size.width, size.height)
        base = self.rich_style
        styles = {"": base}
        for name in ("axis", "cross", "title", "flag"):
            styles[name] = self.get_component_rich_style(f"chart--{name}")
        dark = self.app.current_theme.dark
        for number, index in enumerate(self.colours.values()):
            style = base + Style(color=colour(index, dark=dark))
            styles[str(number)], styles[f"{number} dim"] = style, style + Style(dim=True)
        strips = []
        for row in self._drawing.rows:
            strip = Strip([Segment(text, styles.get(name, base)) for text, name in row])
            strips.append(strip.adjust_cell_length(size.width, base))
        return strips

    def render_line(self, y: int) -> Strip:
        if self._strips is None:
            self._strips = self._build()
        if y < len(self._strips):
            return self._strips[y]
        return Strip.blank(self.content_size.width, self.rich_style)

    def notify_style_update(self) -> None:
        self._strips = None
        super().notify_style_update()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        self._strips = None
        self.refresh()

    def _changed(self) -> None:
        self._draw()
        self.post_message(self.ViewChanged(self))

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_log(self) -> None:
        self.log_scale = not self.log_scale
        self._changed()

    def action_smooth(self) -> None:
        """Use the next smoothing; after the strongest, none."""
        self.smoothing = SMOOTHINGS[(SMOOTHINGS.index(self.smoothing) + 1) % len(SMOOTHINGS)]
        self._changed()

    def action_zoom(self, direction: int) -> None:
        """Zoom in (1) or out (-1) around the crosshair."""
        self._zoom(direction, self.cursor)

    def action_reset(self) -> None:
        self.x_range = None
        self._changed()

    def action_pan(self, direction: int) -> None:
        """Move the view left (-1) or right (1)."""
        bounds = self._bounds()
        if bounds:
            self._look_at(bounds[0] + direction * (bounds[1] - bounds[0]) / 4, bounds[1] - bounds[0])

    def action_move(self, cells: int) -> None:
        """Move the crosshair by cells; at the edge the view moves too."""
        drawing = self.drawing()
        if drawing.view is None or drawing.width < 1:
            return
        if self.cursor is None:
            column = drawing.width - 1 if cells < 0 else 0
        else:
            column = math.floor(drawing.view.column(self.cursor, drawing.width)) + cells
        if not 0 <= column < drawing.width:
            if self.x_range is not None:
                self.action_pan(1 if cells > 0 else -1)
            column = max(0, min(column, drawing.width - 1))
        view = self.drawing().view
        if view is not None:
            self.cursor = view.x(column, drawing.width)
        self._changed()

    def action_no_cursor(self) -> None:
        self.cursor = None
        self._changed()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "no_cursor":
            return self.cursor is not None  # else Escape goes to the screen
        return super().check_action(action, parameters)

    # --- mouse ------------------------------------------------------------------------------------------------------

    def on_mouse_move(self, event: events.MouseMove) -> None:
        x = self._x_at(event)
        if self._dragged_from is not None and self.drawing().width:
            start, (left, right) = self._dragged_from
            self._look_at(left - (event.x - start) / self._drawing.width * (right - left), right - left)
        elif x != self.cursor:
            self.cursor = x
            self._changed()

    def on_leave(self) -> None:
        if self.cursor is not None:
            self.action_no_cursor()

    def on_mouse_down(self, event: events.MouseDown) -> None:
        bounds = self._bounds()
        if bounds is not None and self.x_range is not None:
            self._dragged_from = (event.x, bounds)
            self.capture_mouse()

    def on_mouse_up(self) -> None:
        self._dragged_from = None
        self.release_mouse()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._zoom(-1, self._x_at(event))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._zoom(1, self._x_at(event))

    def _x_at(self, event: events.MouseEvent) -> float | None:
        drawing = self.drawing()
        offset = event.get_content_offset(self)
        if drawing.view is None or offset is None:
            return None
        inside = 0 <= offset.x - drawing.left < drawing.width and 0 <= offset.y - drawing.top < drawing.height
        return drawing.view.x(offset.x - drawing.left, drawing.width) if inside else None

    # --- the visible part of x --------------------------------------------------------------------------------------

    def _bounds(self) -> tuple[float, float] | None:
        return self.x_range or plot.x_bounds(self.picture().lines)

    def _zoom(self, direction: int, around: float | None) -> None:
        bounds = self._bounds()
        if bounds is None:
            return
        left, right = bounds
        width = right - left
        middle = (left + right) / 2 if around is None or not left <= around <= right else around
        new = width / _ZOOM if direction > 0 else width * _ZOOM
        self._look_at(middle - (middle - left) / width * new, new)

    def _look_at(self, left: float, width: float) -> None:
        whole = plot.x_bounds(self.picture().lines)
        if whole is None:
            return
        most = whole[1] - whole[0]
        width = max(width, most * _ZOOM_LIMIT)
        if width >= most:
            self.x_range = None
        else:
            left = max(whole[0], min(left, whole[1] - width))
            self.x_range = (left, left + width) if left + width > left else None
        self._changed()
