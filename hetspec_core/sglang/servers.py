"""The servers of one base: started for a draft and a tree, kept while they are used, and stopped together."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.engine.modeling.sources import materialize
from hetspec_core.errors import Cancelled, ModelError, ResourceError, StageFailed
from hetspec_core.sglang.child import ChildProcess, Progress, StartLog
from hetspec_core.sglang.client import ServerFacts, SGLangClient, free_port, port_is_taken
from hetspec_core.sglang.export import OWN_CLASSES, ServedDraft, export_name, served_draft
from hetspec_core.sglang.launch import (
    Launch,
    check_float32,
    installed,
    is_float32,
    link_inside,
    plan_launch,
    tree_flags,
)
from hetspec_core.sglang.stream import TreeFeed
from hetspec_core.spec import BaseSpec, DraftVocabChoice, ResourcesSpec, SGLangSpec, TreeSpec

_LOOK_S = 0.2
_ASK_S, _SELDOM_ASK_S = 0.3, 5.0  # between two health checks: when it may be ready, and before
_NEARLY = 0.9
_GRACE_S = 20.0


class SGLangServer:
    """One server process."""

    def __init__(self, launch: Launch, log: Path, request_timeout_s: float = 300.0) -> None:
        self.launch, self.log = launch, log
        self.client = SGLangClient(launch.url, request_timeout_s, launch.api_key)
        self.facts: ServerFacts | None = None
        self._child = ChildProcess("SGLang's server", log)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def alive(self) -> bool:
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


_END_S = 1.0  # a server that broke off in the middle of an answer has usually ended by then


@dataclass
class RunningServer:
    """A server that is ready.

    Attributes:
        client: sends requests to it.
        facts: what it reports of itself.
        server: its process; None for a server that was not started here.
        feed: the records of its tree plugin, or None.
    """

    client: SGLangClient
    facts: ServerFacts
    server: SGLangServer | None = None
    feed: TreeFeed | None = None

    def close(self) -> None:
        """Stop it, if it was started here."""
        if self.feed is not None:
            self.feed.close()
        if self.server is not None:
            self.server.stop()

    def why_it_broke_off(self, error: StageFailed) -> StageFailed:
        """The error of an answer that broke off: by the server's log if the process has ended, else `error`."""
        limit = time.monotonic() + _END_S
        while self.server is not None and self.server.alive and time.monotonic() < limit:
            time.sleep(0.02)
        return error if self.server is None or self.server.alive else self.server.died()


class ServerPool:
    """The servers of one base.

    Args:
        spec: how they are started.
        base: what they serve.
        resources: number type.
        folder: for exports and links; its parent must be writable.
        logs: folder of their logs.
        on_progress: called with the progress of a start.
        stop_asked: whether a start should be cancelled.

    Raises:
        ResourceError: SGLang is not installed, or its version is not supported.
        SpecError: a server is started with a key that is not in the environment.
        ModelError: the servers are to run in float32, and this SGLang cannot be hooked for it.
    """

    def __init__(
        self,
        spec: SGLangSpec,
        base: BaseSpec,
        resources: ResourcesSpec,
        *,
        folder: Path,
        logs: Path,
        on_progress: Progress = lambda label, done: None,
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        spec = spec.opened(os.environ)
        self.spec, self.base, self.resources = spec, base, resources
        self.folder, self.logs = folder, logs
        self.on_progress, self.stop_asked = on_progress, stop_asked
        self.installed = installed(spec)
        check_float32(spec, resources, self.installed)
        self.base_folder = materialize(base.source)
        self._running: dict[str, RunningServer] = {}  # the least recently used first
        self._starts = 0
        self._crashes = 0

    @property
    def version(self) -> str:
        return self.installed.version

    def export(self, draft: Path, draft_vocab: DraftVocabChoice = "whole") -> ServedDraft:
        """A draft in SGLang's layout; arguments and errors as of `served_draft`."""
        return served_draft(draft, self.base, self.folder, self.installed, draft_vocab)

    def plan(self, served: ServedDraft | None, tree: TreeSpec, *, trees_socket: str = "") -> Launch:
        """How a server of this draft and tree would be started."""
        port = self.spec.number("--port") or self.spec.port or free_port(self.spec.flag("--host") or self.spec.host)
        needs_inside = bool(trees_socket) or (served is not None and served.needs_package)
        needs_inside = needs_inside or is_float32(self.spec, self.resources)
        inside = link_inside(self.folder / "inside") if needs_inside else None
        return plan_launch(
            self.spec,
            base=self.base_folder,
            served=served,
            tree=tree,
            resources=self.resources,
            port=port,
            inside=inside,
            trees_socket=trees_socket,
        )

    def server(self, served: ServedDraft | None, tree: TreeSpec) -> RunningServer:
        """A server of this draft and tree. It is started if none is running; others may be stopped for it.

        Raises:
            ModelError, ResourceError, StageFailed: it cannot be started; the message says why.
        """
        key = "plain" if served is None else f"{served.folder} {tree_flags(tree)}"
        found = self._running.pop(key, None)
        if found is not None and found.server is not None and not found.server.alive:
            try:
                self._count_crash(found.server)
            finally:
                found.close()  # ends the processes that it left
            found = None
        if found is None:
            while len(self._running) >= self.spec.keep_servers:
                self._running.pop(next(iter(self._running))).close()
            found = self._start(served, tree)
        self._running[key] = found
        return found

    def close(self) -> None:
        for served in self._running.values():
            served.close()
        self._running.clear()

    def _start(self, served: ServedDraft | None, tree: TreeSpec) -> RunningServer:
        self._starts += 1
        tells = served is not None and self.spec.trees and not self.installed.plugin
        # A short path: names of sockets have at most about a hundred bytes. The folder is removed as soon as the feed
        # is connected, so that a process that is killed later leaves no folder behind.
        folder = Path(tempfile.mkdtemp(prefix="hetspec-")) if tells else None
        path = str(folder / "trees") if folder is not None else ""
        try:
            launch = self.plan(served, tree, trees_socket=path)
            server = SGLangServer(launch, self.logs / f"sglang-{self._starts}.log", self.spec.request_timeout_s)
            server.start()
            facts = server.wait_ready(self.spec.start_timeout_s, self.on_progress, self.stop_asked)
            feed = TreeFeed(path) if path else None
            if feed is not None and not feed.open():
                feed.close()
                feed = None
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return RunningServer(server.client, facts, server, feed)

    def _count_crash(self, server: SGLangServer) -> None:
        self._crashes += 1
        if self._crashes > self.spec.restarts:
            raise server.died()


def check_draft(served: RunningServer, folder: str, url: str) -> None:
    """Check that a running server drafts with the draft that is meant.

    Args:
        served: the server, which has a draft.
        folder: directory of the draft, or `url` for the server's own.
        url: of the server.

    Raises:
        ModelError: the server has another draft.
    """
    theirs = served.facts.draft
    if folder == url or not theirs or Path(theirs).absolute() == Path(folder).absolute():
        return
    with contextlib.suppress(OSError):
        if Path(theirs).name.startswith(export_name(Path(folder))):  # as `serve` exported it, with any vocabulary
            return
    raise ModelError(
        f"{url} drafts with {theirs}, and not with {folder} as it is now",
        hint="leave the draft out to use the server's own, or start a server with this one: `hetspec-core serve`",
    )


def check_model(facts: ServerFacts, base: BaseSpec, url: str) -> None:
    """Check that a server has a base of the family that is meant. A server does not report its weights.

    Raises:
        ModelError: it has another base.
    """
    model, wanted = facts.model, base.architecture.model_type
    # Its type, or the family in the name of its class: Gemma3ForCausalLM is of type gemma3_text.
    family = wanted.removesuffix("_text").replace("_", "")
    seen = [name.lower().removesuffix("forcausallm") for name in facts.architectures]
    local = Path(model) / "config.json"
    if (seen or facts.model_type) and wanted != facts.model_type and family not in seen:
        raise ModelError(
            f"{url} serves {model} ({', '.join(facts.architectures) or facts.model_type}), and the recipe's base is "
            f"{base.name} ({wanted})",
            hint="name the recipe whose base it serves, or the server of this base",
        )
    try:
        sizes = json.loads(local.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # it is on another machine, or a name on the hub: only the family can be compared
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key in sizes and sizes[key] != getattr(base.architecture, key):
            raise ModelError(
                f"{url} serves {model} with {key} {sizes[key]}; {base.name} has {getattr(base.architecture, key)}",
                hint="name the recipe whose base it serves",
            )
