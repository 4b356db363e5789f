"""The pages of the dashboard and the screens above them, and the messages by which a screen opens another one.

A page is imported when it is first opened, so that the first paint waits for one page only. A page whose module is
not installed is left out of the navigation. A screen posts a message and the app acts on it; screens do not import
each other. Messages of one widget are nested in that widget.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from textual.message import Message


@dataclass(frozen=True)
class PageEntry:
    """One page.

    Attributes:
        name: as in `OpenPage`.
        key: the digit that opens it.
        title: its word in the navigation.
        target: "module:Class" of its `Page`.
        about: what it is for, in a few words.
    """

    name: str
    key: str
    title: str
    target: str
    about: str


PAGES = (
    PageEntry(
        "dashboard", "1", "Dashboard", "hetspec_tui.screens.dashboard:DashboardScreen", "GPUs, runs at work, results"
    ),
    PageEntry("runs", "2", "Runs", "hetspec_tui.screens.runs:RunsScreen", "every run: search, sort, compare"),
    PageEntry("presets", "3", "Presets", "hetspec_tui.screens.presets:PresetsScreen", "bases, drafts, recipes"),
    PageEntry("launch", "4", "Launch", "hetspec_tui.screens.launch:LaunchScreen", "start a dataset, training or bench"),
    PageEntry("chat", "5", "Chat", "hetspec_tui.screens.chat:ChatScreen", "talk, and watch the draft at work"),
)
HOME = "dashboard"

RUN = "hetspec_tui.screens.run:RunScreen"
"""Takes the run id."""
COMPARISON = "hetspec_tui.screens.comparison:ComparisonScreen"
"""Takes a tuple of run ids."""


def installed(target: str) -> bool:
    """Whether the module of a "module:Class" is there."""
    return importlib.util.find_spec(target.partition(":")[0]) is not None


def available() -> tuple[PageEntry, ...]:
    """The pages that are there, in the order of their keys."""
    return tuple(entry for entry in PAGES if installed(entry.target))


def load(target: str) -> Any:
    """The class of a "module:Class"; None when its module is not there."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name) if installed(target) else None


def make(target: str, *words: Any) -> Any:
    """A new screen (a `page.Page`) of a "module:Class" that is installed."""
    return load(target)(*words)


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
