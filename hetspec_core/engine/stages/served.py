"""The backend of a run, where it is not the built-in one: opened over the run's base, and measured.

The run's spec names the card of the backend. The card names the backend's class, and as the capability `measurement`
the `Measurement` that the stages bench and tune use. The stages know no backend by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.catalog import load_card
from hetspec_core.engine.backends.backend import Backend
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.decoding.measure import Question, Track
from hetspec_core.engine.stages.inputs import MeasuredPrompts
from hetspec_core.errors import ModelError
from hetspec_core.events.results import BatchResult, PlainResult, ServedBy, TreeResult


@dataclass(frozen=True)
class BenchFigures:
    """The measurements of a backend for a bench.

    Attributes:
        plain: plain decoding; None at a server that always drafts.
        trees: one record per tree.
        served: the server or engine.
        questions: the questions that were asked.
    """

    plain: PlainResult | None
    trees: list[TreeResult]
    served: ServedBy
    questions: list[Question]


class Measurement(ABC):
    """A backend under measurement; made from the context of the run and the open backend."""

    @abstractmethod
    def bench(self, prompts: MeasuredPrompts) -> BenchFigures:
        """Measure plain decoding and the trees of the run's spec.

        Raises:
            ModelError: the backend cannot decode with the draft.
            DataError: no prompt fits the context.
        """

    @abstractmethod
    def check(self, prompts: MeasuredPrompts, ways: Sequence[Track]) -> int:
        """Leave out the prompts that one of these ways cannot answer.

        Returns:
            Tokens of the context that prompt and answer may have.

        Raises:
            DataError: no prompt is left.
        """

    @abstractmethod
    def throughput(self, prompts: Sequence[list[int]], way: Track, size: int, *, warmup: int) -> BatchResult:
        """Answer all prompts, `size` requests at once."""


def measurement_of(context: RunContext, backend: Backend) -> Measurement:
    """The measurement of the run's backend.

    Raises:
        NotFoundError: the card of the backend names none.
    """
    return load_card("backends", context.spec.backend).load_capability("measurement")(context, backend)


def draft_folder(context: RunContext) -> str:
    """Directory of the run's draft; empty for plain decoding; the URL of a running server for the server's own draft.

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
def open_backend(context: RunContext) -> Iterator[Backend]:
    """The backend of the run's spec over the run's base; it is closed with the block.

    Exports are written into the run folder outside its checkpoints, logs into its `logs`, and the progress of a start
    into its journal.
    """
    spec = context.spec
    backend: Backend = load_card("backends", spec.backend).load()()
    section = getattr(spec, spec.backend, None)  # a backend with options has a section of its name
    backend.configure({} if section is None else section.model_dump(mode="json"))
    backend.use_folders(context.paths.folder / spec.backend, context.paths.logs)
    backend.on_progress = lambda label, done: context.prepare("start server", done, label)
    backend.stop_asked = context.cancelled.is_set
    try:
        backend.open(spec.base, spec.resources)
        yield backend
    finally:
        backend.close()
