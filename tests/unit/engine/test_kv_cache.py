"""The slot cache against lists of Python numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache, SlotTables

CAPACITY = 24
LAYERS = 2


class Model:
    """A cache, and the committed numbers that each row must hold. Every token is one number, written to each layer."""

    def __init__(self, rows: int) -> None:
        self.cache = SlotCache(rows, CAPACITY, "cpu")
        self.lists: list[list[int]] = [[] for _ in range(rows)]
        self._number = 0

    def numbers(self, count: int) -> list[int]:
        self._number += count
        return list(range(self._number - count + 1, self._number + 1))

    def write(self, tokens: list[list[int]], slots: Tensor, visible: int, rows: Tensor | None = None) -> Tensor:
        """What a forward does; returns the keys of layer 0 that it could look at, as numbers [R, S]."""
        self.cache.stage(slots, visible=visible, rows=rows)
        states = torch.tensor(tokens, dtype=torch.float32)[:, None, :, None].expand(-1, 2, -1, 3)
        seen = [self.cache.update(states * (layer + 1), -states * (layer + 1), layer) for layer in range(LAYERS)]
        for layer, (keys, values) in enumerate(seen):
            assert torch.equal(keys, -values)
            assert torch.equal(keys, seen[0][0] * (layer + 1))
        return seen[0][0][:, 0, :, 0]

    def check(self) -> None:
        assert self.cache.host_lengths == self.cache.lengths.tolist() == [len(numbers) for numbers in self.lists]
        assert self.cache.num_rows == len(self.lists)
        for row, numbers in enumerate(self.lists):
            for layer, keys in self.cache._keys.items():
                held = keys[row, :, : len(numbers)] / (layer + 1)
                assert torch.equal(held, torch.tensor(numbers, dtype=torch.float32)[None, :, None].expand(2, -1, 3))

    # --- what decoding does with a cache

    def admit(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.integers(0, len(self.lists) - 1), min_size=1, unique=True))
        lengths = [data.draw(st.integers(1, 5)) for _ in rows]
        prompts = [self.numbers(length) for length in lengths]
        padded = [prompt + [0] * (max(lengths) - len(prompt)) for prompt in prompts]
        slots = torch.arange(max(lengths)).expand(len(rows), -1)
        own = self.write(padded, slots, 0, torch.tensor(rows))
        assert own.tolist() == padded  # whole sequences look at themselves only
        for row, prompt in zip(rows, prompts, strict=True):
            self.cache.reset_row(row, len(prompt))
            self.lists[row] = prompt

    def step(self, data: st.DataObject) -> None:
        if max(map(len, self.lists)) + 1 > CAPACITY:
            return
        tokens = [self.numbers(1) for _ in self.lists]
        visible = self.cache.visible_for(1)
        seen = self.write(tokens, self.cache.lengths[:, None], visible)
        for row, numbers in enumerate(self.lists):
            numbers += tokens[row]
            assert seen[row, : len(numbers)].tolist() == numbers
        self.cache.advance(torch.ones_like(self.cache.lengths), [1] * len(self.lists))

    def speculate(self, data: st.DataObject) -> None:
        """Write a tree behind the committed tokens and keep a path of it, of another length in every row."""
        width, depth = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
        if max(map(len, self.lists)) + max(width, depth + 1) > CAPACITY:
            return
        trees = [self.numbers(width) for _ in self.lists]
        slots = self.cache.lengths[:, None] + torch.arange(width)
        self.write(trees, slots, self.cache.visible_for(width))
        path, counts = torch.zeros(len(self.lists), depth + 1, dtype=torch.int64), []
        for row, tree in enumerate(trees):
            count = data.draw(st.integers(0, min(depth + 1, width)))
            nodes = sorted(data.draw(st.permutations(range(width)))[:count])
            path[row, :count] = torch.tensor(nodes, dtype=torch.int64)
            counts.append(count)
            self.lists[row] += [tree[node] for node in nodes]
        self.cache.keep(path, torch.tensor(counts), counts)

    def drop(self, data: st.DataObject) -> None:
        if len(self.lists) > 1:
            row = data.draw(st.integers(0, len(self.lists) - 1))
            self.cache.drop_row(row)
            last = self.lists.pop()
            if row < len(self.lists):
                self.lists[row] = last


@given(st.integers(1, 4), st.data())
def test_cache_holds_what_lists_hold(rows: int, data: st.DataObject) -> None:
    model = Model(rows)
    everyone = [model.numbers(2) for _ in range(rows)]
    model.write(everyone, torch.arange(2).expand(rows, -1), 0)
    model.cache.advance(torch.full((rows,), 2), [2] * rows)
    model.lists = everyone
    actions: list[Callable[[st.DataObject], None]] = [model.admit, model.step, model.speculate, model.drop]
    for action in data.draw(st.lists(st.sampled_from(actions), max_size=8)):
        action(data)
        model.check()


def test_prefix_mask_and_visible_slots() -> None:
    cache = SlotCache(2, 4 * SLOT_STEP, "cpu")
    cache.advance(torch.tensor([3, SLOT_STEP]), [3, SLOT_STEP])
    assert cache.prefix_mask(5).tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert cache.visible_for(0) == SLOT_STEP
    assert cache.visible_for(1) == 2 * SLOT_STEP
    assert cache.visible_for(3 * SLOT_STEP + 1) == 4 * SLOT_STEP  # never more than there is


def test_more_slots_than_there_are_is_a_mistake_of_the_caller() -> None:
    cache = SlotCache(2, 8, "cpu")
    with pytest.raises(ValueError, match="9 slots wanted"):
        cache.stage(torch.zeros(2, 1, dtype=torch.int64), visible=9)


def test_a_forward_over_some_of_the_rows_reads_what_these_hold() -> None:
    model = Model(3)
    model.write([[1, 2], [3, 4], [5, 6]], torch.tensor([[0, 1]] * 3), 0)
    seen = model.write([[7], [8]], torch.tensor([[2], [1]]), 3, torch.tensor([2, 0]))
    assert seen.tolist() == [[5, 6, 7], [1, 8, 0]]


def test_a_table_that_caches_share_is_taken_whole_by_the_smaller_one() -> None:
    """A compiled program goes on with a dense copy of a part, whose strides are not those that its kernel was given."""
    tables, states = SlotTables(), torch.zeros(2, 3, 1, 8)
    large = tables.take("keys", 0, states, 2, 64)
    small = tables.take("keys", 0, states, 2, 16)
    assert small.is_contiguous() and small.data_ptr() == large.data_ptr()
