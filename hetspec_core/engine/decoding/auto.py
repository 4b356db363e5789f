"""Decoding with `tree = auto`: measure what cycles cost here, follow what is accepted, take the shape that pays.

Costs are the times of whole cycles and of plain steps of the decoder that answers, by batch size. They are measured
once on a machine, in seconds, and kept in a file; the times of real answers correct them. Where programs are compiled,
which takes longer, they are measured on programs that are not: the choice needs their ratios only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener
from hetspec_core.engine.decoding.decoder import Decoder
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.chat import Step
from hetspec_core.files import write_atomic
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from hetspec_core.tree_choice import AcceptanceModel, CycleCosts, TreeChoice, choose, shapes_within

Key = TypeVar("Key", bound=Hashable)

PROBE_EVERY = 16  # answers of plain decoding, after which one shows again what a tree would bring
_WARM_UP, _MEASURED, _ROUNDS = 2, 4, 2  # steps of every shape in a round
_PROMPT_TOKENS = 64
_VERSION = 1


class ChoosingDecoder(Decoder):
    """Answers through another decoder; it turns `tree = auto` into a shape or plain decoding for each call.

    Args:
        inner: decodes.
        machine: what its times depend on besides the models: processor, threads, versions.
        folder: of the files of costs; None = they are measured by every process.

    Attributes:
        on_choice: told of a choice that differs from the one before.
        on_measure: told the shape that is timed next.
    """

    def __init__(self, inner: Decoder, machine: str, folder: Path | None = None) -> None:
        self._inner, self._machine, self._folder = inner, machine, folder
        self.on_choice: Callable[[TreeChoice], None] = lambda choice: None
        self.on_measure: Callable[[str], None] = lambda shape: None
        self._models: WeakKeyDictionary[DraftLM, AcceptanceModel] = WeakKeyDictionary()
        self._costs: WeakKeyDictionary[DraftLM, dict[int, CycleCosts]] = WeakKeyDictionary()
        self._last: WeakKeyDictionary[DraftLM, str] = WeakKeyDictionary()
        self._plain_answers = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the decoder that answers."""
        return self._inner.name

    @property
    def used(self) -> str:
        """As in `Decoder`."""
        return self._inner.used

    @property
    def base(self) -> BaseLM:  # type: ignore[override]
        """The model that decides."""
        return self._inner.base

    @property
    def why(self) -> str:  # type: ignore[override]
        """As in `Decoder`."""
        return self._inner.why

    @property
    def notices(self) -> list[str]:  # type: ignore[override]
        """As in `Decoder`."""
        return self._inner.notices

    def forget(self, draft: DraftLM) -> None:
        """As in `Decoder`."""
        self._inner.forget(draft)

    def write_answers(
        self,
        prompts: Iterable[tuple[Key, list[int]]],
        sampling: SamplingSpec,
        max_new_tokens: int,
        batch_size: int,
        seed_of: Callable[[Key], int] = lambda key: 0,
        *,
        stop_ids: frozenset[int] | None = None,
        max_length: int | None = None,
    ) -> Iterator[tuple[Key, list[int]]]:
        """As in `Decoder`."""
        return self._inner.write_answers(
            prompts, sampling, max_new_tokens, batch_size, seed_of, stop_ids=stop_ids, max_length=max_length
        )

    def generate(
        self,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        draft: DraftLM | None = None,
        *,
        listener: Listener = SILENT,
        most_per_step: int | None = None,
    ) -> list[Completion]:
        """As in `Decoder`; every completion says its shape."""
        if draft is None or decoding.plain or not decoding.tree.auto or most_per_step is not None or not prompts:
            return self._inner.generate(prompts, decoding, draft, listener=listener, most_per_step=most_per_step)
        draft = proposing_draft(self.base, draft, decoding)
        choice = self.choose(draft, decoding, prompts)
        shape = choice.shape
        if shape is None:
            self._plain_answers += 1
            if self._plain_answers % PROBE_EVERY == 0:
                shape = choice.best
        way = decoding.model_copy(update={"plain": True} if shape is None else {"tree": shape})
        answers = self._inner.generate(prompts, way, draft, listener=listener)
        self._learn(draft, shape, answers)
        for answer in answers:
            answer.tree = "plain" if shape is None else shape.label
            answer.predicted_speedup = choice.predicted_speedup
        return answers

    def choose(self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]]) -> TreeChoice:
        """What `auto` takes for a batch of prompts; a choice that is new is told."""
        costs = self._costs_of(draft, decoding, prompts)
        found = choose(costs, self._model_of(draft), shapes_within(decoding.tree, draft.vocab_size))
        if self._last.get(draft) != found.label:
            self._last[draft] = found.label
            self.on_choice(found)
        return found

    def _model_of(self, draft: DraftLM) -> AcceptanceModel:
        return self._models.setdefault(draft, AcceptanceModel())

    def _learn(self, draft: DraftLM, shape: TreeSpec | None, answers: Sequence[Completion]) -> None:
        costs = self._costs[draft][len(answers)]
        longest = max(answers, key=lambda answer: answer.total_s)
        if shape is None:
            count = max(len(answer.tokens) for answer in answers) - 1
            label = "plain"
        else:
            count, label = max(len(answer.steps) for answer in answers), shape.label
            for answer in answers:
                self._model_of(draft).learn(shape, answer.steps)
        if count >= _MEASURED and longest.decode_s > 0:
            costs.correct(label, longest.decode_s / count)

    # --- costs -------------------------------------------------------------------------------------------------------

    def _costs_of(self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]]) -> CycleCosts:
        known = self._costs.setdefault(draft, {})
        rows, shapes = len(prompts), shapes_within(decoding.tree, draft.vocab_size)
        if rows in known and all(shape.label in known[rows].cycle_s for shape in shapes):
            return known[rows]
        file = self._file(draft, decoding, rows)
        costs = None if file is None else _read(file, shapes)
        if costs is None:
            costs = self._measure(draft, decoding, prompts, shapes)
            if file is not None and costs.plausible(shapes):
                write_atomic(
                    file, json.dumps({"version": _VERSION, "plain_s": costs.plain_s, "cycle_s": costs.cycle_s})
                )
        known[rows] = costs
        return costs

    def _file(self, draft: DraftLM, decoding: DecodingSpec, rows: int) -> Path | None:
        if self._folder is None:
            return None
        base = self.base
        facts = (
            self._machine,
            self.name,
            base.fingerprint,
            str(base.dtype),
            repr(draft.backbone.config.to_dict()),
            type(draft.head).__name__,
            draft.head.passes,
            draft.num_parameters,
            draft.vocab_size,
            decoding.sampling.greedy,
            rows,
        )
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
        return self._folder / f"{digest}.json"

    def _measure(
        self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]], shapes: Sequence[TreeSpec]
    ) -> CycleCosts:
        """Seconds of a plain step and of a cycle of every shape, behind the ends of the prompts.

        The shortest of several counts, in two rounds: what disturbs a measurement makes it longer.
        """
        inner = self._inner
        if isinstance(inner, FastDecoder) and inner.compiled:
            inner = FastDecoder(inner.base)
        heads = [prompt[-_PROMPT_TOKENS:] for prompt in prompts]
        endless = decoding.model_copy(update={"ignore_eos": True})

        def seconds(way: DecodingSpec) -> float:
            laps = _Laps()
            inner.generate(heads, way, draft, listener=laps)
            return laps.shortest_s

        count = _WARM_UP + _MEASURED + 1
        ways = {"plain": endless.model_copy(update={"plain": True, "max_new_tokens": count + 1})}
        for shape in shapes:
            most = 1 + count * (shape.depth + 1)
            ways[shape.label] = endless.model_copy(update={"tree": shape, "max_new_tokens": most})
        found: dict[str, float] = {}
        for _ in range(_ROUNDS):
            for label, way in ways.items():
                self.on_measure(label)
                found[label] = min(seconds(way), found.get(label, float("inf")))
        return CycleCosts(found.pop("plain"), found)


class _Laps(Listener):
    """Times the steps of row 0 and ends the answer when there are enough."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        if row == 0:
            self._times.append(time.perf_counter())

    def on_step(self, row: int, step: Step) -> None:
        self.on_tokens(row, step.committed)

    def stop_asked(self) -> bool:
        return len(self._times) > _WARM_UP + _MEASURED

    @property
    def shortest_s(self) -> float:
        """Shortest time between two steps after the first ones; of all where the context ended before."""
        laps = [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
        return min(laps[_WARM_UP:] or laps or [float("inf")])


def _read(file: Path, shapes: Iterable[TreeSpec]) -> CycleCosts | None:
    """The costs of a file; None where it is not there, damaged, or has not all shapes."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        times = {str(label): float(seconds) for label, seconds in data["cycle_s"].items()}
        plain_s = float(data["plain_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    usable = data.get("version") == _VERSION and plain_s > 0 and all(0 < times.get(s.label, 0) < 1e4 for s in shapes)
    return CycleCosts(plain_s, times) if usable else None
