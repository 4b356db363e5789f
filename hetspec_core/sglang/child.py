"""A child process of SGLang, a server or the offline engine: started, followed by its log, stopped with its children.

The progress of a start, and the reason of a crash, are read from the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hetspec_core.errors import ResourceError, StageFailed, recognise
from hetspec_core.files import private, tail
from hetspec_core.process import end_marked, end_with_this

Progress = Callable[[str, float], None]
"""Called with what a process is doing, and the progress of the whole (0 to 1)."""

MARK = "HETSPEC_SGLANG_SERVER"
"""Environment variable of a process and of all processes that it starts: identifies the first."""

_END_S = 5.0
_TAIL_BYTES = 16_384
_STEPS: tuple[tuple[re.Pattern[str], str, float], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), label, done)
    for pattern, label, done in (
        (r"server_args=|launch_server", "SGLang starts", 0.05),
        (r"Init torch distributed begin", "the device is opened", 0.15),
        (r"Load weight begin", "weights are loaded", 0.25),
        (r"Load weight end", "weights are loaded", 0.4),
        (r"KV Cache is allocated|Memory pool end", "the cache is allocated", 0.5),
        (r"jit|ninja|nvcc|compil", "small kernels are compiled, which takes a minute at the first start", 0.55),
        (r"Capture .*cuda graph begin|Capturing batches|Capture draft", "CUDA graphs are captured", 0.7),
        (r"Capture .*graph end", "CUDA graphs are captured", 0.85),
        (r"Application startup complete|Uvicorn running", "the server warms up", 0.95),
        (r"ready to roll", "the server is ready", 1.0),
    )
)
_ARGUMENTS = "server_args="
_CLASS = re.compile(r"Load weight end\..*?\btype=(\w+)")
_CLEANING_UP = re.compile(
    r"kill_process_tree called|SIGQUIT received|Received sigquit|crash diagnostics|py-spy|GET /health"
)
_MEMORY_ADVICE = (
    "end what else holds the GPU (`hetspec-core gpus`), or give SGLang less of it: --mem-fraction-static, "
    "--max-total-tokens, --max-running-requests"
)
_IGNORED = re.compile(r"Ignore import error when loading (\S*hetspec_core\.sglang\.models\S*): (.*)")


@dataclass
class StartLog:
    """What the log of a starting server reported so far.

    Attributes:
        label: what the server is doing.
        done: progress, 0 to 1.
        classes: classes whose weights were loaded, base first.
        ignored: modules of HetSpec that SGLang could not import, and why.
    """

    label: str = "SGLang starts"
    done: float = 0.0
    classes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def read(self, line: str) -> bool:
        """Take a line; returns whether it changed anything."""
        before = (self.label, self.done, self.classes, self.ignored)
        if hit := _CLASS.search(line):
            self.classes = (*self.classes, hit[1])
        if hit := _IGNORED.search(line):
            self.ignored = (*self.ignored, f"{hit[1]}: {hit[2]}")
        steps = _STEPS[:1] if _ARGUMENTS in line else _STEPS  # the settings name compilers and graphs
        for pattern, label, done in steps:
            if done > self.done and pattern.search(line):
                self.label, self.done = label, done
        return before != (self.label, self.done, self.classes, self.ignored)


class ChildProcess:
    """A child process of SGLang."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.log = name, log
        self.start_log = StartLog()
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = self._position = 0
        self._rest = ""
        self._mark = uuid.uuid4().hex

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self.alive else None

    def start(
        self, command: Sequence[str], variables: Mapping[str, str], *, heading: str = "", folder: Path | None = None
    ) -> None:
        """Start the process, after what an earlier one of this object left is killed.

        Args:
            command: its command line.
            variables: in addition to this process's own.
            heading: a line for the log before its output.
            folder: its working directory; this process's when absent.

        Raises:
            ResourceError: it cannot be started.
        """
        self._kill_marked()
        # The folder `logs` of a run is not created here: a deleted run must not come back.
        self.log.parent.mkdir(parents=self.log.parent.name != "logs", exist_ok=True)
        self.start_log, self._rest = StartLog(), ""
        environment = {**os.environ, **variables, MARK: self._mark}
        if not environment.get("PYTHONPATH"):  # an empty entry means the working directory
            environment.pop("PYTHONPATH", None)
        with open(self.log, "ab", opener=private) as output:  # private, because SGLang prints its settings with the key
            output.write(heading.encode())
            output.flush()
            self._offset = self._position = output.tell()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    preexec_fn=end_with_this(),  # in this process's group, so that a signal to the group reaches it
                    cwd=folder,
                )
            except OSError as error:
                raise ResourceError(f"{command[0]} cannot be started: {error.strerror}") from error

    def read_log(self) -> tuple[list[str], bool]:
        """The complete lines since the last call, and whether they changed `start_log`."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except OSError:
            return [], False
        self._position += len(new)
        *lines, self._rest = re.split(r"[\r\n]", self._rest + new.decode(errors="replace"))
        return lines, any([self.start_log.read(line) for line in lines])

    def stop(self, grace_s: float = 0.0) -> None:
        """Stop the process and its children: by SIGTERM, and by SIGKILL after `grace_s`; at once when that is 0."""
        process = self._process
        if process is None:
            return
        family = _descendants(process.pid) if self.alive else set()  # the id of one that ended may be another's
        if grace_s:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        if self.alive:
            family |= _descendants(process.pid)
        for member in family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        _await_end(family)
        self._kill_marked()

    def why_it_ended(self) -> StageFailed:
        """The error that says how the process ended."""
        status = None if self._process is None else self._process.poll()
        return why_it_ended(self.name, status, self.log, self._offset)

    def _kill_marked(self) -> None:
        """Kill every process that the first one started, whether its parent is alive or not: they inherit the mark."""
        _await_end(end_marked(MARK, lambda value: value == self._mark))


def why_it_ended(name: str, status: int | None, log: Path, offset: int) -> StageFailed:
    """The error that says how a process of SGLang ended, by its exit status and its log from `offset` on."""
    last_words = tail(log, offset, most_bytes=_TAIL_BYTES)
    known = recognise(last_words)
    lines = [line.strip() for line in last_words.splitlines() if line.strip() and not _CLEANING_UP.search(line)]
    errors = [line for line in lines if re.match(r"^[\w.]*(Error|Exception)\b.*:", line)]
    reason = known.message if known is not None else (errors or lines or ["its log is empty"])[-1][:300]
    shown = "".join(char if char.isprintable() else " " for char in reason)
    advice = f"{_MEMORY_ADVICE}; " if known is not None and known.kind == "gpu_memory" else ""
    return StageFailed(f"{name} ended with status {status}: {shown}", hint=f"{advice}its log is {log}")


def _await_end(processes: Iterable[psutil.Process]) -> None:
    """Wait a moment until these processes have ended; a zombie counts, as its parent may be slow to reap it."""
    limit = time.monotonic() + _END_S
    for process in processes:
        with contextlib.suppress(psutil.Error):
            while time.monotonic() < limit and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()
