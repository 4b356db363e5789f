"""The pages of the dashboard and the screens above them, by name: what there is, and where its class is.

Nothing is imported before it is first opened, so that the first paint waits for one page only. A page whose module is
not installed is left out of the navigation.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PageEntry:
    """One page.

    Attributes:
        name: as in `messages.OpenPage`.
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
