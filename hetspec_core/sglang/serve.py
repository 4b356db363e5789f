"""Stage serve: a server of SGLang with base and draft, until it is stopped."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.stages.served import draft_folder
from hetspec_core.errors import Cancelled, SpecError
from hetspec_core.sglang.client import KEY_VARIABLE
from hetspec_core.sglang.launch import Launch
from hetspec_core.sglang.servers import ServerPool, SGLangServer

_LOOK_S = 0.5
_SETTLED_S = 600.0  # after so long a run the count of crashes starts again


def run(context: RunContext) -> None:
    """Export the draft, start the server, report its address, and start it again after a crash.

    Raises:
        Cancelled: it was stopped, which is how a server ends.
        ModelError: SGLang cannot serve this draft.
        StageFailed: it crashed more often than `sglang.restarts`.
    """
    spec, paths = context.spec, context.paths
    if spec.sglang.url:
        raise SpecError("a server is to be started, and sglang.url names a running one", hint="leave sglang.url out")
    pool = ServerPool(spec.sglang, spec.base, spec.resources, folder=paths.folder / "sglang", logs=paths.logs)
    folder = draft_folder(context)
    served = pool.export(Path(folder), spec.decoding.draft_vocab) if folder else None
    launch = pool.plan(served, spec.decoding.tree)
    context.record(sglang={"version": pool.version, "command": launch.public_command, "expects": launch.expects})
    server = SGLangServer(launch, paths.logs / "sglang.log", spec.sglang.request_timeout_s)
    crashes = 0
    try:
        while True:
            server.start()
            facts = server.wait_ready(
                spec.sglang.start_timeout_s,
                lambda label, done: context.prepare("start server", done, label),
                context.cancelled.is_set,
            )
            context.result(
                "serve",
                {
                    "url": launch.url,
                    "version": facts.version,
                    "model": facts.model,
                    "draft": str(served.source) if served is not None else "",
                    "exported": str(served.folder) if served is not None else "",
                    "class": launch.expects,
                    "tree": facts.tree,
                    "pid": server.pid,
                    "log": str(server.log),
                    "command": launch.shown,
                    "clients": client_lines(launch, spec.recipe, "" if served is None else str(served.source)),
                },
            )
            began = time.monotonic()
            _watch(context, server)
            crashes = 1 if time.monotonic() - began > _SETTLED_S else crashes + 1
            error = server.died()
            if crashes > spec.sglang.restarts:
                raise error
            context.log(f"{error.message}; it is started again ({crashes} of {spec.sglang.restarts})", "warning")
    finally:
        server.stop()


def _watch(context: RunContext, server: SGLangServer) -> None:
    """Wait until the server ends, or the run is cancelled."""
    while server.alive:
        if context.cancelled.wait(_LOOK_S):
            raise Cancelled("the server was stopped")


def client_lines(launch: Launch, recipe: str, draft: str) -> list[str]:
    """Shell lines that use the server."""
    name = recipe or "RECIPE"
    way = f"--draft {shlex.quote(draft)}" if draft else "--plain"
    body = '{"text": "The capital of France is", "sampling_params": {"max_new_tokens": 32, "temperature": 0}}'
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if launch.api_key else ""
    before = [f"export {KEY_VARIABLE}=...  # the server's --api-key"] if launch.api_key else []
    return [
        *before,
        f"curl -s {launch.url}/generate -H 'Content-Type: application/json'{key} -d '{body}'",
        f"hetspec-core chat --recipe {name} --url {launch.url} {way}",
        f"python bench_sglang_eagle.py --host {launch.url.rpartition(':')[0]} --port {launch.port} "
        "--parallel 1 --num-questions 80",
    ]
