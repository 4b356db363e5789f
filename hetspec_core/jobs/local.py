"""The executor `local`: supervisors as processes on this machine, each in a session of its own.

A copied run folder has the journals of the original, and so the identity of its supervisor. What a copy does not have
is the lock that the supervisor holds: the kernel ties it to the file, not to its name or content.
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
from dataclasses import dataclass, field, replace
from pathlib import Path

from hetspec_core.errors import ResourceError, RunError
from hetspec_core.files import file_size, is_locked, tail
from hetspec_core.jobs.executor import WORKER_MODULE, Observation
from hetspec_core.jobs.workers import WorkerPlan, end_attempts
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity, is_run_variable, python_command, python_environment

KILL_SIGNAL = signal.SIGUSR1
"""Tells a supervisor to kill its workers."""
_SUPERVISOR = "hetspec_core.jobs.supervisor"
_READY_S = 30.0
_KILL_S = 5.0

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",  # its threads do not survive the forks of data loaders
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the journal carries the progress
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",  # so that the log of a killed worker is complete
}


@dataclass(frozen=True)
class LocalJob:
    """A supervisor started by this process."""

    identity: ProcessIdentity
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        """Its exit status if it has ended (negative = a signal), else None."""
        return self.process.poll()


@dataclass(frozen=True)
class LocalExecutor:
    """Starts and stops supervisors on this machine; attributes and methods as of `Executor`."""

    module: str = WORKER_MODULE
    environment: Mapping[str, str] = field(default_factory=dict)
    submitted: Mapping[str, str] | None = None
    name: str = "local"

    def with_variables(self, variables: Mapping[str, str]) -> LocalExecutor:
        return replace(self, environment={**self.environment, **variables})

    def launch(
        self,
        paths: RunPaths,
        *,
        attempt: int,
        folder: Path | None = None,
        gpus: tuple[str, ...] = (),
        slots: tuple[str, ...] = (),
        workers: WorkerPlan | None = None,
    ) -> LocalJob:
        """As `Executor.launch`; the supervisor goes on when this process ends."""
        paths.logs.mkdir(exist_ok=True)
        reading, writing = os.pipe()
        command = python_command("-m", _SUPERVISOR, str(paths.folder.absolute()))
        command += ["--attempt", str(attempt), "--module", self.module, "--ready", str(writing)]
        if workers is not None:
            command += ["--workers", workers.to_word()]
        command += [word for uuid in gpus for word in ("--gpu", uuid)]
        command += [word for name in slots for word in ("--slot", name)]
        log = paths.log("supervisor")
        offset = file_size(log)
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
                    start_new_session=True,  # Ctrl-C in the terminal reaches the desk, which then asks the supervisor
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
        last = tail(log, offset).strip().rpartition("\n")[2]
        raise ResourceError(answer.get("message") or f"no supervisor could be started for {paths.folder}: {last}")

    def look(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> Observation:
        """As `Executor.look`. A supervisor holds the lock of the run folder for as long as it works. A worker that was
        started by hand holds no such lock; it works here unless its command line names another folder.
        """
        alive = process.is_alive()
        if not alive:
            return Observation("unreachable" if alive is None else "ended")
        if supervised:
            try:
                if is_locked(paths.supervisor_lock):
                    return Observation("working")
            except OSError:
                return Observation("unknown")
        folder = run_folder_of(process)
        if process.is_alive() is not True:  # it has ended since
            return Observation("ended")
        if folder is not None and _is_same(folder, paths.folder):
            return Observation("ending" if supervised else "working")
        return Observation("copied", folder) if supervised or folder is not None else Observation("working")

    def request_stop(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        return self._signal(paths, process, signal.SIGTERM, supervised=supervised)

    def kill(self, paths: RunPaths, process: ProcessIdentity, *, supervised: bool = True) -> bool:
        """As `Executor.kill`: the supervisor kills its workers; when it is killed itself, the kernel kills them."""
        if not self._signal(paths, process, KILL_SIGNAL, supervised=supervised):
            return False
        limit = time.monotonic() + _KILL_S
        while process.is_alive():
            if time.monotonic() > limit:
                self._signal(paths, process, signal.SIGKILL, supervised=supervised)
                break
            time.sleep(0.01)
        return True

    def clear(self, paths: RunPaths, last_attempt: int) -> None:
        end_attempts(paths.folder.absolute(), last_attempt)

    def _environment(self) -> dict[str, str]:
        here: dict[str, str] = dict(os.environ)
        if self.submitted is not None:
            here = {name: value for name, value in here.items() if not is_run_variable(name)} | dict(self.submitted)
        return python_environment({**_QUIET, **here, **self.environment}, variables=here)

    def _signal(self, paths: RunPaths, process: ProcessIdentity, number: signal.Signals, *, supervised: bool) -> bool:
        """Send a signal to this very process, if it works on the run in this folder; False when nothing was sent.

        A copy of a run folder names the supervisor of the original, which must not be touched.
        """
        try:
            if not hasattr(os, "pidfd_open"):
                if self.look(paths, process, supervised=supervised).is_at_work:
                    os.kill(process.pid, number)
                    return True
                return False
            handle = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return False
        try:  # the handle keeps the number from being given to another process; its identity is checked after that
            if not self.look(paths, process, supervised=supervised).is_at_work:
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


def run_folder_of(process: ProcessIdentity) -> Path | None:
    """The run folder that a supervisor or a worker names in its command line; None when it cannot be seen."""
    import psutil

    try:
        seen = psutil.Process(process.pid)
        words, working_folder = seen.cmdline(), seen.cwd()
    except (psutil.Error, OSError):
        return None
    if process.is_alive() is not True:  # its number may belong to another process by now
        return None
    for word in words[1:]:
        folder = Path(working_folder) / word
        try:
            if RunPaths(folder).spec.is_file():
                return folder
        except (OSError, ValueError):
            continue
    return None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


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
