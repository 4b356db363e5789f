"""Capture: run token sequences through the base and hand its hidden states to a writer that works at the same time.

Sequences of like length share a right-padded batch (causal attention never looks at the padding), the head of the base
is never computed, padding is taken out on the device, and conversion, copying and writing overlap the next forward.
It knows the base by its forward only, and the store by its writer.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from hetspec_core.engine.data.hidden_states import STORE_DTYPES, HiddenStateWriter
from hetspec_core.engine.data.items import CaptureItem
from hetspec_core.engine.data.shards import Sample

_QUEUED_BATCHES = 4  # computed and not yet taken by the writer; more would only take memory
_ORDER_SEED = 0


class CapturedOutput(Protocol):
    """What a forward gives: final states [B, T, H] and those of further layers."""

    @property
    def hidden(self) -> Tensor: ...
    @property
    def layers(self) -> dict[int, Tensor]: ...


class CapturableBase(Protocol):
    """What capture needs of a base."""

    @property
    def device(self) -> torch.device: ...
    def forward(self, input_ids: Tensor, *, layers: tuple[int, ...] = ()) -> CapturedOutput: ...


def plan_capture(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Batches of sample numbers: sorted by length, rows times the longest within `tokens_per_batch` (or one row).

    The batches come in random order (always the same), so that every shard has samples of all lengths and the time
    that is left can be told from the time that is gone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    random.Random(_ORDER_SEED).shuffle(batches)
    return batches


@torch.inference_mode()
def capture(
    base: CapturableBase,
    items: Sequence[CaptureItem],
    writer: HiddenStateWriter,
    *,
    tokens_per_batch: int,
    on_batch: Callable[[int, int], None] = lambda samples, tokens: None,
) -> None:
    """Run items through the base and add them to the store.

    Args:
        base: the model.
        items: what is to be captured; none may be in the store already.
        writer: the store; its identity says which layers and which number type.
        tokens_per_batch: most tokens of a padded batch.
        on_batch: called after each forward with (samples, tokens) of the batch. It may raise to stop; what was captured
            by then is written.

    Raises:
        ResourceError: the disk is full; what was written before is intact.
    """
    identity = writer.manifest.identity
    pin = base.device.type == "cuda"
    side = torch.cuda.Stream(base.device) if pin else None
    with BackgroundWriter(writer) as background:
        for numbers in plan_capture([len(item.input_ids) for item in items], tokens_per_batch):
            batch = [items[number] for number in numbers]
            ids, rows = _pad(batch, pin)
            output = base.forward(ids.to(base.device, non_blocking=pin), layers=identity.layers)
            rows = rows.to(base.device, non_blocking=pin)
            packed = {
                layer: _pack(state, rows, STORE_DTYPES[identity.dtype])
                for layer, state in [
                    (None, output.hidden),
                    *((layer, output.layers[layer]) for layer in identity.layers),
                ]
            }
            background.put(_to_host(batch, packed, side))
            on_batch(len(batch), sum(len(item.input_ids) for item in batch))


@dataclass(frozen=True)
class _Job:
    """A batch on its way to the disk.

    Attributes:
        batch: its items.
        states: [sum of lengths, H] on the host by layer; None is the final state.
        ready: set on the device when the copy is done; None on a CPU.
    """

    batch: list[CaptureItem]
    states: dict[int | None, Tensor]
    ready: Any

    def samples(self) -> list[Sample]:
        if self.ready is not None:
            self.ready.synchronize()
        found: list[Sample] = []
        start = 0
        for item in self.batch:
            rows = slice(start, start + len(item.input_ids))
            start = rows.stop
            found.append(
                Sample(
                    id=item.id,
                    input_ids=torch.tensor(item.input_ids, dtype=torch.int32),
                    assistant_mask=torch.tensor(item.assistant_mask),
                    hidden=self.states[None][rows],
                    layers={layer: state[rows] for layer, state in self.states.items() if layer is not None},
                )
            )
        return found


class BackgroundWriter:
    """Adds batches to a store in a thread of its own; its errors come out at the next `put`, or at the end.

    On leaving the block without an error everything is written. On leaving it with one, what was captured is written
    as well if it can be, and the error goes on.
    """

    def __init__(self, writer: HiddenStateWriter) -> None:
        self._writer = writer
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="hidden-state-writer", daemon=True)

    def put(self, job: _Job) -> None:
        """Hand over a batch; waits while too many are queued.

        Raises:
            ResourceError: the disk is full (or whatever else the writer met).
        """
        self._raise_error()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that nobody waits for ever
            try:
                for sample in job.samples():
                    self._writer.add(sample)
            except BaseException as error:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if kind is None:
            self._raise_error()
        if self._error is None:
            self._writer.flush()


def _pad(batch: Sequence[CaptureItem], pin: bool) -> tuple[Tensor, Tensor]:
    """Token ids [B, T], padded on the right with 0, and the flat numbers of the places that are no padding."""
    lengths = torch.tensor([len(item.input_ids) for item in batch])
    longest = int(lengths.max())
    ids = torch.zeros(len(batch), longest, dtype=torch.int64, pin_memory=pin)
    for row, item in enumerate(batch):
        ids[row, : len(item.input_ids)] = torch.tensor(item.input_ids)
    rows = (torch.arange(longest) < lengths[:, None]).flatten().nonzero().flatten()
    return ids, rows.pin_memory() if pin else rows


def _pack(state: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, T, H] -> [number of rows, H] of another type, without padding."""
    return state.flatten(0, 1).index_select(0, rows).to(dtype)


def _to_host(batch: list[CaptureItem], packed: dict[int | None, Tensor], side: Any) -> _Job:
    """Start copying to pinned memory on a stream of its own, so that the next forward need not wait."""
    if side is None:
        return _Job(batch, packed, None)
    side.wait_stream(torch.cuda.current_stream(side.device))
    states: dict[int | None, Tensor] = {}
    with torch.cuda.stream(side):
        for layer, state in packed.items():
            states[layer] = torch.empty(state.shape, dtype=state.dtype, pin_memory=True)
            states[layer].copy_(state, non_blocking=True)
            state.record_stream(side)
        ready = torch.cuda.Event()
        ready.record(side)
    return _Job(batch, states, ready)
