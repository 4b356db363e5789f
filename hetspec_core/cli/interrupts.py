"""Ctrl-C while a command follows something: counted, and looked at between two events."""

from __future__ import annotations

import signal
import threading


class Interrupts:
    """Counts SIGINT instead of letting it break the loop, so that no event is lost and what works is asked in peace."""

    def __init__(self) -> None:
        self.count = 0
        self._seen = 0

    def take(self) -> bool:
        """Whether there was another since the last call."""
        new, self._seen = self.count > self._seen, self.count
        return new

    def __enter__(self) -> Interrupts:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _count(self, number: int, frame: object) -> None:
        self.count += 1
