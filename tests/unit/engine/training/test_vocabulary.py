from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.modeling.token_counts import choose_vocabulary
from hetspec_core.engine.training.samples import share_outside
from hetspec_core.errors import SpecError


def test_the_most_frequent_tokens_and_the_special_ones_are_chosen_and_sorted() -> None:
    counts = torch.tensor([0, 9, 2, 7, 2, 0, 5, 0])
    assert choose_vocabulary(counts, 4, always={7}).tolist() == [1, 3, 6, 7]
    assert choose_vocabulary(counts, 5, always={7}).tolist() == [1, 2, 3, 6, 7]  # of 2 and 4, the smaller id


@given(counts=st.lists(st.integers(0, 20), min_size=8, max_size=40), data=st.data())
def test_no_vocabulary_of_that_size_covers_more(counts: list[int], data: st.DataObject) -> None:
    always = data.draw(st.sets(st.integers(0, len(counts) - 1), max_size=3))
    size = data.draw(st.integers(max(1, len(always)), len(counts)))
    table = torch.tensor(counts)
    ids = choose_vocabulary(table, size, always)
    assert ids.numel() == size and set(ids.tolist()) >= always
    assert (ids[1:] > ids[:-1]).all()
    free = sorted((count for token, count in enumerate(counts) if token not in always), reverse=True)
    best = sum(counts[token] for token in always) + sum(free[: size - len(always)])
    assert int(table[ids].sum()) == best
    assert share_outside(table, ids) == pytest.approx(1 - best / max(sum(counts), 1) if sum(counts) else 0)


@pytest.mark.parametrize("size", [1, 9])
def test_a_size_that_cannot_be_is_refused(size: int) -> None:
    with pytest.raises(SpecError, match=r"draft\.vocab_size"):
        choose_vocabulary(torch.ones(8, dtype=torch.int64), size, always={0, 1})
