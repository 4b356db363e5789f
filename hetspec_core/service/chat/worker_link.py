"""The process of a chat worker and the two pipes to it. No caller waits for the worker.

Requests go through a queue and a thread, replies through another, so a worker that stalls, floods, writes garbage or
dies is seen by its events alone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from hetspec_core.errors import recognise
from hetspec_core.events.chat import ChatEvent, Garbage, Quit, Request, WorkerDied, decode_reply, encode
from hetspec_core.files import private, tail
from hetspec_core.paths import make_folders
from hetspec_core.process import python_command, python_environment, signal_name

ENGINE = "hetspec_core.engine.stages.chat"
_LONGEST_LINE = 16 << 20
_END_S = 1.0
_GROUP_S = 0.5
_LOOK_S = 0.2  # between two looks of a waiting thread at whether the link was closed
_LOG_TAIL_BYTES = 16_384


def worker_command() -> list[str]:
    """The command line of the engine's chat worker."""
    return python_command("-m", ENGINE)


class WorkerLink:
    """One worker process; a new process needs a new link.

    Args:
        command: its command line; `--parent PID` is appended.
        log: file for its stderr; its folder is made.
        environment: on top of this process's own.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._command = [*command, "--parent", str(os.getpid())]
        self._environment = dict(environment or {})
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[ChatEvent] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        # The thread that starts the process lives as long as it: the kernel ends a child with the thread that made it.
        self._keeper = threading.Thread(target=self._keep, name="chat-worker", daemon=True)

    def start(self) -> None:
        """Start the process, in the background."""
        self._keeper.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def send(self, request: Request) -> None:
        """Queue a request; returns at once."""
        self._requests.put(encode(request))

    def drain(self, limit: int = 1000) -> list[ChatEvent]:
        """The events since the last call, at most `limit`; returns at once."""
        found: list[ChatEvent] = []
        while len(found) < limit:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                break
        return found

    def wait(self, timeout_s: float | None) -> list[ChatEvent]:
        """The next event and all queued ones; none when the time is over, or the process and its output have ended."""
        limit = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _LOOK_S if limit is None else min(_LOOK_S, max(0.0, limit - time.monotonic()))
            over = self.ended or (limit is not None and time.monotonic() >= limit)
            try:
                first = self._events.get(timeout=left if not over else 0.001)
            except queue.Empty:
                if over:
                    return []
            else:
                return [first, *self.drain()]

    def close(self, grace_s: float = 0.5) -> None:
        """End the process and its children; the memory is free when this returns, soon after `grace_s`."""
        with self._lock:
            self._closing = True
        self._requests.put(encode(Quit()))
        self._requests.put(None)
        if self._process is not None and not self._ended.wait(grace_s):
            self._kill()
        if self._keeper.is_alive():
            self._keeper.join(_END_S)

    # --- threads -----------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        try:
            self._start()
        except OSError as error:
            reason = error.strerror or str(error)
            self._say_died(None, f"the chat worker could not be started: {reason}")
            return
        process = self._process
        if process is None:  # closed before it began
            self._ended.set()
            return
        assert process.stdout is not None and process.stdin is not None
        threading.Thread(target=self._write, args=(process.stdin,), name="chat-requests", daemon=True).start()
        self._read(process.stdout)
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:  # it closed its stdout and runs on: no more events can come
            self._kill()
            status = process.wait()
        self._kill()  # the processes left in its group
        self._await_group(process.pid)
        self._requests.put(None)
        self._say_died(status, self._why(status))

    def _start(self) -> None:
        make_folders(self.log.parent)
        with self._lock, open(self.log, "ab", opener=private) as log:
            if self._closing:
                return
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=python_environment({"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **self._environment}),
                start_new_session=True,  # Ctrl-C in the terminal is for the desk alone
            )

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(_LONGEST_LINE):
                if line.strip():
                    whole = line.endswith(b"\n")
                    self._events.put(decode_reply(line) if whole else Garbage(line=line[:500].decode(errors="replace")))

    def _write(self, stream: IO[bytes]) -> None:
        try:
            while (line := self._requests.get()) is not None:
                stream.write(line)
                stream.flush()
        except (OSError, ValueError):
            pass  # the worker has ended; the reader reports it
        with contextlib.suppress(OSError, ValueError):
            stream.close()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads its own group

    def _await_group(self, group: int) -> None:
        """Wait a moment until the killed processes have ended; one that is not reaped holds no memory."""
        limit = time.monotonic() + _GROUP_S
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < limit:
                os.killpg(group, 0)
                time.sleep(0.005)

    def _say_died(self, status: int | None, message: str) -> None:
        if not self._closing:
            hint = "the conversation is kept; restart the worker to go on"
            known = recognise(self._log_tail())
            if known is not None and "memory" in known.kind:
                hint = "the conversation is kept; use a smaller number type or a shorter context, then restart"
            self._events.put(WorkerDied(exit_status=status, message=message, hint=hint, log=str(self.log)))
        self._ended.set()

    def _why(self, status: int) -> str:
        last_words = self._log_tail()
        known = recognise(last_words)
        if known is not None:
            return f"the chat worker ended: {known.message}"
        if status == -signal.SIGKILL:
            return "the chat worker was killed (SIGKILL); if nobody did it, the machine was out of memory"
        if status < 0:
            return f"the chat worker was ended by {signal_name(-status)}"
        last = next((line.strip() for line in reversed(last_words.splitlines()) if line.strip()), "")
        last = "".join(char for char in last[:200] if char.isprintable())
        return f"the chat worker ended with status {status}" + (f": {last}" if last else "")

    def _log_tail(self) -> str:
        return tail(self.log, most_bytes=_LOG_TAIL_BYTES)


def new_log(folder: Path, keep: int = 10) -> Path:
    """The path of a log for a new worker; all but the newest older logs are deleted."""
    with contextlib.suppress(OSError):
        old = sorted(folder.glob("worker-*.log"), key=lambda path: path.stat().st_mtime)
        for path in old[: max(0, len(old) - keep + 1)]:
            path.unlink(missing_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return folder / f"worker-{stamp}-{os.getpid()}-{time.monotonic_ns() % 100_000:05d}.log"
