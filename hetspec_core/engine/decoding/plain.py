"""Answers for many prompts by the base alone: rows that end are refilled with the next prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hetspec_core.engine.decoding.answers import GrowingAnswer, answer_limit
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.rows import PlainRows
from hetspec_core.engine.modeling.base_lm import BaseLM

Key = TypeVar("Key", bound=Hashable)


RowsFor = Callable[[int, int], PlainRows]


@dataclass
class _Pending:
    key: Hashable
    answer: GrowingAnswer


@torch.inference_mode()
def write_answers(
    base: BaseLM,
    rows_for: RowsFor,
    prompts: Iterable[tuple[Key, list[int]]],
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
        rows_for: makes rows for a number of rows and the most tokens of prompt and answer.
        prompts: (key, token ids); read as rows become free.
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
        rows = rows_for(min(batch_size, len(queue)), capacity)
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
                    if len(pending) > 1 and not rows.cache.fixed:
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
