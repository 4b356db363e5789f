"""Decoding with `tree = auto`: measure what cycles cost here, follow what is accepted, take the shape that pays.

Costs are the times of whole cycles and of plain steps of the decoder that answers, by batch size. They are measured
once on a machine, in seconds, and kept in a file; the times of real answers correct them. What is not taken is compared
now and then: plain steps are timed behind an answer with a tree, and some answers of plain decoding get a tree. Where
programs are compiled, which takes longer, costs are measured on programs that are not: the choice needs ratios only.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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

PROBE_EVERY = 16  # answers, after which what is not taken is compared again
_WARM_UP, _MEASURED, _ROUNDS = 2, 4, 2  # steps of every shape in a round
_PROMPT_TOKENS = 64
_VERSION = 2


@dataclass
class _Known:
    """What is known of a draft.

    Attributes:
        model: of what is accepted.
        costs: by batch size.
        written: by batch size, the costs that the file holds.
        unseen: by batch size, answers since what was not taken was last compared.
        told: the choice that was told last.
    """

    model: AcceptanceModel = field(default_factory=AcceptanceModel)
    costs: dict[int, CycleCosts] = field(default_factory=dict)
    written: dict[int, CycleCosts] = field(default_factory=dict)
    unseen: dict[int, int] = field(default_factory=dict)
    told: str = ""


class ChoosingDecoder(Decoder):
    """Answers through another decoder; it turns `tree = auto` into a shape or plain decoding for each call.

    Args:
        inner: decodes.
        machine: what its times depend on besides the models: processor, threads, versions.
        folder: of the files of costs; None = they are measured by every process.
        clock: seconds.

    Attributes:
        on_choice: told of a choice that differs from the one before.
        on_measure: told the shape that is timed next, and the share of the measurement that is done.
    """

    def __init__(
        self,
        inner: Decoder,
        machine: str,
        folder: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._inner, self._machine, self._folder, self._clock = inner, machine, folder, clock
        self.on_choice: Callable[[TreeChoice], None] = lambda choice: None
        self.on_measure: Callable[[str, float], None] = lambda shape, done: None
        self._known: WeakKeyDictionary[DraftLM, _Known] = WeakKeyDictionary()
        self.on_notice = self.on_compile = lambda *_: None
        inner.on_notice = lambda notice: self.on_notice(notice)
        inner.on_compile = lambda program, seconds: self.on_compile(program, seconds)

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
            self._inner.keep_prefixes = self.keep_prefixes
            return self._inner.generate(prompts, decoding, draft, listener=listener, most_per_step=most_per_step)
        draft = proposing_draft(self.base, draft, decoding)
        choice = self.choose(draft, decoding, prompts, listener)
        if choice is None:  # the listener asked for the end
            return self._inner.generate(prompts, decoding.model_copy(update={"plain": True}), listener=listener)
        known, shape = self._known[draft], choice.shape
        unseen = known.unseen[len(prompts)] = known.unseen.get(len(prompts), 0) + 1
        if shape is None and unseen >= PROBE_EVERY:
            shape = choice.best
            known.unseen[len(prompts)] = 0
        way = decoding.model_copy(update={"plain": True} if shape is None else {"tree": shape})
        self._inner.keep_prefixes = self.keep_prefixes
        answers = self._inner.generate(prompts, way, draft, listener=listener)
        self._learn(draft, decoding, shape, answers)
        if choice.shape is not None and not listener.stop_asked():
            self._compare(draft, decoding, prompts, listener)
        for answer in answers:
            answer.tree = "plain" if shape is None else shape.label
            answer.predicted_speedup = choice.predicted_speedup
        return answers

    def choose(
        self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]], listener: Listener = SILENT
    ) -> TreeChoice | None:
        """What `auto` takes for a batch of prompts; a choice that is new is told.

        Returns:
            None where the listener asked for the end while shapes were timed.
        """
        shapes = shapes_within(decoding.tree, draft.vocab_size)
        costs = self._costs_of(draft, decoding, prompts, shapes, listener)
        if costs is None:
            return None
        known = self._known[draft]
        found = choose(costs, known.model, shapes)
        if known.told != found.label:
            known.told = found.label
            self.on_choice(found)
        return found

    def predict(
        self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]], shapes: Sequence[TreeSpec]
    ) -> dict[str, float]:
        """Speed-up over plain decoding of each shape, as `auto` expects it; shapes that are new here are timed first.

        Args:
            draft: proposes.
            decoding: draft vocabulary and sampling.
            prompts: token ids; their number is the batch size.
            shapes: named ones.
        """
        draft = proposing_draft(self.base, draft, decoding)
        costs = self._costs_of(draft, decoding, prompts, shapes, SILENT)
        if costs is None:
            return {}
        model = self._of(draft).model
        return {shape.label: choose(costs, model, [shape]).predicted_speedup for shape in shapes}

    def _of(self, draft: DraftLM) -> _Known:
        """What is known of a draft: at first, what its training simulated."""
        known = self._known.get(draft)
        if known is None:
            known = self._known[draft] = _Known()
            known.model.start_from(draft.acceptance_rates)
        return known

    def _learn(
        self, draft: DraftLM, decoding: DecodingSpec, shape: TreeSpec | None, answers: Sequence[Completion]
    ) -> None:
        known = self._known[draft]
        longest = max(answers, key=lambda answer: answer.total_s)
        if shape is None:
            count, label = max(len(answer.tokens) for answer in answers) - 1, "plain"
        else:
            count, label = max(len(answer.steps) for answer in answers), shape.label
            for answer in answers:
                known.model.learn(shape, answer.steps)
        if count >= _MEASURED and longest.decode_s > 0:
            self._correct(draft, decoding, len(answers), label, longest.decode_s / count)

    def _compare(self, draft: DraftLM, decoding: DecodingSpec, prompts: list[list[int]], listener: Listener) -> None:
        """Time plain steps behind an answer with a tree, off the record: behind the first one, then now and then."""
        known, rows = self._known[draft], len(prompts)
        first = not known.costs[rows].seen("plain") and not self._compiles
        if known.unseen[rows] < PROBE_EVERY and not first:
            return
        known.unseen[rows] = 0
        seconds = self._time(self._inner, draft, prompts, self._off_record(decoding, None), listener)
        if seconds is not None and math.isfinite(seconds):
            self._correct(draft, decoding, rows, "plain", seconds)

    def _correct(self, draft: DraftLM, decoding: DecodingSpec, rows: int, label: str, seconds: float) -> None:
        known = self._known[draft]
        costs = known.costs[rows]
        costs.correct(label, seconds)
        corrected = costs.corrected()
        if corrected is not None and corrected.differs(known.written.get(rows, costs)):
            self._keep(draft, decoding, rows, corrected)

    @property
    def _compiles(self) -> bool:
        return isinstance(self._inner, FastDecoder) and self._inner.compiled

    # --- costs -------------------------------------------------------------------------------------------------------

    def _costs_of(
        self,
        draft: DraftLM,
        decoding: DecodingSpec,
        prompts: list[list[int]],
        shapes: Sequence[TreeSpec],
        listener: Listener,
    ) -> CycleCosts | None:
        """The costs of a batch size; shapes that they lack are timed, unless the listener asks for the end."""
        known, rows = self._of(draft).costs, len(prompts)
        file = self._file(draft, decoding, rows)
        if rows not in known and file is not None and (read := _read(file)) is not None:
            known[rows] = read
        costs = known.get(rows)
        missing = [shape for shape in shapes if costs is None or shape.label not in costs.cycle_s]
        if missing:
            found = self._measure(draft, decoding, prompts, missing, listener)
            if found is None:
                return None
            costs = known[rows] = found if costs is None else costs.joined(found)
            self._keep(draft, decoding, rows, costs)
        return costs

    def _keep(self, draft: DraftLM, decoding: DecodingSpec, rows: int, costs: CycleCosts) -> None:
        """Write costs for the processes to come, unless the machine was disturbed."""
        file = self._file(draft, decoding, rows)
        if file is None or not costs.plausible([TreeSpec.parse(label) for label in costs.cycle_s]):
            return
        self._known[draft].written[rows] = costs
        write_atomic(file, json.dumps({"version": _VERSION, "plain_s": costs.plain_s, "cycle_s": costs.cycle_s}))

    def _file(self, draft: DraftLM, decoding: DecodingSpec, rows: int) -> Path | None:
        if self._folder is None:
            return None
        base = self.base
        facts = (
            self._machine,
            self.name,
            self._compiles,
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
        self,
        draft: DraftLM,
        decoding: DecodingSpec,
        prompts: list[list[int]],
        shapes: Sequence[TreeSpec],
        listener: Listener,
    ) -> CycleCosts | None:
        """Seconds of a plain step and of a cycle of every shape, behind the ends of the prompts.

        The shortest of several counts, in two rounds: what disturbs a measurement makes it longer. None where the
        listener asked for the end.
        """
        inner = FastDecoder(self.base) if self._compiles else self._inner
        ways = {"plain" if shape is None else shape.label: shape for shape in (None, *shapes)}
        found: dict[str, float] = {}
        for number in range(_ROUNDS):
            for index, (label, shape) in enumerate(ways.items()):
                self.on_measure(label, (number * len(ways) + index) / (_ROUNDS * len(ways)))
                seconds = self._time(inner, draft, prompts, self._off_record(decoding, shape), listener)
                if seconds is None:
                    return None
                found[label] = min(seconds, found.get(label, float("inf")))
        self.on_measure("", 1.0)
        return CycleCosts(found.pop("plain"), found)

    @staticmethod
    def _off_record(decoding: DecodingSpec, shape: TreeSpec | None) -> DecodingSpec:
        """Settings of an answer of just so many steps as are timed, plainly or with a shape."""
        count = _WARM_UP + _MEASURED + 1
        if shape is None:
            return decoding.model_copy(update={"ignore_eos": True, "plain": True, "max_new_tokens": count + 1})
        most = 1 + count * (shape.depth + 1)
        return decoding.model_copy(update={"ignore_eos": True, "tree": shape, "max_new_tokens": most})

    def _time(
        self, inner: Decoder, draft: DraftLM, prompts: list[list[int]], way: DecodingSpec, listener: Listener
    ) -> float | None:
        """Seconds of a step; None where the listener asked for the end."""
        laps = _Laps(self._clock, listener)
        inner.keep_prefixes = False
        inner.generate([prompt[-_PROMPT_TOKENS:] for prompt in prompts], way, draft, listener=laps)
        return None if laps.stopped else laps.shortest_s


class _Laps(Listener):
    """Times the steps of row 0 and ends the answer when there are enough, or when another listener asks for the end.

    Attributes:
        stopped: whether it did.
    """

    def __init__(self, clock: Callable[[], float], other: Listener) -> None:
        self._clock, self._other = clock, other
        self._times: list[float] = []
        self.stopped = False

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        if row == 0:
            self._times.append(self._clock())

    def on_step(self, row: int, step: Step) -> None:
        self.on_tokens(row, step.committed)

    def stop_asked(self) -> bool:
        self.stopped = self.stopped or self._other.stop_asked()
        return self.stopped or len(self._times) > _WARM_UP + _MEASURED

    @property
    def shortest_s(self) -> float:
        """Shortest time between two steps after the first ones; of all where the context ended before."""
        laps = [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
        return min(laps[_WARM_UP:] or laps or [float("inf")])


def _read(file: Path) -> CycleCosts | None:
    """The costs of a file; None where it is not there or damaged."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        times = {TreeSpec.parse(label).label: float(seconds) for label, seconds in data["cycle_s"].items()}
        plain_s = float(data["plain_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    usable = (
        data.get("version") == _VERSION and bool(times) and all(0 < each < 1e4 for each in (plain_s, *times.values()))
    )
    return CycleCosts(plain_s, times) if usable else None
