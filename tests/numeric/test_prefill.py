"""Prompts read in parts, and prompts whose beginning is kept, against prompts read at once: equal in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.catalog import list_cards
from hetspec_core.engine.decoding import prompts as prompts_module
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.decoding.prompts import most_prefilled, prompt_parts
from hetspec_core.engine.decoding.rows import PlainRows, SpeculativeRows
from hetspec_core.engine.modeling.attention import attend
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.experts import has_experts
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, ragged_prompts, tiny_base, tiny_draft

BACKBONES = [card.name for card in list_cards("backbones")]
ALGORITHMS = [card.name for card in list_cards("algorithms")]
SHAPE = TreeSpec.parse("3/2/6")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts_module, "FEWEST_PREFILLED", 1)


def speculative(base: BaseLM, draft: DraftLM, prompts: list[list[int]], most: int | None = None) -> SpeculativeRows:
    rows = SpeculativeRows(base, draft, len(prompts), 120, SHAPE, SamplingSpec())
    rows.most_prefilled = most or rows.most_prefilled
    return rows


def check_same(found: Any, expected: Any, prompts: list[list[int]]) -> None:
    """Tables below the lengths, roots and states of rows."""
    with torch.inference_mode():
        assert found.root.tolist() == expected.root.tolist() and found.age.tolist() == expected.age.tolist()
        torch.testing.assert_close(found.state, expected.state, rtol=1e-3, atol=1e-3)
        for name in ("base_cache", "draft_cache"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert ours.lengths.tolist() == ours.host_lengths == theirs.host_lengths == [len(p) for p in prompts]
            for layer in theirs._keys:
                for row, prompt in enumerate(prompts):
                    for mine, other in ((ours._keys, theirs._keys), (ours._values, theirs._values)):
                        held = [table[layer][row, :, : len(prompt)] for table in (mine, other)]
                        torch.testing.assert_close(*held, rtol=1e-3, atol=1e-3)


def check_parts(base: BaseLM, draft: DraftLM, lengths: tuple[int, ...], most: int) -> None:
    prompts = ragged_prompts(lengths)
    whole, parted = speculative(base, draft, prompts), speculative(base, draft, prompts, most)
    with torch.inference_mode():
        whole.prefill(prompts)
        parted.prefill(ragged_prompts(lengths[::-1], seed=5))  # what is left in the tables must not be seen
        parted.prefill(prompts)
    check_same(parted, whole, prompts)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_parts_gives_what_it_gives_at_once_for_every_family(family: str) -> None:
    windows = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    base = tiny_base(family, **windows)
    check_parts(base, tiny_draft(base), (23, 1, 9), 12)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_prompt_in_parts_gives_what_it_gives_at_once_for_every_draft(algorithm: str, backbone: str) -> None:
    base = tiny_base()
    check_parts(base, tiny_draft(base, backbone, algorithm=algorithm), (23, 1, 9), 12)


BASE = tiny_base()
DRAFT = tiny_draft(BASE, algorithm="eagle3")


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4), most=st.integers(1, 80), data=st.data())
def test_parts_and_kept_tokens_of_all_sizes_give_what_whole_prompts_give(
    lengths: list[int], most: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts_module, "FEWEST_PREFILLED", 1)
        check_parts(BASE, DRAFT, tuple(lengths), most)
        prompts = ragged_prompts(tuple(lengths), seed=1)
        kept = [data.draw(st.integers(0, length - 1)) for length in lengths]
        # Other prompts with the same beginnings fill the tables; the token behind what is kept is the same too.
        before = [
            prompt[: count + 1] + other
            for prompt, count, other in zip(prompts, kept, ragged_prompts((7, 3, 1, 5)), strict=False)
        ]
        whole, partial = speculative(BASE, DRAFT, prompts), speculative(BASE, DRAFT, prompts, most)
        with torch.inference_mode():
            whole.prefill(prompts)
            partial.prefill(before)
            partial.prefill(prompts, kept)
        check_same(partial, whole, prompts)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    most=st.integers(1, 60),
    rows=st.permutations(range(4)),
    data=st.data(),
)
def test_plain_rows_admit_prompts_in_parts_beside_others_that_go_on(
    lengths: list[int], most: int, rows: list[int], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(prompts_module, "FEWEST_PREFILLED", 1)
        others = ragged_prompts((3, 30, 11, 7), seed=3)
        prompts, where = ragged_prompts(tuple(lengths)), list(rows[: len(lengths)])
        kept = [data.draw(st.integers(0, length - 1)) for length in lengths]
        seeds, told = [0] * len(prompts), []
        for parts in (None, most):
            work = PlainRows(BASE, 4, 64, SamplingSpec())
            work.most_prefilled = parts or work.most_prefilled
            tokens = [work.admit([0, 1, 2, 3], others, [0] * 4), work.step()]
            if parts is not None:  # the rows have read the beginnings of their prompts
                work.admit(where, [prompt[: count + 1] for prompt, count in zip(prompts, kept, strict=True)], seeds)
            tokens.append(work.admit(where, prompts, seeds, kept if parts is not None else None))
            told.append([*tokens, work.step(), work.step()])
        assert told[0] == told[1]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", [ReferenceDecoder, FastDecoder])
def test_answers_to_prompts_in_parts_are_those_to_whole_prompts(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = DecodingSpec(tree=SHAPE, max_new_tokens=12, ignore_eos=True)
    prompts = ragged_prompts((33, 5, 70))
    expected = [ReferenceDecoder(BASE).generate(prompts, decoding, each) for each in (DRAFT, None)]
    monkeypatch.setattr("hetspec_core.engine.decoding.rows.most_prefilled", lambda base: 30)
    found = [kind(BASE).generate(prompts, decoding, each) for each in (DRAFT, None)]
    assert [[a.tokens for a in answers] for answers in found] == [[a.tokens for a in answers] for answers in expected]


def test_no_forward_reads_more_tokens_than_fit_and_short_prompts_are_read_at_once_without_a_mask() -> None:
    short, long = ragged_prompts((40, 9)), ragged_prompts((2000, 700, 1))
    (part,) = prompt_parts(BASE, short, None, 1000)
    assert part.mask is None and part.positions is None and part.visible == 0 and part.last
    parts = list(prompt_parts(BASE, long, None, 1000))
    assert [part.ids.shape for part in parts] == [(3, 333)] * 6 + [(3, 2)]
    assert [part.last for part in parts] == [False] * 6 + [True]
    assert parts[0].mask is None and all(part.mask is not None for part in parts[1:])
    # Of Llama 2 7B in bfloat16 so many tokens have 512 MiB of states.
    assert 1900 < most_prefilled(tiny_like(layers=32, width=4096, dtype=torch.bfloat16)) < 2048
    assert most_prefilled(tiny_like(layers=80, width=8192, dtype=torch.float32)) == 256


def tiny_like(layers: int, width: int, dtype: torch.dtype) -> Any:
    class Sizes:
        num_layers, hidden_size = layers, width

    Sizes.dtype = dtype  # type: ignore[attr-defined]
    return Sizes


@pytest.mark.parametrize("kept", [[3], [-1], [4]])
def test_more_kept_tokens_than_a_prompt_has_are_refused(kept: list[int]) -> None:
    with pytest.raises(ValueError, match="kept"):
        list(prompt_parts(BASE, [[1, 2, 3]], kept, 100))


@settings(max_examples=30, deadline=None)
@given(
    queries=st.integers(257, 300),
    behind=st.integers(0, 200),
    heads=st.sampled_from([(4, 2), (2, 2), (3, 1)]),
    softcap=st.sampled_from([None, 5.0]),
    rows=st.integers(1, 2),
)
def test_attention_of_many_queries_equals_that_of_few(
    queries: int, behind: int, heads: tuple[int, int], softcap: float | None, rows: int
) -> None:
    """A long block goes another way than a tree; taken apart into short blocks, it goes the way of the tree."""
    random = torch.Generator().manual_seed(queries * behind)
    query = torch.randn(rows, heads[0], queries, 8, generator=random)
    key, value = (torch.randn(rows, heads[1], behind + queries, 8, generator=random) for _ in range(2))
    mask = (torch.arange(behind + queries) <= behind + torch.arange(queries)[:, None])[None, None]
    short = [
        attend(query[:, :, start : start + 64], key, value, mask[:, :, start : start + 64], 0.3, softcap)
        for start in range(0, queries, 64)
    ]
    torch.testing.assert_close(attend(query, key, value, mask, 0.3, softcap), torch.cat(short, dim=2))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_padded_to_a_few_widths_give_the_answers_of_the_reference(family: str) -> None:
    windows = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    base = tiny_base(family, **windows)
    draft, decoding = tiny_draft(base), DecodingSpec(tree=SHAPE, max_new_tokens=9, ignore_eos=True)
    fast, reference = FastDecoder(base), ReferenceDecoder(base)
    for lengths in ((5, 61), (64, 3), (20, 65)):
        prompts = ragged_prompts(lengths)
        for proposer in (draft, None):
            found = [answer.tokens for answer in fast.generate(prompts, decoding, proposer)]
            assert found == [answer.tokens for answer in reference.generate(prompts, decoding, proposer)]
    widths = {width for program in fast._programs.values() for width in program.prefills._made}
    assert widths == (set() if has_experts(base.config) else {64, 128})


def test_a_prompt_beyond_the_context_or_the_tables_is_not_padded() -> None:
    base = tiny_base(context=100)
    draft, fast = tiny_draft(base), FastDecoder(base)
    (prompt,) = ragged_prompts((90,))
    decoding = DecodingSpec(tree=SHAPE, max_new_tokens=8, ignore_eos=True)
    for proposer in (draft, None):
        (answer,) = fast.generate([prompt], decoding, proposer)
        assert answer.tokens == ReferenceDecoder(base).generate([prompt], decoding, proposer)[0].tokens
    assert all(not program.prefills._made for program in fast._programs.values())
