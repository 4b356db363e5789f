"""What a terminal does to a program that it starts."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import termios

PRIVATE = re.compile(rb"\x1b\[[<>=?][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")
"""Private escape sequences, which pyte would print."""


def own_terminal() -> None:
    """In a child whose input is a pseudo-terminal: make that its own, so that Ctrl-C reaches it and ends it.

    Tests that a shell put into the background ignore SIGINT, and their children would too.
    """
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
