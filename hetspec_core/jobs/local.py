"""Workers as child processes on this machine, each in a session of its own. It knows processes, not states of runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hetspec_core.errors import ResourceError
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity

WORKER_MODULE = "hetspec_core.engine.worker"
MAIN_WORKER = "worker-0"

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive the forks of data loaders
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the journal carries the progress
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",  # a killed worker's last words are in its log
}


@dataclass(frozen=True)
class LocalJob:
    """A worker started by this process."""

    identity: ProcessIdentity
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Its exit status if it has ended (negative = by that signal), else None."""
        return self.process.poll()


@dataclass(frozen=True)
class LocalExecutor:
    """Starts workers on this machine.

    Attributes:
        module: the Python module that is run with the run folder as argument.
        environment: variables for the workers, over those of this process.
    """

    module: str = WORKER_MODULE
    environment: Mapping[str, str] = field(default_factory=dict)

    def launch(self, paths: RunPaths, *, attempt: int, folder: Path | None = None) -> LocalJob:
        """Start an attempt at the run; it goes on when this process ends.

        Args:
            paths: the run folder.
            attempt: number of this start of the run.
            folder: working folder of the worker, where relative paths of the spec begin; the present one when absent.

        Raises:
            ResourceError: no process could be started.
        """
        paths.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-P", "-m", self.module, str(paths.folder), "--attempt", str(attempt)]
        try:
            with paths.log(MAIN_WORKER).open("ab") as log:
                process = subprocess.Popen(
                    command,
                    cwd=folder if folder is not None and folder.is_dir() else None,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal is for the desk, which then asks the worker
                )
        except OSError as error:
            raise ResourceError(f"no worker could be started for {paths.folder}: {error}") from error
        try:
            identity = ProcessIdentity.of(process.pid)
        except ProcessLookupError:  # it has ended already; as a child not yet waited for, its number is still its own
            identity = ProcessIdentity(process.pid, "ended", ProcessIdentity.of().host)
        return LocalJob(identity, process)

    def ask_to_stop(self, process: ProcessIdentity) -> bool:
        """SIGTERM to the worker alone: its helpers must live until its safe point."""
        return _signal(process, signal.SIGTERM)

    def kill(self, process: ProcessIdentity) -> bool:
        """SIGKILL to the worker, then to what is left of its group."""
        alive = _signal(process, signal.SIGKILL)
        if alive:  # the group keeps its number while a member lives, so it cannot be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        return alive

    def _environment(self) -> dict[str, str]:
        environment = {**_QUIET, **os.environ, **self.environment}
        home = Path(__file__).resolve().parents[2]
        if home.name not in ("site-packages", "dist-packages"):  # a checkout: the worker runs the same code
            before = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = f"{home}{os.pathsep}{before}" if before else str(home)
        return environment


def _signal(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Send a signal to this very process and no other that has its number now; False when it is gone."""
    try:
        if not hasattr(os, "pidfd_open"):
            if process.is_alive():
                os.kill(process.pid, number)
                return True
            return False
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:  # the handle holds the process; only now its identity is looked at
        if not process.is_alive():
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
