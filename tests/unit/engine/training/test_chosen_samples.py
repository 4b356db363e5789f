"""Training on some of the stored samples only."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.training.samples import select_samples
from hetspec_core.errors import DataError
from hetspec_core.spec import TrainingSpec
from tests.fakes.tiny_training import load_tiny_base, write_tiny_base, write_tiny_store


def test_named_samples_and_the_first_so_many_are_trained_on(tmp_path: Path) -> None:
    base = load_tiny_base(write_tiny_base(tmp_path / "base"))
    store = open_store([write_tiny_store(tmp_path / "store", base, samples=8)])
    chosen = (store.ids[5], store.ids[2])
    spec = TrainingSpec(sample_ids=chosen, eval_fraction=0)
    assert sorted(select_samples(store, None, spec, print).samples) == [2, 5]
    few = select_samples(store, None, TrainingSpec(max_samples=3, eval_fraction=0), print)
    assert sorted(few.samples) == [0, 1, 2]
    with pytest.raises(DataError, match="nobody"):
        select_samples(store, None, TrainingSpec(sample_ids=("nobody",)), print)
