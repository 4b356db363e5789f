"""The screen of one run: curves, logs, configuration, workers, files, events, results, and what can be done with it."""

from hetspec_tui.screens.run.screen import RunScreen

__all__ = ["RunScreen"]
