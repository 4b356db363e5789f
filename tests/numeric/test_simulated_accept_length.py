"""The simulated accept length against walking every path step by step, and against the base itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.data.batches import Batch, make_batch
from hetspec_core.engine.data.hidden_states import HiddenStateStore, open_store
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.evaluation import PathRanks, accept_length, base_choices, choose_starts, follow_paths
from hetspec_core.spec import AlgorithmSpec, DraftSpec
from tests.fakes.tiny_training import VOCAB, load_tiny_base, tiny_architecture, write_tiny_base, write_tiny_store

DEPTH = 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseLM:
    return load_tiny_base(write_tiny_base(tmp_path_factory.mktemp("base")))


def make_draft(base: BaseLM, *, layers: int = 2, vocab: torch.Tensor | None = None) -> DraftLM:
    spec = DraftSpec(name="tiny", architecture=tiny_architecture(layers=layers), init="random")
    return build_draft(spec, AlgorithmSpec(), base, seed=1, vocab=vocab).eval()


def rank_of(logits: torch.Tensor, token: int, vocab: torch.Tensor | None) -> int:
    """Place of a base token in a stable descending sort of the draft's logits."""
    order = torch.sort(logits, descending=True, stable=True).indices
    ids = (order if vocab is None else vocab[order]).tolist()
    return ids.index(token) if token in ids else len(ids)


def walk(draft: DraftLM, batch: Batch, choices: torch.Tensor, row: int, start: int, width: int) -> list[int]:
    """Ranks along one path, each step a causal pass over the whole sequence so far; ends where it cannot be judged."""
    vocab = draft.vocab.ids if draft.vocab else None
    tokens = batch.tokens[row, : start + 1].tolist()
    features = batch.features[row, : start + 1]
    ranks: list[int] = []
    place = start
    while len(ranks) < DEPTH and bool(batch.mask[row, place]):
        hidden = draft(torch.tensor([tokens]), features[None])[0, -1]
        choice = int(choices[row, place])
        ranks.append(rank_of(draft.logits(hidden), choice, vocab))
        if ranks[-1] >= width or place + 1 >= batch.tokens.shape[1] or int(batch.tokens[row, place + 1]) != choice:
            break
        place += 1
        tokens.append(int(batch.tokens[row, place]))
        features = torch.cat([features, hidden[None]])
    return ranks


@torch.no_grad()
@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("width", [1, 12])
def test_all_paths_at_once_are_the_paths_walked_one_by_one(
    base: BaseLM, tmp_path: Path, width: int, greedy: bool, reduced: bool
) -> None:
    store = open_store([write_tiny_store(tmp_path / "store", base, samples=6, greedy=greedy)])
    vocab = torch.arange(0, VOCAB, 2) if reduced else None
    draft = make_draft(base, vocab=vocab)
    batch = make_batch([store[index] for index in range(len(store))])
    choices = base_choices(draft, batch)
    paths = follow_paths(draft, batch, choices, per_sample=7, depth=DEPTH, width=width)
    starts, present = choose_starts(batch.mask, 7)
    rows = [
        (row, int(start), bool(there))
        for row in range(len(starts))
        for start, there in zip(starts[row], present[row], strict=True)
    ]
    assert len(rows) == len(paths.ranks)
    longest = 0
    for (row, start, there), ranks, judged in zip(rows, paths.ranks.tolist(), paths.judged.tolist(), strict=True):
        expected = walk(draft, batch, choices, row, start, width) if there else []
        assert judged == [step < len(expected) for step in range(DEPTH)]
        assert ranks[: len(expected)] == expected
        longest = max(longest, len(expected))
    assert longest >= (3 if width > 1 and greedy and not reduced else 1)  # the test would be empty without long paths


def teach(base: BaseLM, store: HiddenStateStore) -> DraftLM:
    """A draft that has seen the data often enough to be right several tokens in a row."""
    draft = make_draft(base, layers=1).train()
    algorithm = build_algorithm(AlgorithmSpec(options={"noise": 0.0, "feature_loss_weight": 1.0}))
    optimizer = torch.optim.AdamW(draft.trainable_parameters(), lr=1e-2)
    batch = make_batch([store[index] for index in range(len(store))])
    for _ in range(150):
        optimizer.zero_grad()
        output = algorithm.loss(draft, batch, torch.Generator())
        (output.total / output.num_supervised).backward()
        optimizer.step()
    return draft.eval()


@torch.no_grad()
def accepted_by_the_base(base: BaseLM, draft: DraftLM, sequence: list[int], features: torch.Tensor, start: int) -> int:
    """Propose DEPTH tokens from a start with the draft's own tokens, and let the base itself verify them."""
    tokens, states = sequence[1 : start + 2], features[: start + 1]
    proposed: list[int] = []
    for _ in range(DEPTH):
        hidden = draft(torch.tensor([tokens]), states[None])[0, -1]
        proposed.append(int(draft.logits(hidden).argmax()))
        tokens, states = [*tokens, proposed[-1]], torch.cat([states, hidden[None]])
    committed = sequence[: start + 2]
    verdict = base.logits(base.forward(torch.tensor([committed + proposed])).hidden)[0].argmax(-1)
    accepted = 0
    while accepted < DEPTH and proposed[accepted] == int(verdict[len(committed) - 1 + accepted]):
        accepted += 1
    return accepted


def test_uncensored_paths_accept_what_the_base_accepts_when_it_verifies(base: BaseLM, tmp_path: Path) -> None:
    store = open_store([write_tiny_store(tmp_path / "store", base, samples=8)])
    draft = teach(base, store)
    seen = total = 0
    for index in range(len(store)):
        sample = store[index]
        batch = make_batch([sample])
        with torch.no_grad():
            paths = follow_paths(draft, batch, base_choices(draft, batch), per_sample=99, depth=DEPTH, width=1)
        starts, _ = choose_starts(batch.mask, 99)
        sequence = sample.input_ids.tolist()
        for start, ranks, judged in zip(starts[0].tolist(), paths.ranks, paths.judged, strict=True):
            right = (ranks == 0) & judged
            accepted = int(right.long().cumprod(0).sum())
            if accepted < DEPTH and bool(judged[:accepted].all()) and not bool(judged[accepted]):
                continue  # censored: the answer ended while the draft was right
            assert accepted == accepted_by_the_base(base, draft, sequence, sample.hidden, start)
            seen += 1
            total += accepted
    assert seen > 30 and total > 30


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_without_censoring_it_is_one_plus_the_mean_of_accepted_tokens(paths: list[tuple[int, int]]) -> None:
    accepted = [number for number, _ in paths]
    ranks = torch.tensor([[0 if step < number else 1 for step in range(5)] for number in accepted])
    judged = torch.tensor([[step <= number for step in range(5)] for number in accepted])
    counts = PathRanks(ranks=ranks, judged=judged).counts(1)
    assert accept_length(counts) == pytest.approx(1 + sum(accepted) / len(accepted))


def test_a_censored_path_counts_only_where_it_was_seen() -> None:
    ranks = torch.tensor([[0, 0], [0, 3], [0, 0], [9, 0]])
    judged = torch.tensor([[True, True], [True, True], [True, False], [True, False]])
    counts = PathRanks(ranks=ranks, judged=judged).counts(1)
    assert counts.tolist() == [[4, 2], [3, 1]]
    assert accept_length(counts) == pytest.approx(1 + 3 / 4 + 3 / 4 * 1 / 2)


def test_no_start_at_all_means_plain_decoding() -> None:
    assert accept_length(torch.zeros(2, 4)) == 1.0
