"""Supervisors as processes on this machine, each in a session of its own: the one way in which an attempt begins.

It knows processes, not states of runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hetspec_core.errors import ResourceError, RunError
from hetspec_core.jobs import records
from hetspec_core.jobs.crew import CrewPlan, worker_name
from hetspec_core.jobs.presence import is_at_work
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity, is_run_variable, python_command, python_environment

WORKER_MODULE = "hetspec_core.engine.worker"
MAIN_WORKER = worker_name(0)
KILL_SIGNAL = signal.SIGUSR1
"""Tells a supervisor to end its workers now."""
_SUPERVISOR = "hetspec_core.jobs.supervisor"
_READY_S = 30.0
_KILL_S = 5.0

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive the forks of data loaders
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the journal carries the progress
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",  # a killed worker's last words are in its log
}


@dataclass(frozen=True)
class LocalJob:
    """A supervisor started by this process."""

    identity: ProcessIdentity
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Its exit status if it has ended (negative = by that signal), else None."""
        return self.process.poll()


@dataclass(frozen=True)
class LocalExecutor:
    """Starts supervisors on this machine, and asks them to stop.

    Attributes:
        module: the Python module that a supervisor runs with the run folder as argument.
        environment: variables for the workers, over those of this process.
        submitted: `run_variables` of the process that submitted the run, which replace this process's; None when this
            process did.
    """

    module: str = WORKER_MODULE
    environment: Mapping[str, str] = field(default_factory=dict)
    submitted: Mapping[str, str] | None = None

    def launch(
        self,
        paths: RunPaths,
        *,
        attempt: int,
        folder: Path | None = None,
        gpus: tuple[str, ...] = (),
        slots: tuple[str, ...] = (),
        crew: CrewPlan | None = None,
    ) -> LocalJob:
        """Start an attempt at the run, and wait until its supervisor has the run; it goes on when this process ends.

        Args:
            paths: the run folder.
            attempt: number of this start of the run.
            folder: working folder of the worker, where relative paths of the spec begin; the present one when absent.
            gpus: UUIDs of the GPUs that it leases; with none, the workers see what this process sees.
            slots: names of the processor slots that it leases.
            crew: how many workers it has and how they share the work; one when absent.

        Raises:
            RunError: another supervisor has the run.
            ResourceError: no process could be started, or a GPU or a slot is leased by another run.
        """
        paths.logs.mkdir(exist_ok=True)
        reading, writing = os.pipe()
        command = python_command("-m", _SUPERVISOR, str(paths.folder.absolute()))
        command += ["--attempt", str(attempt), "--module", self.module, "--ready", str(writing)]
        if crew is not None:
            command += ["--crew", crew.to_word()]
        command += [word for uuid in gpus for word in ("--gpu", uuid)]
        command += [word for name in slots for word in ("--slot", name)]
        log = paths.log("supervisor")
        offset = records.size(log)
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    cwd=folder if folder is not None and folder.is_dir() else None,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(writing,),
                    start_new_session=True,  # Ctrl-C in the terminal is for the desk, which then asks the supervisor
                )
        except OSError as error:
            os.close(reading)
            raise ResourceError(f"no supervisor could be started for {paths.folder}: {error}") from error
        finally:
            os.close(writing)
        try:
            answer = _read_answer(reading)
        finally:
            os.close(reading)
        if answer.get("ready"):
            return LocalJob(ProcessIdentity(process.pid, answer["birth"], answer["host"]), process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_S)
        if answer.get("kind") == "RunError":
            raise RunError(answer["message"], hint=f"follow it: hetspec-core runs follow {paths.run_id}")
        last = records.tail(log, offset).strip().rpartition("\n")[2]
        raise ResourceError(answer.get("message") or f"no supervisor could be started for {paths.folder}: {last}")

    def ask_to_stop(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        """Have the supervisor ask its workers to stop; False when it does not work on the run in this folder."""
        return _signal(paths, process, signal.SIGTERM, supervised=supervised)

    def kill(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        """Have the supervisor end its workers now; if it does not, end it too, whereupon the kernel ends them.

        False, and nothing is done, when it does not work on the run in this folder.
        """
        if not _signal(paths, process, KILL_SIGNAL, supervised=supervised):
            return False
        limit = time.monotonic() + _KILL_S
        while process.is_alive():
            if time.monotonic() > limit:
                _signal(paths, process, signal.SIGKILL, supervised=supervised)
                break
            time.sleep(0.01)
        return True

    def _environment(self) -> dict[str, str]:
        here: dict[str, str] = dict(os.environ)
        if self.submitted is not None:
            here = {name: value for name, value in here.items() if not is_run_variable(name)} | dict(self.submitted)
        return python_environment({**_QUIET, **here, **self.environment}, variables=here)


def _read_answer(file: int) -> dict[str, str]:
    """The supervisor's one line; empty when it ended, or took too long, without one."""
    data = b""
    limit = time.monotonic() + _READY_S
    while not data.endswith(b"\n"):
        if not select.select([file], [], [], max(0.0, limit - time.monotonic()))[0]:
            return {}
        part = os.read(file, 4096)
        if not part:
            return {}
        data += part
    return json.loads(data)


def _signal(paths: RunPaths, process: ProcessIdentity, number: signal.Signals, *, supervised: bool) -> bool:
    """Send a signal to this very process and no other that has its number now, if it works on the run in this folder.

    A copy of a run folder names the supervisor of the original, which must not be touched. False when nothing was sent.
    """
    try:
        if not hasattr(os, "pidfd_open"):
            if is_at_work(paths, process, supervised=supervised):
                os.kill(process.pid, number)
                return True
            return False
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:  # the handle holds the process; only now its identity is looked at
        if not is_at_work(paths, process, supervised=supervised):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
