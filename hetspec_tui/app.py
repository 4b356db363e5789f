"""`hetspec`: the dashboard's entry. It starts the app, and gives the terminal back however the app ends.

It knows the first screen and the signals; what the screens show is their own business.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from hetspec_core import __version__
from hetspec_tui.desk import Desk
from hetspec_tui.screens.welcome import WelcomeScreen

# Textual handles none of these, and a process that one of them ends leaves its terminal raw, with mouse reports on.
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class HetSpecApp(App[None]):
    """The terminal dashboard."""

    TITLE = f"HetSpec {__version__}"
    SUB_TITLE = "speculative decoding"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {"welcome": WelcomeScreen}
    DEFAULT_MODE = "welcome"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, desk: Desk | None = None) -> None:
        super().__init__()
        self.desk = desk or Desk()

    def on_unmount(self) -> None:
        self.desk.close()

    def on_load(self) -> None:
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self.end_by_signal, number)

    def end_by_signal(self, number: signal.Signals) -> None:
        """Leave as after `q`, with the exit status that a shell gives to a process ended by signal `number`."""
        self.exit(return_code=128 + number)


def main() -> NoReturn:
    """Run the dashboard and exit with its status: 0 after a quit, 1 after a crash, 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="hetspec",
        description="The terminal dashboard of HetSpec. Every command of it is also there as `hetspec-core`.",
    )
    parser.add_argument("--version", action="version", version=f"HetSpec {__version__}")
    parser.parse_args()
    if not has_terminal():
        parser.error("the dashboard needs a terminal; in scripts and pipes use hetspec-core")
    app = HetSpecApp()
    app.run()
    sys.exit(app.return_code or 0)


def has_terminal() -> bool:
    """Whether keys can be read and a screen be drawn; a driver named from outside (a web server) needs no terminal."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stderr__))


if __name__ == "__main__":
    main()
