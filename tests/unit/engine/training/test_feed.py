from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.data.hidden_states import HiddenStateStore, open_store
from hetspec_core.engine.training.feed import BatchFeed, Position, StepBatches
from hetspec_core.errors import CorruptFileError
from hetspec_core.spec import TrainingSpec
from tests.fakes.tiny_training import load_tiny_base, write_tiny_base, write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HiddenStateStore:
    folder = tmp_path_factory.mktemp("feed")
    base = load_tiny_base(write_tiny_base(folder / "base"))
    return open_store([write_tiny_store(folder / "store", base, samples=9)])


def feed_of(store: HiddenStateStore, accumulation: int, position: Position | None = None) -> BatchFeed:
    return BatchFeed(
        store,
        range(len(store)),
        TrainingSpec(seed=4, tokens_per_batch=40, max_length=16, gradient_accumulation=accumulation),
        mask_kind="predicted",
        device=torch.device("cpu"),
        position=position,
    )


def tokens_of(step: StepBatches) -> list[list[list[int]]]:
    return [batch.tokens.tolist() for batch in step.batches]


@given(accumulation=st.integers(1, 4), skipped=st.integers(0, 9))
def test_a_feed_begun_at_a_position_gives_what_comes_after_it(
    store: HiddenStateStore, accumulation: int, skipped: int
) -> None:
    whole = feed_of(store, accumulation)
    position = Position()
    for _ in range(skipped):
        position = whole.next_step().after
    resumed = feed_of(store, accumulation, position)
    for _ in range(3):
        expected, found = whole.next_step(), resumed.next_step()
        assert tokens_of(found) == tokens_of(expected) and found.after == expected.after
    whole.close()
    resumed.close()


def test_every_sample_comes_once_an_epoch_and_is_cut_to_the_limit(store: HiddenStateStore) -> None:
    feed = feed_of(store, 1)
    steps = [feed.next_step() for _ in range(len(feed.plan(0)))]
    feed.close()
    assert steps[-1].after == Position(1, 0)
    lengths = [min(length, 16) for length in store.lengths]
    assert sum(step.num_tokens for step in steps) == sum(lengths) - len(lengths)
    assert sum(len(batch.tokens) for step in steps for batch in step.batches) == len(store)
    assert max(step.longest for step in steps) == 16 and min(step.shortest for step in steps) == min(lengths)


def test_a_shard_that_breaks_while_it_is_read_ahead_is_an_error_of_the_step(tmp_path: Path) -> None:
    base = load_tiny_base(write_tiny_base(tmp_path / "base"))
    folder = write_tiny_store(tmp_path / "store", base, samples=9)
    store = open_store([folder])
    shard = next(folder.glob("shard-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[8:40] = b"\xff" * 32
    shard.write_bytes(data)
    feed = feed_of(store, 1)
    with pytest.raises(CorruptFileError, match=shard.name):
        feed.next_step()
    feed.close()
