"""A server of SGLang as a child of this process: started, watched until it is ready, and stopped with its processes.

The progress of a start, and the reason of a crash, are read from the server's log.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from hetspec_core.errors import Cancelled, ModelError, ResourceError, StageFailed
from hetspec_core.failures import recognise
from hetspec_core.files import private, tail
from hetspec_core.process import end_marked, end_with_this
from hetspec_core.sglang.client import ServerFacts, SGLangClient, port_is_taken
from hetspec_core.sglang.export import OWN_CLASSES
from hetspec_core.sglang.launch import Launch

Progress = Callable[[str, float], None]
"""Called with what a server is doing, and the progress of the whole start (0 to 1)."""

MARK = "HETSPEC_SGLANG_SERVER"
"""Environment variable of a server and of all processes that it starts: identifies the server."""

_LOOK_S = 0.2
_ASK_S, _SELDOM_ASK_S = 0.3, 5.0  # between two health checks: when it may be ready, and before
_NEARLY = 0.9
_GRACE_S = 20.0
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


class SGLangServer:
    """One server process.

    Args:
        launch: how it is started.
        log: file to which its output is appended.
        request_timeout_s: of the client.
    """

    def __init__(self, launch: Launch, log: Path, request_timeout_s: float = 300.0) -> None:
        self.launch = launch
        self.log = log
        self.client = SGLangClient(launch.url, request_timeout_s, launch.api_key)
        self.facts: ServerFacts | None = None
        self.start_log = StartLog()
        self._process: subprocess.Popen[bytes] | None = None
        self._offset = 0
        self._mark = uuid.uuid4().hex

    @property
    def pid(self) -> int | None:
        """Id of the process while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; `wait_ready` waits for it.

        Raises:
            ResourceError: the port is taken, or the process cannot be started.
        """
        launch = self.launch
        if port_is_taken(launch.host, launch.port):
            raise ResourceError(
                f"port {launch.port} of {launch.host} is taken by another program",
                hint="leave the port out (a free one is found), or attach to the server that has it with --url",
            )
        _end_family(self._mark)  # processes that a crashed server left
        # The folder `logs` of a run is not created here: a deleted run must not come back.
        self.log.parent.mkdir(parents=self.log.parent.name != "logs", exist_ok=True)
        self.start_log, self.facts = StartLog(), None
        with open(self.log, "ab", opener=private) as output:  # private, because SGLang prints its settings with the key
            output.write(f"--- {launch.shown}\n".encode())
            output.flush()
            self._offset = output.tell()
            try:
                self._process = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=child_environment({**launch.environment, MARK: self._mark}),
                    preexec_fn=end_with_this(),  # in this process's group, so that a signal to the group reaches it
                )
            except OSError as error:
                raise ResourceError(f"{launch.command[0]} cannot be started: {error.strerror}") from error

    def wait_ready(
        self,
        timeout_s: float,
        on_progress: Progress = lambda label, done: None,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> ServerFacts:
        """Wait until the server answers, and check that the wanted class took the draft.

        Any failure stops the server.

        Raises:
            StageFailed: it ended, or was not ready in time.
            ModelError: another class than the wanted one took the draft.
            Cancelled: `stop_asked` returned true.
        """
        asked = time.monotonic()
        limit = asked + timeout_s
        position, rest = self._offset, ""
        on_progress(self.start_log.label, self.start_log.done)
        try:
            while True:
                position, rest, news = self._read_log(position, rest)
                if news:
                    on_progress(self.start_log.label, self.start_log.done)
                if not self.alive:
                    raise self.died()
                now = time.monotonic()
                if now - asked >= (_ASK_S if self.start_log.done >= _NEARLY else _SELDOM_ASK_S):
                    asked = now
                    if self.client.healthy():
                        break
                if stop_asked():
                    raise Cancelled("the start of the server was stopped")
                if now >= limit:
                    raise StageFailed(
                        f"the server was not ready after {timeout_s:.0f} s; last it said: {self.start_log.label}",
                        hint=f"look into {self.log}; --set sglang.start_timeout_s=... gives it longer",
                    )
                time.sleep(_LOOK_S)
            self._read_log(position, rest)
            self._check_class()
            self.facts = self.client.facts()
        except BaseException:
            self.stop()
            raise
        on_progress("the server is ready", 1.0)
        return self.facts

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Stop the server and its processes: by SIGTERM, and by SIGKILL after `grace_s`."""
        process = self._process
        if process is None:
            return
        family = _descendants(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        for member in {*family, *_descendants(process.pid)}:
            with contextlib.suppress(psutil.Error):
                member.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        _await_end(family)
        _end_family(self._mark)
        self._process = None

    def died(self) -> StageFailed:
        """The error that says how the server ended."""
        status = None if self._process is None else self._process.poll()
        return why_it_ended("SGLang's server", status, self.log, self._offset)

    def _check_class(self) -> None:
        wanted = self.launch.expects
        if not wanted or wanted in self.start_log.classes:
            return
        if not self.start_log.classes:
            if wanted not in OWN_CLASSES:
                return  # SGLang has no other class of that name
            raise ModelError(
                f"the draft needs class {wanted}, and SGLang's log does not name the class that it loaded",
                hint=f"start it with --log-level info; the log is {self.log}",
            )
        ignored = f"; SGLang could not import {'; '.join(self.start_log.ignored)}" if self.start_log.ignored else ""
        raise ModelError(
            f"the draft needs class {wanted}, and SGLang loaded {', '.join(self.start_log.classes)}{ignored}",
            hint=f"the log is {self.log}; a version of SGLang that HetSpec's classes are made for serves it",
        )

    def _read_log(self, position: int, rest: str) -> tuple[int, str, bool]:
        try:
            with self.log.open("rb") as file:
                file.seek(position)
                new = file.read()
        except OSError:
            return position, rest, False
        *lines, rest = re.split(r"[\r\n]", rest + new.decode(errors="replace"))
        news = [self.start_log.read(line) for line in lines]
        return position + len(new), rest, any(news)


def why_it_ended(who: str, status: int | None, log: Path, offset: int) -> StageFailed:
    """The error that says how a process of SGLang ended, by its log from `offset` on."""
    last_words = tail(log, offset, most_bytes=_TAIL_BYTES)
    known = recognise(last_words)
    lines = [line.strip() for line in last_words.splitlines() if line.strip() and not _CLEANING_UP.search(line)]
    errors = [line for line in lines if re.match(r"^[\w.]*(Error|Exception)\b.*:", line)]
    reason = known.message if known is not None else (errors or lines or ["its log is empty"])[-1][:300]
    shown = "".join(char if char.isprintable() else " " for char in reason)
    advice = f"{_MEMORY_ADVICE}; " if known is not None and known.kind == "gpu_memory" else ""
    return StageFailed(f"{who} ended with status {status}: {shown}", hint=f"{advice}its log is {log}")


def child_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """This process's variables, and theirs."""
    found = {**os.environ, **ours}
    if not found.get("PYTHONPATH"):  # an empty entry would stand for the present folder
        found.pop("PYTHONPATH", None)
    return found


def _end_family(mark: str) -> None:
    """End every process that a server has started, be its parent alive or not; they inherit its mark."""
    _await_end(end_marked(MARK, lambda value: value == mark))


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
