"""The settings of a run in lines that fit: where a source has no room beside its value, it stands below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hetspec_tui.screens.run.texts import setting_lines
from hetspec_tui.widgets.log_view import ListSource, LogView

if TYPE_CHECKING:
    from hetspec_core.service import ResolvedValue


class SettingsView(LogView):
    """Lines to read and filter, broken anew at every width."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(empty="its spec cannot be read by this version", follow=False, id=id)
        self._values: Sequence[ResolvedValue] = ()
        self._width = 0

    def on_mount(self) -> None:
        self.lines.wrap = True

    def show(self, values: Sequence[ResolvedValue]) -> None:
        """Show these settings."""
        self._values, self._width = values, 0
        self._lay_out()

    def on_resize(self) -> None:
        self.call_after_refresh(self._lay_out)  # when the lines have their new size too

    def _lay_out(self) -> None:
        width = self.lines.scrollable_content_region.width if self.is_mounted else 0
        if width and width != self._width and self._values:
            self._width = width
            self.set_source(ListSource(setting_lines(self._values, width)))
