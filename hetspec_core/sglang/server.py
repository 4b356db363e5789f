"""A server of SGLang that is started here: watched until it is ready and serves what was asked for, and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from hetspec_core.errors import Cancelled, ModelError, ResourceError, StageFailed
from hetspec_core.sglang.child import ChildProcess, Progress, StartLog
from hetspec_core.sglang.client import ServerFacts, SGLangClient, port_is_taken
from hetspec_core.sglang.export import OWN_CLASSES
from hetspec_core.sglang.launch import Launch

_LOOK_S = 0.2
_ASK_S, _SELDOM_ASK_S = 0.3, 5.0  # between two health checks: when it may be ready, and before
_NEARLY = 0.9
_GRACE_S = 20.0


class SGLangServer:
    """One server process.

    Args:
        launch: how it is started.
        log: file to which its output is appended.
        request_timeout_s: of the client.
    """

    def __init__(self, launch: Launch, log: Path, request_timeout_s: float = 300.0) -> None:
        self.launch, self.log = launch, log
        self.client = SGLangClient(launch.url, request_timeout_s, launch.api_key)
        self.facts: ServerFacts | None = None
        self._child = ChildProcess("SGLang's server", log)

    @property
    def pid(self) -> int | None:
        """Id of the process while it runs."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child.alive

    @property
    def start_log(self) -> StartLog:
        """What the log of the start reported."""
        return self._child.start_log

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
        self.facts = None
        self._child.start(launch.command, launch.environment, heading=f"--- {launch.shown}\n")

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
        on_progress(self.start_log.label, self.start_log.done)
        try:
            while True:
                _, news = self._child.read_log()
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
                        f"the server was not ready after {timeout_s:.0f} s; its last step: {self.start_log.label}",
                        hint=f"look into {self.log}; --set sglang.start_timeout_s=... gives it longer",
                    )
                time.sleep(_LOOK_S)
            self._child.read_log()
            self._check_class()
            self.facts = self.client.facts()
        except BaseException:
            self.stop()
            raise
        on_progress("the server is ready", 1.0)
        return self.facts

    def stop(self, grace_s: float = _GRACE_S) -> None:
        """Stop the server and its processes: by SIGTERM, and by SIGKILL after `grace_s`."""
        self._child.stop(grace_s)

    def died(self) -> StageFailed:
        """The error that says how the server ended."""
        return self._child.why_it_ended()

    def _check_class(self) -> None:
        wanted, started = self.launch.expects, self.start_log
        if not wanted or wanted in started.classes:
            return
        if not started.classes:
            if wanted not in OWN_CLASSES:
                return  # SGLang has no other class of that name
            raise ModelError(
                f"the draft needs class {wanted}, and SGLang's log does not name the class that it loaded",
                hint=f"start it with --log-level info; the log is {self.log}",
            )
        ignored = f"; SGLang could not import {'; '.join(started.ignored)}" if started.ignored else ""
        raise ModelError(
            f"the draft needs class {wanted}, and SGLang loaded {', '.join(started.classes)}{ignored}",
            hint=f"the log is {self.log}; a version of SGLang that HetSpec's classes are made for serves it",
        )
