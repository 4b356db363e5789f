"""What an executor is: something that starts a worker for a run folder and gives a handle on it.

The service knows this much and no more. An executor that starts a supervisor, which then waits for devices and starts
workers itself, fits as well: the handle is then the supervisor's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity


class Job(Protocol):
    """A started process, seen by the one who started it."""

    @property
    def identity(self) -> ProcessIdentity:
        """Which process it is."""
        ...

    def poll(self) -> int | None:
        """Its exit status if it has ended (negative = by that signal), else None."""
        ...


class Executor(Protocol):
    """Starts workers and stops them."""

    def launch(self, paths: RunPaths, *, attempt: int, folder: Path | None = None) -> Job:
        """Start an attempt at the run; `folder` = where relative paths of the spec begin.

        Raises:
            ResourceError: no process could be started.
        """
        ...

    def ask_to_stop(self, process: ProcessIdentity) -> bool:
        """Have the process stop at its next safe point; False when it is gone already."""
        ...

    def kill(self, process: ProcessIdentity) -> bool:
        """End the process and everything it started, now; False when it is gone already."""
        ...
