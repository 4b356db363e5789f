"""Textual's option list, less a fault: without any room it has no lines, and turning its pages is then an error."""

from __future__ import annotations

import contextlib

from textual.widgets import OptionList


class ChoiceList(OptionList):
    """An option list whose pages can be turned at any size."""

    def action_page_up(self) -> None:
        with contextlib.suppress(KeyError):
            super().action_page_up()

    def action_page_down(self) -> None:
        with contextlib.suppress(KeyError):
            super().action_page_down()
