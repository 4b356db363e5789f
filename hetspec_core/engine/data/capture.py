"""Capture: run token sequences through the base, and store its hidden states in a thread of their own.

Sequences of similar length share a right-padded batch (causal attention never sees the padding). The head of the base
is not computed, padding is removed on the device, and conversion, copying and writing overlap the next forward.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hetspec_core.engine.data.hidden_states import STORE_DTYPES, HiddenStateWriter
from hetspec_core.engine.data.items import CaptureItem
from hetspec_core.engine.data.shards import Sample

_QUEUED_BATCHES = 4  # computed and not yet taken by the writer; more would only take memory
_ORDER_SEED = 0


class CapturedOutput(Protocol):
    """The output of a forward: final states [B, T, H] and those of further layers."""

    @property
    def hidden(self) -> Tensor: ...
    @property
    def layers(self) -> dict[int, Tensor]: ...


class CapturableBase(Protocol):
    """The part of a base that capture uses."""

    @property
    def device(self) -> torch.device: ...
    def forward(self, input_ids: Tensor, *, layers: tuple[int, ...] = ()) -> CapturedOutput:
        """States of [B, T] token ids, padded on the right."""
        ...


def plan_capture(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Batches of sample numbers: sorted by length, rows times the longest within `tokens_per_batch` (or one row).

    The batches come in a random but fixed order, so that every shard has samples of all lengths and the remaining time
    can be estimated from the time spent.
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
) -> dict[str, str]:
    """Run items through the base and add them to the store. A sample whose states are not finite is not stored.

    Args:
        base: the model.
        items: what is to be captured; none may be in the store already.
        writer: the store; its identity has the layers and the number type.
        tokens_per_batch: most tokens of a padded batch.
        on_batch: called after each forward with (samples, tokens) of the batch. It may raise to stop; all that was
            captured before is written.

    Returns:
        Id of each sample that was not stored -> where its first state is that is not finite.

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
            background.put(_to_host(batch, packed, _finite_rows(packed), side))
            on_batch(len(batch), sum(len(item.input_ids) for item in batch))
    return background.not_finite


@dataclass(frozen=True)
class _Job:
    """A batch on its way to the disk.

    Attributes:
        batch: its items.
        states: [sum of lengths, H] on the host by layer; None is the final state.
        finite: [sum of lengths] bool, whether all states of a token are finite.
        ready: set on the device when the copy is done; None on a CPU.
    """

    batch: list[CaptureItem]
    states: dict[int | None, Tensor]
    finite: Tensor
    ready: Any

    def samples(self) -> list[tuple[Sample, bool]]:
        """Each sample, and whether its states are finite."""
        if self.ready is not None:
            self.ready.synchronize()
        found: list[tuple[Sample, bool]] = []
        start = 0
        for item in self.batch:
            rows = slice(start, start + len(item.input_ids))
            start = rows.stop
            sample = Sample(
                id=item.id,
                input_ids=torch.tensor(item.input_ids, dtype=torch.int32),
                assistant_mask=torch.tensor(item.assistant_mask),
                hidden=self.states[None][rows],
                layers={layer: state[rows] for layer, state in self.states.items() if layer is not None},
            )
            found.append((sample, bool(self.finite[rows].all())))
        return found


class BackgroundWriter:
    """Adds batches to a store in a thread of its own; its errors are raised at the next `put`, or at the end.

    Leaving the block writes everything that was captured, also after an error where that is possible.

    Attributes:
        not_finite: id of each sample that was not written -> where a state of it is not finite.
    """

    def __init__(self, writer: HiddenStateWriter) -> None:
        self.not_finite: dict[str, str] = {}
        self._writer = writer
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_QUEUED_BATCHES)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="hidden-state-writer", daemon=True)

    def put(self, job: _Job) -> None:
        """Hand over a batch; waits while too many are queued.

        Raises:
            ResourceError: the disk is full; or any other error of the writer.
        """
        self._raise_error()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is not None:
                continue  # keep taking, so that `put` never blocks
            try:
                for sample, finite in job.samples():
                    if finite:
                        self._writer.add(sample)
                    else:
                        self.not_finite[sample.id] = sample.not_finite()
            except BaseException as error:
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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


def _finite_rows(packed: dict[int | None, Tensor]) -> Tensor:
    """[number of rows] bool: whether every state of the row is finite, after the conversion to the stored type."""
    return torch.stack([state.isfinite().all(-1) for state in packed.values()]).all(0)


def _to_host(batch: list[CaptureItem], packed: dict[int | None, Tensor], finite: Tensor, side: Any) -> _Job:
    """Start copying to pinned memory on a stream of its own, during the next forward."""
    if side is None:
        return _Job(batch, packed, finite, None)
    side.wait_stream(torch.cuda.current_stream(side.device))
    states: dict[int | None, Tensor] = {}
    with torch.cuda.stream(side):
        for layer, state in packed.items():
            states[layer] = torch.empty(state.shape, dtype=state.dtype, pin_memory=True)
            states[layer].copy_(state, non_blocking=True)
            state.record_stream(side)
        finite_here = torch.empty(finite.shape, dtype=finite.dtype, pin_memory=True)
        finite_here.copy_(finite, non_blocking=True)
        finite.record_stream(side)
        ready = torch.cuda.Event()
        ready.record(side)
    return _Job(batch, states, finite_here, ready)
