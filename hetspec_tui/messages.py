"""Messages that cross from one screen to another. A screen posts them, the app acts; screens do not know each other.

Messages of one widget are nested in that widget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.message import Message


@dataclass
class OpenPage(Message):
    """Go to one of the pages: dashboard, runs, presets, launch, chat.

    Attributes:
        page: its name.
        about: what to show there, in words of that page (`Page.receive`), e.g. {"query": "state:failed"} for runs,
            {"recipe": "quick-demo"} for launch, {"kind": "draft", "name": "llama-1l"} for presets, {"draft": ID},
            {"recipe": NAME} or {"trace": NAME} for chat.
    """

    page: str
    about: dict[str, Any] | None = None


@dataclass
class OpenRun(Message):
    """Show one run, above the page that is open."""

    run_id: str


@dataclass
class OpenComparison(Message):
    """Show several runs side by side, above the page that is open."""

    run_ids: tuple[str, ...]


@dataclass
class RunsTouched(Message):
    """These runs were started, cancelled, labelled... here: every page that shows them looks again at once."""

    run_ids: tuple[str, ...] = ()
