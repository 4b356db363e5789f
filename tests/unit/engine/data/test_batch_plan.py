"""Properties of the batch plan."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.engine.data.batches import BatchPlan
from hetspec_core.errors import DataError

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=120)


def _plans(lengths: list[int], world: int, *, budget: int = 512, seed: int = 0, epoch: int = 0) -> list[BatchPlan]:
    return [
        BatchPlan(lengths, seed=seed, epoch=epoch, tokens_per_batch=budget, world_size=world, rank=rank)
        for rank in range(world)
    ]


@given(lengths=LENGTHS, world=st.integers(1, 5), budget=st.integers(2, 900), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_each_sample_comes_once_and_ranks_keep_step(lengths: list[int], world: int, budget: int, seed: int) -> None:
    plans = _plans(lengths, world, budget=budget, seed=seed)

    counted = Counter(
        sample for plan in plans for i, batch in enumerate(plan) if not plan.is_filler(i) for sample in batch
    )

    assert counted == Counter(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1


@given(lengths=LENGTHS, world=st.integers(1, 4), budget=st.integers(2, 900))
@settings(max_examples=60, deadline=None)
def test_batches_stay_within_the_token_budget(lengths: list[int], world: int, budget: int) -> None:
    for plan in _plans(lengths, world, budget=budget):
        for batch in plan:
            longest = max(lengths[i] for i in batch)
            assert len(batch) == 1 or len(batch) * longest <= budget


@given(lengths=LENGTHS, seed=st.integers(0, 99), epoch=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_plan_is_a_function_of_its_arguments(lengths: list[int], seed: int, epoch: int) -> None:
    first, second = (BatchPlan(lengths, seed=seed, epoch=epoch, tokens_per_batch=600) for _ in range(2))

    assert list(first) == list(second)
    assert [first[i] for i in range(len(first) // 2, len(first))] == list(second)[len(second) // 2 :]


def test_epochs_and_seeds_have_another_order() -> None:
    lengths = list(range(10, 110))
    orders = [list(BatchPlan(lengths, seed=s, epoch=e, tokens_per_batch=300)) for s, e in [(0, 0), (0, 1), (1, 0)]]

    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_like_lengths_share_a_batch() -> None:
    lengths = [10, 200] * 200

    plan = BatchPlan(lengths, seed=0, epoch=0, tokens_per_batch=1000)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan)

    assert padded < 1.1 * sum(lengths)


def test_fillers_only_when_ranks_outnumber_what_can_be_split() -> None:
    assert not any(plan.is_filler(i) for plan in _plans([50] * 64, 4) for i in range(len(plan)))
    few = _plans([50] * 3, 2, budget=50)
    assert [len(plan) for plan in few] == [2, 2]
    assert sum(plan.is_filler(i) for plan in few for i in range(len(plan))) == 1


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="no sample"):
        BatchPlan([], seed=0, epoch=0, tokens_per_batch=10)
