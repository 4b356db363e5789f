"""The stream of micro-batches: one optimiser step at a time, from any position, prepared during the steps before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hetspec_core.engine.data.batches import Batch, BatchPlan, MaskKind, make_batch
from hetspec_core.engine.data.hidden_states import SampleStore
from hetspec_core.spec import TrainingSpec


@dataclass(frozen=True)
class Position:
    """Position of the stream: the next micro-batch.

    Attributes:
        epoch: number of the pass over the data, from 0.
        index: micro-batch within this rank's share of the pass.
    """

    epoch: int = 0
    index: int = 0


@dataclass(frozen=True)
class StepBatches:
    """All micro-batches of one optimiser step on this rank.

    Attributes:
        batches: on the device.
        num_tokens: valid positions in them.
        shortest, longest: tokens of the shortest and of the longest sample.
        after: position after them.
    """

    batches: tuple[Batch, ...]
    num_tokens: int
    shortest: int
    longest: int
    after: Position


class BatchFeed:
    """The micro-batches of a run, step by step, over any number of epochs.

    Args:
        store: where samples are.
        samples: those to train on.
        spec: seed of the order, size and number of micro-batches, and the length that samples are cut to.
        mask_kind: which token must be the assistant's.
        layers: captured layers that are read in addition to the final states.
        device: of the batches.
        world_size, rank: of the ranks that share the work.
        position: of the first micro-batch.
    """

    def __init__(
        self,
        store: SampleStore,
        samples: Sequence[int],
        spec: TrainingSpec,
        *,
        mask_kind: MaskKind,
        layers: tuple[int, ...] = (),
        device: torch.device,
        world_size: int = 1,
        rank: int = 0,
        position: Position | None = None,
    ) -> None:
        self._store = store
        self._samples = list(samples)
        self._lengths = [min(store.lengths[index], spec.max_length) for index in self._samples]
        self._mask_kind: MaskKind = mask_kind
        self._layers = layers
        self._device = device
        self._spec = spec
        self._world_size, self._rank = world_size, rank
        self._plan: tuple[int, BatchPlan] | None = None
        self._next = position or Position()
        # Padding and pinning a batch takes longer than a step on a GPU, so several readers work ahead. A CPU is busy.
        self._ahead = 3 if device.type == "cuda" else 1
        self._readers = ThreadPoolExecutor(max_workers=self._ahead, thread_name_prefix="batches")
        self._coming: deque[Future[StepBatches]] = deque()

    def plan(self, epoch: int) -> BatchPlan:
        """The micro-batches of a pass on this rank."""
        if self._plan is None or self._plan[0] != epoch:
            plan = BatchPlan(
                self._lengths,
                seed=self._spec.seed,
                epoch=epoch,
                tokens_per_batch=self._spec.tokens_per_batch,
                world_size=self._world_size,
                rank=self._rank,
            )
            self._plan = epoch, plan
        return self._plan[1]

    def next_step(self) -> StepBatches:
        """The micro-batches of the next step; those of later steps are prepared in the background.

        Raises:
            CorruptFileError: a shard cannot be read.
        """
        while len(self._coming) < 1 + self._ahead:
            parts, self._next = self._cut_step(self._next)
            self._coming.append(self._readers.submit(self._load, parts, self._next))
        return self._coming.popleft().result()

    def samples_between(self, start: Position, end: Position) -> Iterator[int]:
        """Numbers in the store of this rank's samples between two positions."""
        while (start.epoch, start.index) < (end.epoch, end.index):
            plan = self.plan(start.epoch)
            if start.index < len(plan):
                yield from (self._samples[number] for number in plan[start.index])
            last = start.index + 1 >= len(plan)
            start = Position(start.epoch + 1, 0) if last else Position(start.epoch, start.index + 1)

    @property
    def store(self) -> SampleStore:
        return self._store

    def close(self) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)

    def _cut_step(self, position: Position) -> tuple[list[_Part], Position]:
        """The samples of the micro-batches of a step, and the position after them."""
        parts: list[_Part] = []
        for _ in range(self._spec.gradient_accumulation):
            plan = self.plan(position.epoch)
            parts.append(_Part(plan[position.index], filler=plan.is_filler(position.index)))
            last = position.index + 1 == len(plan)
            position = Position(position.epoch + 1, 0) if last else Position(position.epoch, position.index + 1)
        return parts, position

    def _load(self, parts: list[_Part], after: Position) -> StepBatches:
        batches = tuple(
            make_batch(
                [self._store[self._samples[number]] for number in part.numbers],
                mask_kind=self._mask_kind,
                layers=self._layers,
                device=self._device,
                max_length=self._spec.max_length,
                supervised=not part.filler,
            )
            for part in parts
        )
        lengths = [self._lengths[number] for part in parts if not part.filler for number in part.numbers]
        return StepBatches(
            batches=batches,
            num_tokens=sum(lengths) - len(lengths),
            shortest=min(lengths, default=0),
            longest=max(lengths, default=0),
            after=after,
        )


@dataclass(frozen=True)
class _Part:
    """Samples of one micro-batch; a filler only keeps this rank in step with the others."""

    numbers: list[int]
    filler: bool
