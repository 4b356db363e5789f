"""Plain decoding, one token per step and row: the baseline of every measurement, and the writer of answers.

It knows the base only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from hetspec_core.engine.decoding.completion import SILENT, Completion, GrowingAnswer, Listener, synchronize
from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache
from hetspec_core.engine.decoding.prefill import answer_limit, pad_prompts
from hetspec_core.engine.decoding.sampling import Sampler
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.spec import DecodingSpec, SamplingSpec

Key = TypeVar("Key", bound=Hashable)


class PlainRows:
    """Rows of answers that advance together; rows can be refilled with other prompts as they finish.

    Args:
        base: the model.
        num_rows: rows at most.
        capacity: most tokens of prompt and answer of a row.
        sampling: how tokens are chosen.
    """

    def __init__(self, base: BaseLM, num_rows: int, capacity: int, sampling: SamplingSpec) -> None:
        self.base = base
        capacity = -(-capacity // SLOT_STEP) * SLOT_STEP
        self.cache = SlotCache(num_rows, capacity, base.device)
        self.sampler = Sampler(sampling, [0] * num_rows, capacity, base.device)
        self._last = torch.zeros(num_rows, dtype=torch.int64, device=base.device)  # [B] last token of each row
        self._age = torch.zeros(num_rows, dtype=torch.int64, device=base.device)  # [B] tokens of the answer so far

    def admit(self, rows: list[int], prompts: list[list[int]], seeds: list[int]) -> list[int]:
        """Prefill prompts into rows; returns the first token of each answer."""
        ids, lengths = pad_prompts(prompts, self.base.device)
        where = torch.tensor(rows, device=self.base.device)
        slots = torch.arange(ids.shape[1], device=self.base.device).expand_as(ids)
        self.cache.stage(slots, visible=0, rows=where)
        hidden = self.base.forward(ids, cache=self.cache).hidden
        logits = self.base.logits(hidden[torch.arange(len(rows), device=ids.device), lengths - 1])  # [R, V]
        for row, prompt, seed in zip(rows, prompts, seeds, strict=True):
            self.cache.reset_row(row, len(prompt))
            self.sampler.replace_row(row, seed)
        # The sampler chooses for all rows at once; others than the admitted ones get logits that are not looked at.
        spread = logits.new_zeros(self.cache.num_rows, logits.shape[-1])
        spread[where] = logits
        chosen = self.sampler.choose(spread[:, None], torch.zeros_like(self._age)[:, None])[:, 0]
        self._last[where] = chosen[where]
        self._age[where] = 1
        return chosen[where].tolist()

    def rest(self, row: int) -> None:
        """Row `row` has nothing to write for now. It goes on from an empty cache, so that it cannot outgrow it."""
        self.cache.reset_row(row, 0)

    def step(self) -> list[int]:
        """One more token for every row."""
        cache = self.cache
        mask: Tensor | None = None
        if cache.num_rows == 1:
            visible = cache.host_lengths[0] + 1  # exactly what there is: no mask needed
        else:
            visible = cache.visible_for(1)
            mask = (torch.arange(visible, device=self._last.device) <= cache.lengths[:, None])[:, None, None]
        slots = cache.lengths[:, None]
        cache.stage(slots, visible=visible)
        output = self.base.forward(self._last[:, None], positions=slots, mask=mask, cache=cache)
        chosen = self.sampler.choose(self.base.logits(output.hidden), self._age[:, None])[:, 0]
        cache.advance(torch.ones_like(cache.lengths), [1] * cache.num_rows)
        self._last, self._age = chosen, self._age + 1
        return chosen.tolist()

    def drop(self, row: int) -> None:
        """Give a row up; the last row takes its index."""
        last = self.cache.num_rows - 1
        self.cache.drop_row(row)
        self.sampler.move_row(last, row)
        for tensor in (self._last, self._age):
            tensor[row] = tensor[last]
        self._last, self._age = self._last[:last], self._age[:last]


@torch.inference_mode()
def decode_plain(
    base: BaseLM,
    prompts: list[list[int]],
    decoding: DecodingSpec,
    listener: Listener = SILENT,
) -> list[Completion]:
    """Ordinary decoding of a batch of prompts.

    Args:
        base: the model.
        prompts: token ids of each prompt.
        decoding: sampling and limits.
        listener: told of tokens as they come.
    """
    limits = [answer_limit(base, prompt, decoding.max_new_tokens) for prompt in prompts]
    stop_ids = frozenset() if decoding.ignore_eos else base.stop_ids
    answers = [
        GrowingAnswer(Completion(len(prompt)), limit, reason, stop_ids)
        for prompt, (limit, reason) in zip(prompts, limits, strict=True)
    ]
    started = time.perf_counter()
    rows = PlainRows(
        base, len(prompts), max(len(p) + n for p, (n, _) in zip(prompts, limits, strict=True)), decoding.sampling
    )
    tokens = rows.admit(list(range(len(prompts))), prompts, list(range(len(prompts))))
    synchronize(base.device)
    first = time.perf_counter() - started
    living = list(range(len(prompts)))  # prompt of each row
    while True:
        now = time.perf_counter() - started
        for row in reversed(range(len(living))):
            prompt = living[row]
            answers[prompt].take([tokens[row]])
            answers[prompt].completion.first_token_s = first
            answers[prompt].completion.total_s = now
            listener.on_tokens(prompt, [tokens[row]])
            if answers[prompt].done:
                living[row] = living[-1]
                living.pop()
                if living:
                    rows.drop(row)
        if living and listener.stop_asked():
            for prompt in living:
                answers[prompt].end("stopped")
            living.clear()
        if not living:
            return [answer.completion for answer in answers]
        tokens = rows.step()


@dataclass
class _Pending:
    key: Hashable
    answer: GrowingAnswer


@torch.inference_mode()
def write_answers(
    base: BaseLM,
    prompts: Iterable[tuple[Key, list[int]]],
    sampling: SamplingSpec,
    max_new_tokens: int,
    batch_size: int,
    seed_of: Callable[[Key], int] = lambda key: 0,
    *,
    stop_ids: frozenset[int] | None = None,
    max_length: int | None = None,
) -> Iterator[tuple[Key, list[int]]]:
    """Answer many prompts, `batch_size` at a time; a row that finishes is refilled with the next prompt.

    Args:
        base: the model.
        prompts: (key, token ids); read as rows become free.
        sampling: how tokens are chosen.
        max_new_tokens: most tokens of an answer.
        batch_size: rows.
        seed_of: randomness of a prompt, so that its answer does not depend on its neighbours or on the order.
        stop_ids: tokens that end an answer; the base's when absent.
        max_length: most tokens of a prompt with its answer; the base's context when absent. Prompts are shorter.

    Yields:
        (key, answer) as answers finish, not in order; an answer ends with its stop token when it reached one.
    """
    source = iter(prompts)
    ends = base.stop_ids if stop_ids is None else stop_ids
    longest_row = min(max_length or base.max_length, base.max_length)
    queue: list[tuple[Key, list[int]]] = []
    exhausted = False

    def refill(count: int) -> None:
        nonlocal exhausted
        while len(queue) < count and not exhausted:
            item = next(source, None)
            if item is None:
                exhausted = True
            else:
                queue.append(item)

    # A look ahead sizes the cache; a longer prompt later gets a cache of its own when the rows before are done.
    refill(batch_size * 4)
    while queue:
        longest = max(len(prompt) for _, prompt in queue)
        capacity = min(longest + max_new_tokens, longest_row)
        rows = PlainRows(base, min(batch_size, len(queue)), capacity, sampling)
        pending: list[_Pending | None] = [None] * rows.cache.num_rows
        while True:
            free = [row for row, entry in enumerate(pending) if entry is None]
            # Prefill costs a forward of its own: wait until it serves several rows.
            if free and (len(free) * 8 >= len(pending) or len(free) == len(pending)):
                refill(len(free))
                fitting = [item for item in queue if len(item[1]) <= longest][: len(free)]
                for item in fitting:
                    queue.remove(item)
                for row in reversed(free[len(fitting) :]):  # nothing left for these
                    if len(pending) > 1:
                        rows.drop(row)
                        pending[row] = pending[-1]
                        pending.pop()
                if fitting:
                    # Dropping moved the last rows into the holes; the rows that are still free are found again.
                    free = [row for row, entry in enumerate(pending) if entry is None][: len(fitting)]
                    for row, (key, prompt) in zip(free, fitting, strict=True):
                        limit, reason = answer_limit(base, prompt, max_new_tokens)
                        if max_length is not None:
                            limit = max(1, min(limit, max_length - len(prompt)))
                        pending[row] = _Pending(key, GrowingAnswer(Completion(len(prompt)), limit, reason, ends))
                    first = rows.admit(free, [prompt for _, prompt in fitting], [seed_of(key) for key, _ in fitting])
                    for row, token in zip(free, first, strict=True):
                        yield from _take(rows, pending, row, token)
            if all(entry is None for entry in pending):
                if not queue:
                    refill(batch_size * 4)
                break
            for row, token in enumerate(rows.step()):
                if pending[row] is not None:
                    yield from _take(rows, pending, row, token)


def _take(rows: PlainRows, pending: list[_Pending | None], row: int, token: int) -> Iterator[tuple[Any, list[int]]]:
    entry = pending[row]
    assert entry is not None
    entry.answer.take([token])
    if entry.answer.done:
        pending[row] = None
        rows.rest(row)
        yield entry.key, entry.answer.completion.tokens
