"""Token counts beside a draft: written and read, in the order of how common tokens are; damaged files are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.token_counts import TOKEN_COUNTS, TokenCounts, read_token_counts
from hetspec_core.errors import CheckpointError
from hetspec_core.spec import AlgorithmSpec
from tests.fakes.tiny_models import VOCAB, tiny_base, tiny_draft


def test_tokens_are_listed_from_the_commonest_on_and_equal_counts_by_their_ids() -> None:
    listed = TokenCounts(torch.tensor([0, 3, 9, 0, 3, 1]), "a test").to_json()
    assert listed["tokens"] == [2, 1, 4, 5] and listed["counts"] == [9, 3, 3, 1]
    assert listed["vocab_size"] == 6 and listed["source"] == "a test"


@given(counts=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=30))
def test_counts_are_read_as_they_were_written(counts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("counts")
    written = TokenCounts(torch.tensor(counts), "a test")
    written.write(folder / TOKEN_COUNTS)
    read = read_token_counts(folder)
    assert read is not None and read.source == "a test" and torch.equal(read.counts, written.counts)


def test_a_draft_keeps_its_counts_and_one_without_them_is_read_as_before(tmp_path: Path) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    save_draft(draft, tmp_path / "old", algorithm=AlgorithmSpec(), facts={})
    assert not (tmp_path / "old" / TOKEN_COUNTS).exists()
    assert load_draft(tmp_path / "old", base).token_counts is None
    draft.token_counts = TokenCounts(torch.arange(VOCAB), "a test")
    save_draft(draft, tmp_path / "new", algorithm=AlgorithmSpec(), facts={})
    found = load_draft(tmp_path / "new", base).token_counts
    assert found is not None and torch.equal(found.counts, torch.arange(VOCAB))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"vocab_size": 4, "tokens": [1, 2]',
        json.dumps({"vocab_size": 4, "tokens": [1, 2], "counts": [1]}),
        json.dumps({"vocab_size": 4, "tokens": [1, 4], "counts": [1, 1]}),
        json.dumps({"vocab_size": 4, "tokens": [1, 1], "counts": [1, 1]}),
        json.dumps({"vocab_size": 4, "tokens": [1, -2], "counts": [1, 1]}),
        json.dumps({"vocab_size": 4, "tokens": [1, 2], "counts": [1, 1.5]}),
        json.dumps({"vocab_size": 4, "tokens": [1, 2], "counts": [1 << 62, 1]}),
        json.dumps({"vocab_size": 0, "tokens": [], "counts": []}),
        json.dumps({"vocab_size": True, "tokens": [], "counts": []}),
    ],
)
def test_damaged_counts_are_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / TOKEN_COUNTS).write_text(text)
    with pytest.raises(CheckpointError, match=TOKEN_COUNTS) as caught:
        read_token_counts(tmp_path)
    assert "draft count" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("counts", "ids", "share"), [([6, 2, 2, 0], [0, 1], 0.8), ([0, 0], [0], 0.0), ([8, 1, 1, 0], [0], 0.8 * 0.8)]
)
def test_the_coverage_is_the_share_of_the_counts_less_the_mass_of_unseen_tokens(
    counts: list[Any], ids: list[int], share: float
) -> None:
    assert TokenCounts(torch.tensor(counts)).coverage(torch.tensor(ids)) == pytest.approx(share)
