"""The first page: what this machine does for HetSpec now."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from hetspec_tui.page import Page


class DashboardScreen(Page):
    """GPUs, runs at work and waiting, recent results, what needs attention."""

    CRUMB = "Dashboard"

    def compose_page(self) -> ComposeResult:
        yield Static("HetSpec", markup=False)
