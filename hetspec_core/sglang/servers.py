"""The servers of one base: started when a draft and tree are asked for, kept while they are used, ended together.

It joins export, command line and process; it knows no prompts and no answers.
"""

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
from hetspec_core.errors import ModelError, StageFailed
from hetspec_core.sglang.client import ServerFacts, SGLangClient, free_port
from hetspec_core.sglang.export import ServedDraft, export_name, served_draft
from hetspec_core.sglang.launch import (
    Launch,
    check_float32,
    installed,
    is_float32,
    link_inside,
    plan_launch,
    tree_flags,
)
from hetspec_core.sglang.server import Progress, SGLangServer
from hetspec_core.sglang.trees import TreeFeed
from hetspec_core.spec import BaseSpec, ResourcesSpec, SGLangSpec, TreeSpec

_END_S = 1.0  # what broke off in the middle of an answer is usually gone by then


@dataclass
class Served:
    """A server that is up.

    Attributes:
        client: to ask it.
        facts: what it says of itself.
        server: its process; None for one that was attached to.
        feed: its trees, or None.
    """

    client: SGLangClient
    facts: ServerFacts
    server: SGLangServer | None = None
    feed: TreeFeed | None = None


class Fleet:
    """Servers of one base.

    Args:
        spec: how they are started.
        base: what they serve.
        resources: number type.
        folder: for exports and links; its parent must be writable.
        logs: folder of their logs.
        on_progress: told how far a start is.
        stop_asked: whether a start should be given up.

    Raises:
        ResourceError: there is no SGLang, or one outside the supported range.
        SpecError: it is started with a key, which is not in the environment.
        ModelError: it is to run in float32, and its source is not one that can be helped to.
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
        self._running: dict[str, Served] = {}  # the one used last stands last
        self._starts = 0
        self._crashes = 0

    @property
    def version(self) -> str:
        """Of the SGLang that is started."""
        return self.installed.version

    def export(self, draft: Path) -> ServedDraft:
        """A draft in SGLang's layout.

        Raises:
            ModelError: SGLang cannot serve it.
        """
        return served_draft(draft, self.base, self.folder, self.installed)

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

    def server(self, served: ServedDraft | None, tree: TreeSpec) -> Served:
        """A server of this draft and tree, started if none is up; others may be ended for it.

        Raises:
            ModelError, ResourceError, StageFailed: it cannot be started; the message says why.
        """
        key = "plain" if served is None else f"{served.folder} {tree_flags(tree)}"
        found = self._running.pop(key, None)
        if found is not None and found.server is not None and not found.server.alive:
            if found.feed is not None:
                found.feed.close()
            try:
                self._count_crash(found.server)
            finally:
                found.server.stop()  # what it has left behind
            found = None
        if found is None:
            while len(self._running) >= self.spec.keep_servers:
                self._end(self._running.pop(next(iter(self._running))))
            found = self._start(served, tree)
        self._running[key] = found
        return found

    def close(self) -> None:
        """End all servers."""
        for served in self._running.values():
            self._end(served)
        self._running.clear()

    def _start(self, served: ServedDraft | None, tree: TreeSpec) -> Served:
        self._starts += 1
        tells = served is not None and self.spec.trees and not self.installed.plugin
        # A short path: the names of sockets have at most a hundred bytes or so. It goes as soon as the feed is
        # connected, so that whoever is killed later leaves nothing behind.
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
        return Served(server.client, facts, server, feed)

    def _count_crash(self, server: SGLangServer) -> None:
        self._crashes += 1
        if self._crashes > self.spec.restarts:
            raise server.died()

    def _end(self, served: Served) -> None:
        if served.feed is not None:
            served.feed.close()
        if served.server is not None:
            served.server.stop()


def died_of(served: Served, error: StageFailed) -> StageFailed:
    """The better of two reasons: what the process left in its log, if it is gone, else what was seen on the wire."""
    server = served.server
    limit = time.monotonic() + _END_S
    while server is not None and server.alive and time.monotonic() < limit:
        time.sleep(0.02)
    if server is None or server.alive:
        return error
    return server.died()


def check_draft(served: Served, folder: str, url: str) -> None:
    """See that a running server drafts with the draft that is meant.

    Args:
        served: the server, which has one.
        folder: directory of the draft, or `url` for whichever the server has.
        url: of the server.

    Raises:
        ModelError: the server has another one.
    """
    theirs = served.facts.draft
    if folder == url or not theirs or Path(theirs).absolute() == Path(folder).absolute():
        return
    with contextlib.suppress(OSError):
        if Path(theirs).name == export_name(Path(folder)):  # as `serve` has exported it
            return
    raise ModelError(
        f"{url} drafts with {theirs}, and not with {folder} as it is now",
        hint="leave the draft out to use the server's own, or start a server with this one: `hetspec-core serve`",
    )


def check_model(facts: ServerFacts, base: BaseSpec, url: str) -> None:
    """See that a server has a base of the family that is meant; it does not tell its weights.

    Raises:
        ModelError: it has another one.
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
        return  # it is on another machine, or a name on the hub: the family has to do
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if key in sizes and sizes[key] != getattr(base.architecture, key):
            raise ModelError(
                f"{url} serves {model} with {key} {sizes[key]}; {base.name} has {getattr(base.architecture, key)}",
                hint="name the recipe whose base it serves",
            )
