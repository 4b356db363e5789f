"""A draft that proposes fewer tokens than it has: the answers stay the base's, and nothing of base or draft changes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.acceptance import AcceptStats
from hetspec_core.catalog import list_cards
from hetspec_core.engine.backends.backend import Watcher
from hetspec_core.engine.backends.builtin import BuiltinBackend
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.draft_vocab import paying_size, proposing_draft
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.token_counts import TokenCounts
from hetspec_core.errors import ModelError, SpecError
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, VOCAB, perfect_pair, ragged_prompts, tiny_base, tiny_draft

BACKBONES = [card.name for card in list_cards("backbones")]
ALGORITHMS = [card.name for card in list_cards("algorithms")]
PROMPTS = ragged_prompts((7, 1, 12))
PLAIN = DecodingSpec(plain=True, max_new_tokens=12)


def way(size: int | str, tree: str = "3/3/8", **options: Any) -> DecodingSpec:
    return DecodingSpec(tree=TreeSpec.parse(tree), **({"draft_vocab": size, "max_new_tokens": 12} | options))


def counted(draft: DraftLM, *, seed: int = 5) -> DraftLM:
    """The draft with counts of tokens, many of which are equal."""
    random = torch.Generator().manual_seed(seed)
    draft.token_counts = TokenCounts(torch.randint(0, 6, (draft.ends.vocab_size,), generator=random))
    return draft


def answers(decoder: Decoder, decoding: DecodingSpec, draft: DraftLM | None = None) -> list[list[int]]:
    return [answer.tokens for answer in decoder.generate(PROMPTS, decoding, draft)]


@functools.cache
def pair(algorithm: str, tied: bool, reduced: bool = False) -> tuple[BaseLM, DraftLM, list[list[int]]]:
    base = tiny_base(tied=tied, stop_ids=(3,))
    vocab = tuple(range(0, VOCAB, 2)) if reduced else ()
    draft = counted(tiny_draft(base, algorithm=algorithm, vocab=vocab))
    return base, draft, answers(ReferenceDecoder(base), PLAIN)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=8)
@given(size=st.integers(1, VOCAB), reduced=st.booleans())
def test_greedy_answers_equal_plain_decoding_with_every_vocabulary(
    algorithm: str, tied: bool, size: int, reduced: bool
) -> None:
    base, draft, plain = pair(algorithm, tied, reduced)
    for decoder in (ReferenceDecoder(base), FastDecoder(base)):
        assert answers(decoder, way(size), draft) == plain


@pytest.mark.parametrize("backbone", BACKBONES)
def test_greedy_answers_equal_plain_decoding_with_every_backbone(backbone: str) -> None:
    base = tiny_base()
    draft = counted(tiny_draft(base, backbone))
    assert answers(ReferenceDecoder(base), way(9), draft) == answers(ReferenceDecoder(base), PLAIN)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sampled_answers_with_a_seed_are_those_of_the_whole_vocabulary(algorithm: str) -> None:
    base, draft, _ = pair(algorithm, False)
    sampled = SamplingSpec(temperature=0.8, seed=4)
    whole = answers(ReferenceDecoder(base), way("whole", sampling=sampled), draft)
    assert answers(ReferenceDecoder(base), way(11, sampling=sampled), draft) == whole


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere", "gpt2", "phi"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_logits_are_those_of_the_whole_vocabulary_at_the_chosen_tokens(family: str, algorithm: str) -> None:
    assert family in FAMILIES
    base = tiny_base(family)
    draft = counted(tiny_draft(base, algorithm=algorithm))
    few = draft.reduced(10, {2, 40})
    state = torch.randn(2, 5, draft.hidden_size if algorithm == "eagle3" else base.hidden_size)
    ids = few.to_base_ids(torch.arange(10))
    assert {2, 40} <= set(ids.tolist()) and few.vocab_size == 10
    torch.testing.assert_close(few.logits(state), draft.logits(state)[..., ids])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tied", [True, False])
def test_base_and_draft_are_not_changed_and_share_their_tensors(algorithm: str, tied: bool) -> None:
    base = tiny_base(tied=tied)
    draft = counted(tiny_draft(base, algorithm=algorithm))
    before = {name: tensor.clone() for name, tensor in (base.model.state_dict() | draft.state_dict()).items()}
    head, parameters = base.ends.head.weight.data_ptr(), [each.data_ptr() for each in draft.parameters()]
    few = draft.reduced(8)
    answers(ReferenceDecoder(base), way(8), draft)
    assert base.ends.head.weight.data_ptr() == head and base.ends.vocab_size == VOCAB
    assert [each.data_ptr() for each in few.parameters()] == parameters
    assert few.output_head.weight.shape == (8, draft.output_head.weight.shape[1])
    assert few.output_head.weight.is_contiguous()
    after = base.model.state_dict() | draft.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert draft.vocab is None and draft.vocab_size == VOCAB
    assert draft.reduced(8) is few  # so that programs of a decoder are used again


def test_the_commonest_tokens_are_proposed_and_of_equal_counts_the_lower_id() -> None:
    base = tiny_base(stop_ids=(40,))
    draft = tiny_draft(base)
    counts = torch.zeros(VOCAB, dtype=torch.int64)
    counts[[7, 30, 9, 12, 25]] = torch.tensor([4, 9, 4, 4, 1])
    draft.token_counts = TokenCounts(counts)
    assert proposing_draft(base, draft, way(4)).to_base_ids(torch.arange(4)).tolist() == [7, 9, 30, 40]


def test_a_draft_with_no_more_tokens_stays_as_it_is_and_one_with_more_is_reduced_within_its_own() -> None:
    base = tiny_base()
    own = (1, 2, 3, 5, 8, 13, 21)
    draft = tiny_draft(base, vocab=own)
    assert proposing_draft(base, draft, way(7)) is draft  # it needs no counts for that
    assert proposing_draft(base, draft, way(20)) is draft
    few = proposing_draft(base, counted(draft), way(4))
    assert few.vocab_size == 4 and set(few.to_base_ids(torch.arange(4)).tolist()) < set(own)


def test_a_vocabulary_above_the_base_is_refused() -> None:
    base, draft, _ = pair("eagle", False)
    with pytest.raises(SpecError, match=rf"decoding\.draft_vocab is {VOCAB + 1}; it needs 1 to {VOCAB}"):
        proposing_draft(base, draft, way(VOCAB + 1))


def test_a_vocabulary_without_room_for_the_special_tokens_is_refused() -> None:
    base = tiny_base(stop_ids=(3, 4, 5))
    with pytest.raises(SpecError, match=r"decoding\.draft_vocab is 2; it needs 3 \(the base's special tokens\)"):
        proposing_draft(base, counted(tiny_draft(base)), way(2))


def test_a_draft_without_counts_keeps_its_vocabulary_unless_a_number_is_asked_for() -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    assert proposing_draft(base, draft, way("auto")) is draft
    assert proposing_draft(base, draft, way("whole")) is draft
    assert proposing_draft(base, draft, way(VOCAB)) is draft
    with pytest.raises(ModelError, match="has no counts of tokens") as caught:
        proposing_draft(base, draft, way(8))
    assert "hetspec-core draft count" in (caught.value.hint or "")


def test_counts_of_another_vocabulary_are_refused_where_a_number_is_asked_for() -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    draft.token_counts = TokenCounts(torch.ones(VOCAB + 4, dtype=torch.int64))
    assert proposing_draft(base, draft, way("auto")) is draft
    with pytest.raises(ModelError, match=rf"vocabulary of {VOCAB + 4} tokens, the base has {VOCAB}"):
        proposing_draft(base, draft, way(8))


@pytest.mark.parametrize(("layers", "common", "pays"), [(1, 3000, True), (30, 3000, False), (1, 20_000, False)])
def test_auto_reduces_where_the_head_is_much_of_a_cycle_and_few_tokens_are_most_of_the_text(
    layers: int, common: int, pays: bool
) -> None:
    base = tiny_base(vocab=20_000, num_hidden_layers=layers, intermediate_size=16_384)
    draft = tiny_draft(base)
    counts = torch.zeros(20_000, dtype=torch.int64)
    counts[:common] = 100
    draft.token_counts = TokenCounts(counts)
    chosen = paying_size(base, draft, TreeSpec.parse("2/4/7"))
    assert (chosen is not None) == pays
    few = proposing_draft(base, draft, way("auto", "2/4/7"))
    assert few.vocab_size == (chosen or 20_000)
    assert proposing_draft(base, few, way("auto", "2/4/7")) is few


def test_the_accept_length_falls_as_the_vocabulary_lacks_tokens_of_the_answers() -> None:
    base, draft = perfect_pair(vocab=64)
    chain = ReferenceDecoder(base)
    prompts, lengths = ragged_prompts((5, 9, 3), vocab=64), []
    said = [answer.tokens for answer in chain.generate(prompts, PLAIN)]
    draft.token_counts = TokenCounts(torch.bincount(torch.cat([torch.tensor(tokens) for tokens in said]), minlength=64))
    for size in (64, 4, 1):
        decoding = way(size, "4/1/4")
        found = chain.generate(prompts, decoding, draft)
        assert [answer.tokens for answer in found] == said
        lengths.append(AcceptStats.of(found).accept_length or 0.0)
    assert lengths[0] > lengths[1] > lengths[2] or lengths[0] == lengths[1] > lengths[2]


def test_an_answer_of_the_backend_names_the_vocabulary_where_it_is_reduced() -> None:
    base, draft, plain = pair("eagle", False)
    backend, sizes = BuiltinBackend.of(base, draft), []
    quiet = Watcher(on_tokens=lambda _: None, on_step=lambda _: None, stop_asked=lambda: False, trees=False)
    for choice in (9, "whole", "auto", VOCAB):
        written = backend.answer(PROMPTS[0], way(choice), quiet)
        assert written.tokens == plain[0]
        sizes.append(written.draft_vocab_size)
    assert sizes == [9, 0, 0, 0]
