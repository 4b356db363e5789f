"""From stored samples to training batches: the one place where tokens, states and mask are shifted.

A draft at position t has the base's state f_t and the token x_{t+1} that the base chose after it. It must produce the
next state f_{t+1}, and through the head the distribution of x_{t+2} (EAGLE, arXiv 2401.15077, section 3.2). No other
module shifts anything.

A hand-worked example. "u" is a token of the user, "a" one of the assistant, "." the end of its turn:

    index i              0    1    2    3    4
    token x_i           u0   u1   a2   a3   .4
    assistant a_i        0    0    1    1    1
    state f_i           f0   f1   f2   f3   f4

    position t           0    1    2    3          (T - 1 positions: the last token has no successor)
    tokens   x_{t+1}    u1   a2   a3   .4
    features f_t        f0   f1   f2   f3
    targets  f_{t+1}    f1   f2   f3   f4
    predicts x_{t+2}    a2   a3   .4    -
    mask "predicted"     1    1    1    0          m_t = a_{t+2}: what the draft is asked for at inference
    mask "next"          0    1    1    1          m_t = a_{t+1}
    mask "input"         0    0    1    1          m_t = a_t
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hetspec_core.engine.data.hidden_states import Sample
from hetspec_core.errors import DataError

MaskKind = Literal["predicted", "input", "next"]
_SHIFT: dict[str, int] = {"input": 0, "next": 1, "predicted": 2}
_WINDOW_BATCHES = 64  # samples are sorted by length inside windows of about so many batches, not over the whole epoch


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right to the longest; T counts positions, one fewer than the longest sample's tokens.

    `features` and `targets` are views of one tensor, one position apart: add noise out of place.

    Attributes:
        tokens: [B, T] int64, x_{t+1}.
        features: [B, T, H], f_t.
        targets: [B, T, H], f_{t+1}.
        mask: [B, T] bool, positions that are supervised.
        valid: [B, T] bool, False on padding.
        positions: [B, T] int64, t.
        layers: further states [B, T, H] at t, by Hugging Face layer id.
    """

    tokens: Tensor
    features: Tensor
    targets: Tensor
    mask: Tensor
    valid: Tensor
    positions: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)

    @property
    def num_supervised(self) -> Tensor:
        """Supervised positions, a [] tensor on the batch's device (reading it waits for the device)."""
        return self.mask.sum()

    @property
    def num_tokens(self) -> int:
        """Positions of the padded batch: B * T."""
        return self.tokens.numel()


def make_batch(
    samples: Sequence[Sample],
    *,
    mask_kind: MaskKind = "predicted",
    layers: tuple[int, ...] | None = None,
    device: torch.device | str = "cpu",
    max_length: int | None = None,
    supervised: bool = True,
) -> Batch:
    """Shift, pad and move samples.

    Args:
        samples: at least one, of the same layers; each has at least two tokens.
        mask_kind: which token of a position must be the assistant's; see the module's example.
        layers: further states of the batch; all of the samples when absent.
        device: of the batch; copies to a GPU are asynchronous, from pinned memory.
        max_length: samples are cut to this many tokens first.
        supervised: False makes an all-False mask, for a filler batch.

    Raises:
        DataError: there are no samples, or one has fewer than two tokens or lacks a layer.
    """
    lengths = [min(len(sample.input_ids), max_length or len(sample.input_ids)) for sample in samples]
    if not samples or min(lengths) < 2:
        raise DataError(f"a batch needs samples of at least 2 tokens; it got lengths {lengths}")
    rows, longest = len(samples), max(lengths)
    pin = torch.device(device).type == "cuda"
    first = samples[0]
    ids = torch.zeros(rows, longest, dtype=torch.int64, pin_memory=pin)
    assistant = torch.zeros(rows, longest + 1, dtype=torch.bool, pin_memory=pin)  # one more column: a_{t+2} at the end
    states = torch.zeros(rows, longest, first.hidden.shape[1], dtype=first.hidden.dtype, pin_memory=pin)
    if layers is not None and (absent := sorted(set(layers) - first.layers.keys())):
        raise DataError(f"the dataset has no hidden states of layers {absent}; it has {sorted(first.layers)}")
    wanted = tuple(first.layers) if layers is None else layers
    further = {layer: torch.zeros_like(states, pin_memory=pin) for layer in wanted}
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        ids[row, :length] = sample.input_ids[:length]
        states[row, :length] = sample.hidden[:length]
        if supervised:
            assistant[row, :length] = sample.assistant_mask[:length]
        for layer, padded in further.items():
            padded[row, :length] = sample.layers[layer][:length]
    ends = torch.tensor(lengths, pin_memory=pin)

    ids, assistant, states, ends = (t.to(device, non_blocking=pin) for t in (ids, assistant, states, ends))
    further = {layer: padded.to(device, non_blocking=pin) for layer, padded in further.items()}
    positions = torch.arange(longest - 1, device=device).expand(rows, -1)
    valid = positions < (ends - 1)[:, None]
    shift = _SHIFT[mask_kind]
    return Batch(
        tokens=ids[:, 1:],
        features=states[:, :-1],
        targets=states[:, 1:],
        mask=assistant[:, shift : shift + longest - 1] & valid,
        valid=valid,
        positions=positions,
        layers={layer: padded[:, :-1] for layer, padded in further.items()},
    )


class BatchPlan:
    """Which samples form which batch in one epoch on one rank. A pure function of its arguments.

    Samples of like length share a batch, rows times the longest stays within `tokens_per_batch` (one row is always
    allowed), the order of batches is random, and each rank has the same number of them. Over all ranks each sample
    comes exactly once an epoch. `plan[i]` gives the sample numbers of batch i, so a run resumes from (epoch, index).

    With few samples for many ranks some batches repeat a sample; `is_filler(i)` is true for them, and they must be made
    with `supervised=False`.

    Args:
        lengths: tokens of each sample, cut to the length used in training.
        seed: seed of the order.
        epoch: number of the pass; each has another order.
        tokens_per_batch: most tokens of a padded batch.
        world_size: ranks that share an epoch.
        rank: this one.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        seed: int,
        epoch: int,
        tokens_per_batch: int,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        if not lengths:
            raise DataError("there is no sample to make batches of")
        random = np.random.default_rng([seed, epoch])
        batches = _cut(np.asarray(lengths), tokens_per_batch, random)
        batches = [batches[i] for i in random.permutation(len(batches))]
        _split_to_multiple(batches, world_size)
        fillers = -len(batches) % world_size
        self._first_filler = len(batches)
        batches += [batches[i % len(batches)][:1] for i in range(fillers)]
        self._numbers = range(rank, len(batches), world_size)
        self._batches = [batches[number] for number in self._numbers]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> list[int]:
        return self._batches[index]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def is_filler(self, index: int) -> bool:
        """Whether batch `index` only repeats a sample, so that all ranks have as many batches."""
        return self._numbers[index] >= self._first_filler


def _cut(lengths: np.ndarray, tokens_per_batch: int, random: np.random.Generator) -> list[list[int]]:
    """Cut a random order into batches of similar length."""
    order = random.permutation(len(lengths))
    window = max(1, int(_WINDOW_BATCHES * tokens_per_batch / max(1.0, float(lengths.mean()))))
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        chunk = order[start : start + window]
        chunk = chunk[np.argsort(-lengths[chunk], kind="stable")]
        batch: list[int] = []
        longest = 0
        for index in chunk.tolist():
            if batch and (len(batch) + 1) * longest > tokens_per_batch:
                batches.append(batch)
                batch = []
            if not batch:
                longest = int(lengths[index])
            batch.append(index)
        batches.append(batch)
    return batches


def _split_to_multiple(batches: list[list[int]], world_size: int) -> None:
    """Halve the largest batches until the ranks can share them evenly, or until nothing can be halved."""
    while len(batches) % world_size:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        if len(batch) == 1:
            return
        batches[largest] = batch[: len(batch) // 2]
        batches.append(batch[len(batch) // 2 :])
