"""The SGLang backend as a run opens it: exports beside the run, logs in its folder, progress in its journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hetspec_core.engine.backends.sglang import SGLangBackend
from hetspec_core.engine.context import RunContext
from hetspec_core.errors import ModelError


def exports(context: RunContext) -> Path:
    """Folder of what is written for SGLang: beside the run's own products, never in a checkpoint."""
    return context.paths.folder / "sglang"


def draft_folder(context: RunContext) -> str:
    """Directory of the run's draft; empty for plain decoding; the URL of a running server for the one that it has.

    Raises:
        ModelError: there is a draft and no checkpoint of it.
    """
    spec = context.spec
    if spec.draft is None or spec.decoding.plain:
        return ""
    if spec.draft.checkpoint is None and spec.sglang.url and spec.stage != "serve":
        return spec.sglang.url
    if spec.draft.checkpoint is None:
        raise ModelError(
            f"draft {spec.draft.name} is not trained: the spec names no checkpoint", hint="give --draft RUN_OR_DIR"
        )
    return str(Path(spec.draft.checkpoint).expanduser())


@contextmanager
def sglang_backend(context: RunContext) -> Iterator[SGLangBackend]:
    """The backend over the run's base; its servers end with the block."""
    backend = SGLangBackend()
    backend.configure(context.spec.sglang.model_dump(mode="json"))
    backend.folder, backend.logs = exports(context), context.paths.logs
    backend.on_progress = lambda label, done: context.prepare("start server", done, label)
    backend.stop_asked = context.cancelled.is_set
    try:
        backend.open(context.spec.base, context.spec.resources)
        yield backend
    finally:
        backend.close()
