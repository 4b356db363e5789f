"""The fast decoder: cycles over tables of fixed shape, captured as CUDA graphs and replayed.

A program holds the tables of a batch size and a capacity, and the graph of one cycle (propose, verify, commit) or of
one plain step. Replaying it costs one launch; what it did is copied to the host asynchronously and read one cycle late,
so that host and device work at the same time. Rows that end are noticed one cycle late, and what they got too much is
cut off. The tokens are those of the reference: both run `rows.SpeculativeRows` and `rows.PlainRows`.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from hetspec_core.engine.decoding.answers import BatchAnswers
from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotTables
from hetspec_core.engine.decoding.plain import write_answers
from hetspec_core.engine.decoding.programs import (
    Cycle,
    ReplayedRows,
    ended_by_signals,
    out_of_memory,
    reason_of,
    told_seconds,
)
from hetspec_core.engine.decoding.prompts import FEWEST_PREFILLED
from hetspec_core.engine.decoding.rows import PlainRows, SpeculativeRows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.experts import prepare_experts
from hetspec_core.engine.modeling.fusion import join_projections
from hetspec_core.errors import Cancelled
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

_KEPT_PROGRAMS = 16
_OUTGROWN_SHARE = 0.15  # of the base's weights: what tables that longer ones have replaced may take
_COMPILED_BUCKET = 1024  # the smallest one of compiled programs: to compile one more costs more than it saves
_BUCKETS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
_BUCKET_STEP = 2048  # beyond the last one


def bucket(length: int) -> int:
    """The capacity of tables for rows of at most `length` tokens: few capacities, so that programs are used again."""
    for size in _BUCKETS:
        if length <= size:
            return size
    return -(-length // _BUCKET_STEP) * _BUCKET_STEP


class FastDecoder(Decoder):
    """Decodes by replaying programs; they are kept for the next batch of the same size and capacity.

    Args:
        base: the model, whole on one device.
        graphs: capture CUDA graphs; None = on a CUDA device. Without them the same programs run as they are.
        compiled: fuse the programs with `torch.compile`, which takes half a minute for each.
    """

    name = "fast"

    def __init__(self, base: BaseLM, *, graphs: bool | None = None, compiled: bool = False) -> None:
        super().__init__(base)
        graphs = base.device.type == "cuda" if graphs is None else graphs
        self._pool = torch.cuda.graph_pool_handle() if graphs else None
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()
        # By batch size and model. Programs run one at a time, and each begins with a prefill.
        self._tables: WeakKeyDictionary[object, dict[int, SlotTables]] = WeakKeyDictionary()
        self._compiled = compiled
        self._refused: set[Hashable] = set()
        self._most_programs = _KEPT_PROGRAMS
        self._tight = False  # whether tables are as long as the rows of a batch, in place of the next bucket
        # The address of a draft that is gone may be that of the next one; these numbers are never given again.
        self._drafts: WeakKeyDictionary[DraftLM, int] = WeakKeyDictionary()
        self._numbers = itertools.count()
        self._most_outgrown = int(_OUTGROWN_SHARE * sum(weight.nbytes for weight in base.model.parameters()))
        self._reference = ReferenceDecoder(base)
        join_projections(base.decoder)
        prepare_experts(base.decoder)

    @torch.inference_mode()
    def generate(
        self,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        draft: DraftLM | None = None,
        *,
        listener: Listener = SILENT,
        most_per_step: int | None = None,
    ) -> list[Completion]:
        """As in `Decoder`."""
        if not prompts:
            return []
        answers = BatchAnswers(self.base, prompts, decoding, listener)
        if draft is None or decoding.plain:
            if not self._plain(prompts, decoding, answers):
                return self._reference.generate(prompts, decoding, listener=listener)
            return answers.completions
        draft, phased = proposing_draft(self.base, draft, decoding), listener.clock is not None
        cycle = self._cycle(draft, len(prompts), answers.length, decoding, most_per_step, phased)
        if cycle is None:
            return self._reference.generate(prompts, decoding, draft, listener=listener, most_per_step=most_per_step)
        rows = cycle.rows
        rows.sampler.reseed(decoding.sampling.seed, list(range(len(prompts))))
        kept = answers.take_held(prompts, *cycle.caches) if self.keep_prefixes else None
        if kept is None:
            cycle.prefills.prepare(prompts)
        started = time.perf_counter()
        with listener.phase("prefill"):
            _read(rows, prompts, lambda: rows.prefill(prompts, kept))
        answers.take_first(rows.root.tolist(), time.perf_counter() - started)
        listener.lap()()
        pending, active = None, answers.active
        while not answers.done and not answers.stop():
            if active != answers.active:
                active = answers.active
                rows.active.copy_(torch.tensor(active))
            read = cycle.launch(listener)
            if pending is not None:
                facts = pending()
                answers.take_cycle(facts.packed, time.perf_counter() - started, facts.phases, facts.trees)
            pending = read
        if self.keep_prefixes:
            answers.hold(prompts, *cycle.caches)
        return answers.completions

    @torch.inference_mode()
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

        def rows_for(num_rows: int, length: int) -> PlainRows:
            rows = self._rows(num_rows, length, sampling)
            if rows is None:
                return PlainRows(self.base, num_rows, length, sampling)
            rows.cache.clear()
            return rows

        yield from write_answers(
            self.base,
            rows_for,
            prompts,
            max_new_tokens,
            batch_size,
            seed_of,
            stop_ids=stop_ids,
            max_length=max_length,
        )

    def _plain(self, prompts: list[list[int]], decoding: DecodingSpec, answers: BatchAnswers) -> bool:
        rows = self._rows(len(prompts), answers.length, decoding.sampling)
        if rows is None:
            return False
        numbers = list(range(len(prompts)))
        kept = answers.take_held(prompts, rows.cache) if self.keep_prefixes else None
        if kept is None:
            rows.prefills.prepare(prompts)
        started = time.perf_counter()
        first = _read(rows, prompts, lambda: rows.admit(numbers, prompts, numbers, kept))
        answers.take_first(first, time.perf_counter() - started)
        pending = None
        while not answers.done and not answers.stop():
            rows.advance()
            read = rows.copy.start()
            if pending is not None:
                self._take(answers, pending(), started)
            pending = read
        if self.keep_prefixes:
            answers.hold(prompts, rows.cache)
        return True

    @property
    def compiled(self) -> bool:
        """Whether programs are compiled; no longer where a compiler failed."""
        return self._compiled

    @staticmethod
    def _take(answers: BatchAnswers, tokens: list[int], started: float) -> None:
        elapsed_s = time.perf_counter() - started
        for row, token in enumerate(tokens):
            answers.take_token(row, token, elapsed_s)

    @property
    def used(self) -> str:
        """As in `Decoder`."""
        return self._reference.name if self._refused else self.name

    def forget(self, draft: DraftLM) -> None:
        """As in `Decoder`."""
        for key, program in list(self._programs.items()):
            if isinstance(program, Cycle) and program.rows.draft.backbone is draft.backbone:
                del self._programs[key]

    # --- programs ----------------------------------------------------------------------------------------------------

    def _rows(self, num_rows: int, length: int, sampling: SamplingSpec) -> ReplayedRows | None:
        rows = self._kept(
            ("plain", num_rows, sampling.model_copy(update={"seed": 0})),
            length + 2,
            lambda capacity: ReplayedRows(
                self.base,
                num_rows,
                capacity,
                sampling,
                self._tables_for(self.base, num_rows),
                self._pool,
                self._compiled,
            ),
        )
        if rows is not None:
            rows.sampler.reseed(sampling.seed, [0] * num_rows)
        return rows

    def _cycle(
        self,
        draft: DraftLM,
        num_rows: int,
        length: int,
        decoding: DecodingSpec,
        most_per_step: int | None,
        phased: bool,
    ) -> Cycle | None:
        tree, sampling = decoding.tree, decoding.sampling
        if draft not in self._drafts:
            self._drafts[draft] = next(self._numbers)
        key = (self._drafts[draft], num_rows, tree, sampling.model_copy(update={"seed": 0}), most_per_step, phased)

        def make(capacity: int) -> Cycle:
            join_projections(draft.backbone)
            rows = SpeculativeRows(
                self.base,
                draft,
                num_rows,
                capacity,
                tree,
                sampling,
                most_per_step=most_per_step,
                fixed=True,
                fused=self._compiled and self.base.device.type == "cuda",
                tables=(self._tables_for(self.base, num_rows), self._tables_for(draft, num_rows)),
            )
            return Cycle(rows, self._pool, phased, self._compiled)

        return self._kept(key, length + self._overshoot(tree), make)

    def _tables_for(self, model: BaseLM | DraftLM, num_rows: int) -> SlotTables:
        return self._tables.setdefault(model, {}).setdefault(num_rows, SlotTables())

    def _capacity(self, length: int) -> int:
        if self._tight:
            return -(-length // SLOT_STEP) * SLOT_STEP
        return bucket(max(length, _COMPILED_BUCKET) if self._compiled else length)

    @staticmethod
    def _overshoot(tree: TreeSpec) -> int:
        """Tokens that a row may get after its last one, because its end is noticed one cycle late."""
        return tree.depth + 1

    def _kept(self, kind: Hashable, length: int, make: Callable[[int], Any]) -> Any | None:
        """The program of a kind for rows of a length, made if it is not there; None where it cannot be made.

        A notice says once what was given up: other programs, room for longer rows, or the fast decoder.
        """
        while True:
            capacity = self._capacity(length)
            key = (kind, capacity)
            if key in self._refused:
                return None
            program = self._programs.pop(key, None)
            try:
                self._programs[key] = program or self._make(lambda: make(capacity))  # noqa: B023 - called at once
                if program is None:
                    self._drop_outgrown()
                return self._programs[key]
            except Cancelled:
                raise
            except Exception as error:
                if self._lost(error):
                    raise
                full, reason = out_of_memory(error), reason_of(error)
                if self._pool is None and not full and not self._compiled:
                    raise
            # Behind the handler: the error holds the frames of what was half made, and with them its memory.
            if full:
                if self._make_room():
                    continue
                reason = "the device has no memory left for its tables"
            elif self._compiled:
                self.notice(f"decoding goes on without torch.compile: {reason}")
                self._compiled = False
                continue
            else:
                reason = f"its graph cannot be captured: {reason}"  # an operation that a graph cannot hold
            self._refused.add(key)
            self.notice(f"the reference decoder answers in place of the fast one: {reason}")
            return None

    def _make(self, make: Callable[[], Any]) -> Any:
        while len(self._programs) >= self._most_programs:
            self._programs.popitem(last=False)
        if not self._compiled:
            with torch.inference_mode():
                return make()
        program = f"program {len(self._programs) + 1}"
        with torch.inference_mode(), ended_by_signals(), told_seconds(lambda s: self.on_compile(program, s)):
            return make()

    def _drop_outgrown(self) -> None:
        """Give up the oldest programs over tables that longer ones have replaced, while such tables take much."""
        for key, program in list(self._programs.items()):
            held: dict[int, int] = {}
            for each in self._programs.values():
                for cache in each.caches:
                    held |= cache.outgrown
            if sum(held.values()) <= self._most_outgrown:
                return
            if any(cache.outgrown for cache in program.caches):
                del self._programs[key]

    def _make_room(self) -> bool:
        """Give something up that takes memory; False when there is nothing left."""
        if self._programs:
            self._most_programs = max(1, len(self._programs) // 2)
            self.notice(
                f"the device has no memory left for {len(self._programs) + 1} programs of the fast decoder: "
                f"it keeps at most {self._most_programs} from now on"
            )
        elif not self._tight:
            self._tight = True
            self.notice("the device is short of memory: the tables of the fast decoder get no room for longer answers")
        else:
            return False
        self._free()
        return True

    def _free(self) -> None:
        self._programs.clear()
        self._tables.clear()
        gc.collect()
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _lost(self, error: Exception) -> bool:
        """Whether the device does not compute any more, so that no other decoder can go on either."""
        if self.base.device.type == "cpu" or out_of_memory(error):
            return False
        try:
            torch.zeros(1, device=self.base.device).item()
        except RuntimeError:
            return True
        return False


def _read(rows: SpeculativeRows | PlainRows, prompts: list[list[int]], read: Callable[[], Result]) -> Result:
    """Read prompts into rows, in smaller parts where the device has no memory left for those that were meant."""
    while True:
        try:
            return read()
        except RuntimeError as error:
            if not out_of_memory(error) or rows.most_prefilled <= FEWEST_PREFILLED * len(prompts):
                raise
        rows.most_prefilled = min(rows.most_prefilled, len(prompts) * max(map(len, prompts))) // 2
        gc.collect()
