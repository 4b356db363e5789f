"""Curves in the terminal: braille dots, a crosshair, zoom, logarithms, smoothing. It is told what to show.

Long series are prepared in small pieces between which the event loop goes on, so that no amount of points stops the
screen; meanwhile what is ready is drawn.
"""

from __future__ import annotations

import math
import time
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

from hetspec_tui.widgets import colours, plot
from hetspec_tui.widgets.curves import ChartData, GrowingSeries, Series
from hetspec_tui.widgets.plot import Drawing, Line, Picture

SMOOTHINGS = (0.0, 0.6, 0.9, 0.97, 0.99)
_ZOOM = 1.5
_PIECE = 8192  # points prepared at a time
_BUDGET_S = 0.02  # of preparing before the loop goes on
_REDRAW_S = 0.15  # between drawings of what is half prepared
_ZOOM_LIMIT = 1e-9  # of all of x; beyond it numbers are not told apart any more


class Chart(Widget, can_focus=True):
    """A chart of several series.

    Args:
        x_name: what x is, see `plot.Picture`.
        empty: what is said when there are no points.
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
        """The user looks in another way: logarithm, smoothing, zoom or crosshair."""

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
        self._tracks: dict[str, GrowingSeries] = {}
        self._untaken: dict[str, Series] = {}
        self._stale = True  # there is something new to draw
        self._next_draw = 0.0
        self._preparing = False
        self._drawing = Drawing([])
        self._strips: list[Strip] | None = None
        self._dragged_from: tuple[int, tuple[float, float]] | None = None

    # --- what is shown ----------------------------------------------------------------------------------------------

    @property
    def series(self) -> list[Series]:
        """The series that are shown."""
        return self._series

    def set_series(self, series: Sequence[Series], *, x_name: str | None = None) -> None:
        """Show these series, in this order. Of a series that has grown at its end only the new points cost anything."""
        if x_name is not None and x_name != self.x_name:
            self.x_name = x_name
            self.x_range = self.cursor = None
        unique = {one.key: one for one in series}
        if list(unique) != [one.key for one in self._series] or any(
            one.label != old.label for one, old in zip(unique.values(), self._series)
        ):
            self._stale = True
        self._series = list(unique.values())
        self._tracks = {key: self._tracks.get(key) or GrowingSeries() for key in unique}
        self._untaken = dict(unique)
        self._prepare()

    @property
    def colours(self) -> dict[str, int]:
        """Key -> place of its colour and sign (`colours.colour`, `colours.sign`)."""
        return colours.places(self._tracks)

    def drawing(self) -> Drawing:
        """What is drawn now."""
        if self._strips is None:
            self._strips = self._build()
        return self._drawing

    def snapshot(self) -> ChartData:
        """The points that are seen, to be written somewhere else."""
        return ChartData(
            self.x_name,
            [(one.label, *self._tracks[one.key].copy()) for one in self._series],
            self.x_range,
        )

    def view_state(self) -> dict[str, Any]:
        """How the user looks at it: JSON types."""
        return {"log": self.log_scale, "smoothing": self.smoothing}

    def restore_view(self, state: dict[str, Any]) -> None:
        """Take up `view_state`; what is odd in it is left out."""
        self.log_scale = state.get("log") is True
        if state.get("smoothing") in SMOOTHINGS:
            self.smoothing = float(state["smoothing"])
        self._stale = True
        self._prepare()

    # --- preparing and drawing --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if not self._preparing:
            self._go_on()

    def _go_on(self) -> None:
        now = time.perf_counter()
        self._preparing = not (self._take(now + _BUDGET_S) and self._make_kinds(now + _BUDGET_S))
        if self._preparing and self.is_mounted:
            self.set_timer(0.005, self._go_on)
        elif self._preparing:  # there is no loop yet that would have to go on
            self._go_on()
        if self._stale and (not self._preparing or now >= self._next_draw):
            self._next_draw = now + _REDRAW_S
            self._stale = self._preparing
            self._strips = None
            self.refresh()

    def _take(self, limit: float) -> bool:
        """Look at the series that were set; False = the time is over."""
        while self._untaken:
            key = next(iter(self._untaken))
            one = self._untaken.pop(key)
            self._stale |= self._tracks[key].take(one.xs, one.ys)
            if time.perf_counter() > limit:
                return False
        return True

    def _make_kinds(self, limit: float) -> bool:
        if not self._make((False, 0.0), limit):
            return False
        log = self._log_is_on()
        return self._make((log, 0.0), limit) and self._make((log, self.smoothing), limit)

    def _make(self, kind: tuple[bool, float], limit: float) -> bool:
        """Prepare the curves of a kind; False = the time is over."""
        for track in self._tracks.values():
            while not track.make(*kind, _PIECE):
                self._stale = True
                if time.perf_counter() > limit:
                    return False
        return True

    def _log_is_on(self) -> bool:
        """Logarithmic only where there is something to take the logarithm of."""
        return self.log_scale and any(_has_positive(track) for track in self._tracks.values())

    def picture(self) -> Picture:
        """What is to be drawn."""
        log, places = self._log_is_on(), self.colours
        lines = []
        for one in self._series:
            track = self._tracks[one.key]
            raw = track.curve(log) if self.smoothing else None
            lines.append(Line(one.label, colours.sign(places[one.key]), track.curve(log, self.smoothing), raw))
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
        for index, one in enumerate(self._series):
            own = base + Style(color=colours.colour(self.colours[one.key], dark=dark))
            styles[str(index)], styles[f"{index} dim"] = own, own + Style(dim=True)
        strips = []
        for row in self._drawing.rows:
            strip = Strip([Segment(text, styles.get(style, base)) for text, style in row])
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
        self._strips = None
        self.refresh()

    def _changed(self) -> None:
        self._strips = None
        self.refresh()
        self.post_message(self.ViewChanged(self))

    def _look_again(self) -> None:
        self._stale = True
        self._prepare()
        self.post_message(self.ViewChanged(self))

    # --- keys -------------------------------------------------------------------------------------------------------

    def action_log(self) -> None:
        """Make y logarithmic, or linear again."""
        self.log_scale = not self.log_scale
        self._look_again()

    def action_smooth(self) -> None:
        """Smooth more; after the most, not at all."""
        place = SMOOTHINGS.index(self.smoothing) if self.smoothing in SMOOTHINGS else -1
        self.smoothing = SMOOTHINGS[(place + 1) % len(SMOOTHINGS)]
        self._look_again()

    def action_zoom(self, direction: int) -> None:
        """See less of x (1) or more of it (-1), around the crosshair."""
        self._zoom(direction, self.cursor)

    def action_reset(self) -> None:
        """See everything."""
        self.x_range = None
        self._changed()

    def action_pan(self, direction: int) -> None:
        """Look further left (-1) or right (1)."""
        bounds = self._bounds()
        if bounds:
            self._look_at(bounds[0] + direction * (bounds[1] - bounds[0]) / 4, bounds[1] - bounds[0])

    def action_move(self, cells: int) -> None:
        """Move the crosshair by cells, and the view with it at its edge."""
        drawing = self.drawing()
        if drawing.view is None or drawing.width < 1:
            return
        if self.cursor is None:
            place = drawing.width - 1 if cells < 0 else 0
        else:
            place = math.floor(drawing.view.column(self.cursor, drawing.width)) + cells
        if not 0 <= place < drawing.width:
            if self.x_range is not None:
                self.action_pan(1 if cells > 0 else -1)
            place = max(0, min(place, drawing.width - 1))
        view = self.drawing().view
        if view is not None:
            self.cursor = view.x(place, drawing.width)
        self._changed()

    def action_no_cursor(self) -> None:
        """Take the crosshair away."""
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

    # --- the part of x that is seen ---------------------------------------------------------------------------------

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


def _has_positive(track: GrowingSeries) -> bool:
    curve = track.curve()
    low, high = curve.extremes(0, len(curve))
    return low <= high and high > 0
