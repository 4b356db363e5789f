"""Weights in the processor's layout: the same products, the same answers, no second copy."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.catalog import list_cards
from hetspec_core.engine.decoding import opening
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.opening import PackedDecoder, open_decoder
from hetspec_core.engine.modeling import packing
from hetspec_core.engine.modeling.attention import attend
from hetspec_core.engine.modeling.fusion import join_projections
from hetspec_core.engine.modeling.packing import pack_head, pack_layers, product
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, ragged_prompts, tiny_base, tiny_draft

pytestmark = pytest.mark.skipif(not packing._packs(), reason="needs a processor that multiplies in bfloat16")

PROMPTS = ragged_prompts((7, 1, 19, 4, 2, 9, 3, 5))


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack float32 as well, so that answers can be compared token by token."""

    def can_pack(weight: torch.Tensor) -> bool:
        return weight.device.type == "cpu" and not weight.is_mkldnn

    monkeypatch.setattr(packing, "can_pack", can_pack)
    monkeypatch.setattr(opening, "can_pack", can_pack)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70),
    width=st.integers(1, 90),
    out=st.integers(1, 200),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    bias=st.booleans(),
)
def test_a_packed_product_is_the_product(rows: int, width: int, out: int, dtype: torch.dtype, bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows * width)
    hidden = torch.randn(1, rows, width, generator=generator).to(dtype)
    weight = torch.randn(out, width, generator=generator).to(dtype)
    added = torch.randn(out, generator=generator).to(dtype) if bias else None
    with torch.inference_mode():
        found = packing._times(hidden, packing._pack(weight), added)
        expected = torch.nn.functional.linear(hidden, weight, added)
    loose = 3e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found, expected, rtol=loose, atol=loose * width**0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_answers_equal_the_reference_for_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch)
    base, other = tiny_base(family), tiny_base(family)
    draft, same = tiny_draft(base), tiny_draft(other)
    reference, packed = ReferenceDecoder(base), open_decoder(other)
    assert isinstance(packed, PackedDecoder) and packed.name == "fast"
    for rows in (1, 3, 8):
        for temperature in (0.0, 0.8):
            way = DecodingSpec(
                tree=TreeSpec.parse("3/3/8"),
                max_new_tokens=12,
                ignore_eos=True,
                sampling=SamplingSpec(temperature=temperature, seed=rows),
            )
            for one, two in ((draft, same), (None, None)):
                expected = reference.generate(PROMPTS[:rows], way, one)
                found = packed.generate(PROMPTS[:rows], way, two)
                assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
                assert [len(answer.steps) for answer in found] == [len(answer.steps) for answer in expected]


@pytest.mark.parametrize("backbone", [card.name for card in list_cards("backbones")])
@pytest.mark.parametrize("algorithm", [card.name for card in list_cards("algorithms")])
def test_packed_answers_equal_the_reference_for_every_draft(
    algorithm: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact(monkeypatch)
    base = tiny_base()
    draft = tiny_draft(base, algorithm=algorithm, backbone=backbone, vocab=(1, 2, 3, 5, 8, 13, 21))
    way = DecodingSpec(tree=TreeSpec.parse("4/2/7"), max_new_tokens=16, ignore_eos=True)
    expected = ReferenceDecoder(base).generate(PROMPTS[:3], way, draft)
    found = open_decoder(base).generate(PROMPTS[:3], way, draft)
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    assert [answer.steps for answer in found] == [answer.steps for answer in expected]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    heads=st.sampled_from([(9, 3), (4, 4), (8, 1)]),
    tokens=st.integers(1, 12),
    slots=st.integers(12, 150),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attention_in_bfloat16_is_that_in_float32(
    rows: int, heads: tuple[int, int], tokens: int, slots: int, masked: bool, seed: int
) -> None:
    """On a CPU it is one kernel over folded queries there, and two products in float32."""
    generator = torch.Generator().manual_seed(seed)
    tokens = tokens if masked else 1
    query = torch.randn(rows, heads[0], tokens, 16, generator=generator)
    key, value = (torch.randn(rows, heads[1], slots, 16, generator=generator) for _ in range(2))
    mask = None
    if masked:
        mask = torch.rand(rows, 1, tokens, slots, generator=generator) < 0.5
        mask[..., 0] = True  # every query sees something
    low = [part.to(torch.bfloat16) for part in (query, key, value)]
    found = attend(*low, mask, 0.25).float()
    expected = attend(*(part.float() for part in low), mask, 0.25)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_packing_keeps_one_copy_and_the_count_of_parameters() -> None:
    decoder = tiny_base().decoder.to(torch.bfloat16)
    before = copy.deepcopy(decoder)
    weights = [weakref.ref(each.weight) for each in decoder.modules() if type(each) is torch.nn.Linear]
    join_projections(decoder)
    assert pack_layers(decoder) == 4 * len(decoder.layers) and pack_layers(decoder) == 0
    assert [weight() for weight in weights] == [None] * len(weights)
    count = sum(parameter.numel() for parameter in decoder.parameters())
    assert count == sum(parameter.numel() for parameter in before.parameters())
    ids = torch.tensor([[3, 5, 8, 1]])
    with torch.inference_mode():
        found, expected = decoder(ids).last_hidden_state, before(ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)


def test_a_packed_head_serves_its_own_weight_only() -> None:
    weight, other = torch.randn(40, 8).bfloat16(), torch.randn(40, 8).bfloat16()
    hidden = torch.randn(2, 8).bfloat16()
    pack_head(weight)
    with torch.inference_mode():
        for each in (weight, other):
            torch.testing.assert_close(product(hidden, each, None), torch.nn.functional.linear(hidden, each))


def test_a_base_in_float32_is_answered_by_the_reference_and_the_reason_is_said() -> None:
    decoder = open_decoder(tiny_base())
    assert decoder.name == "reference" and "bfloat16" in decoder.why


def test_a_base_in_bfloat16_is_packed_unless_the_reference_is_asked_for() -> None:
    base = tiny_base()
    base.model.to(torch.bfloat16)
    assert open_decoder(base, "reference").name == "reference"
    packed = open_decoder(base)
    way = DecodingSpec(tree=TreeSpec.parse("3/2/5"), max_new_tokens=8, ignore_eos=True)
    draft = tiny_draft(base).to(torch.bfloat16).bind(base)
    answers = packed.generate(PROMPTS[:2], way, draft)
    assert packed.name == "fast" and [len(answer.tokens) for answer in answers] == [8, 8]
