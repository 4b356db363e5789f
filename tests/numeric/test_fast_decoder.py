"""The fast decoder against the reference, token by token in float32, on a CPU, where its programs run uncaptured.

What a graph adds is tested on a GPU (tests/gpu).
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import Counter
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.catalog import list_cards
from hetspec_core.engine.decoding.completion import Completion, Listener, PhaseClock
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder, bucket
from hetspec_core.engine.decoding.rows import PlainRows
from hetspec_core.engine.modeling.attention import attend, key_bounds
from hetspec_core.engine.modeling.regions import layers_of
from hetspec_core.events.chat import Step
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, perfect_pair, ragged_prompts, tiny_base, tiny_draft

BACKBONES = [card.name for card in list_cards("backbones")]
ALGORITHMS = [card.name for card in list_cards("algorithms")]
PROMPTS = ragged_prompts((7, 1, 19, 4, 2, 9, 3, 5))


def way(tree: str = "3/3/8", **options: Any) -> DecodingSpec:
    return DecodingSpec(tree=TreeSpec.parse(tree), **({"max_new_tokens": 16, "ignore_eos": True} | options))


def facts(answers: list[Completion]) -> list[tuple[list[int], str, list[Any], list[Any]]]:
    return [
        (answer.tokens, answer.stop_reason, answer.steps, [(step.ranks, step.children) for step in answer.steps])
        for answer in answers
    ]


class Kept(Listener):
    def __init__(self, device: torch.device | None = None, trees: bool = False, stop_after: int | None = None) -> None:
        self.trees, self.clock = trees, None if device is None else PhaseClock(device)
        self.told: list[tuple[int, Any]] = []
        self.left = stop_after

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        self.told.append((row, tokens))

    def on_step(self, row: int, step: Step) -> None:
        plain = step.model_dump(exclude={"propose_s", "verify_s", "other_s", "elapsed_s"})
        if step.tree is not None:
            plain["tree"] = step.tree.model_dump(
                exclude={"propose_s", "verify_s", "other_s", "base_probs", "bonus_prob"}
            )
        self.told.append((row, plain))

    def stop_asked(self) -> bool:
        if self.left is not None:
            self.left -= 1
        return self.left is not None and self.left < 0


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_the_reference_for_every_family(family: str) -> None:
    base = tiny_base(family)
    draft = tiny_draft(base)
    reference, fast = ReferenceDecoder(base), FastDecoder(base)
    for rows in (1, 3, 8):
        for draft_or_none in (draft, None):
            expected = reference.generate(PROMPTS[:rows], way(), draft_or_none)
            assert facts(fast.generate(PROMPTS[:rows], way(), draft_or_none)) == facts(expected)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_answers_equal_the_reference_for_every_draft(algorithm: str, backbone: str) -> None:
    base = tiny_base()
    draft = tiny_draft(base, algorithm=algorithm, backbone=backbone, vocab=(1, 2, 3, 5, 8, 13, 21))
    expected = ReferenceDecoder(base).generate(PROMPTS[:3], way("4/2/7"), draft)
    assert facts(FastDecoder(base).generate(PROMPTS[:3], way("4/2/7"), draft)) == facts(expected)


@settings(max_examples=25, deadline=None)
@given(
    tree=st.sampled_from(["1/1/1", "1/3/2", "4/1/4", "3/3/21", "6/10/60"]),
    rows=st.integers(1, 4),
    limit=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.7]),
    seed=st.integers(0, 3),
    most=st.sampled_from([None, 1, 2]),
    ends=st.booleans(),
)
def test_limits_stop_tokens_seeds_and_trees_give_the_reference_answers(
    tree: str, rows: int, limit: int, temperature: float, seed: int, most: int | None, ends: bool
) -> None:
    base, draft = perfect_pair(seed=1)
    base.stop_ids = frozenset({3, 7, 11}) if ends else frozenset()
    decoding = way(
        tree,
        max_new_tokens=limit,
        ignore_eos=False,
        sampling=SamplingSpec(temperature=temperature, top_k=5 if seed % 2 else 0, seed=seed),
    )
    fast = FastDecoder(base)
    for _ in range(2):  # the second batch uses the program of the first
        for draft_or_none in (draft, None):
            expected = ReferenceDecoder(base).generate(PROMPTS[:rows], decoding, draft_or_none, most_per_step=most)
            found = fast.generate(PROMPTS[:rows], decoding, draft_or_none, most_per_step=most)
            assert facts(found) == facts(expected)


def test_programs_of_one_batch_size_fill_the_same_tables_one_after_the_other() -> None:
    base = tiny_base()
    first, second = tiny_draft(base), tiny_draft(base, algorithm="eagle3")
    fast = FastDecoder(base)
    asked = [("6/10/60", first), ("3/3/8", first), ("3/3/8", None), ("3/3/8", second), ("4/1/4", second)]
    for tree, draft_or_none in asked * 2:
        expected = ReferenceDecoder(base).generate(PROMPTS[:3], way(tree), draft_or_none)
        assert facts(fast.generate(PROMPTS[:3], way(tree), draft_or_none)) == facts(expected)
    caches = [
        program.cache if isinstance(program, PlainRows) else program.rows.base_cache
        for program in fast._programs.values()
    ]
    assert len(caches) == len(asked)
    assert len({cache._keys[0].data_ptr() for cache in caches}) == 1


def test_programs_over_tables_that_longer_ones_have_replaced_are_given_up_when_these_take_much_memory() -> None:
    base = tiny_base(context=4096)
    fast, prompts = FastDecoder(base), ragged_prompts((20, 300, 600, 900))
    weights = sum(weight.nbytes for weight in base.model.parameters())
    for prompt in (*prompts, *prompts[::-1]):
        expected = ReferenceDecoder(base).generate([prompt], way())
        assert facts(fast.generate([prompt], way())) == facts(expected)
        held: dict[int, int] = {}
        for program in fast._programs.values():
            held |= program.cache.outgrown
        assert sum(held.values()) <= 0.15 * weights
    assert len(fast._programs) == 4  # on the way back all fill the longest tables
    fast._most_outgrown = 10 * weights
    fast.generate(ragged_prompts((2000,)), way())
    assert len(fast._programs) == 5


def test_a_forgotten_draft_keeps_no_program_and_is_freed() -> None:
    base = tiny_base()
    draft, other = tiny_draft(base), tiny_draft(base)
    fast = FastDecoder(base)
    for each in (draft, other, None):
        fast.generate(PROMPTS[:1], way(), each)
    fast.forget(draft)
    assert len(fast._programs) == 2
    freed = weakref.ref(draft)
    del draft, each
    gc.collect()
    assert freed() is None


def test_answers_end_at_the_context_as_the_reference_does() -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    base.max_length = 24
    for draft_or_none in (draft, None):
        expected = ReferenceDecoder(base).generate(PROMPTS[:3], way(max_new_tokens=60), draft_or_none)
        found = FastDecoder(base).generate(PROMPTS[:3], way(max_new_tokens=60), draft_or_none)
        assert facts(found) == facts(expected)
        assert {answer.stop_reason for answer in found} == {"context"}


@pytest.mark.parametrize("trees", [False, True])
@pytest.mark.parametrize("phased", [False, True])
def test_a_listener_is_told_what_the_reference_tells(trees: bool, phased: bool) -> None:
    base, draft = perfect_pair(seed=1)

    def told(decoder: Decoder) -> list[tuple[int, Any]]:
        listener = Kept(base.device if phased else None, trees)
        decoder.generate(PROMPTS[:3], way(), draft, listener=listener)
        return listener.told

    assert told(FastDecoder(base)) == told(ReferenceDecoder(base))


def test_a_listener_can_stop_and_the_next_answer_is_whole() -> None:
    base, draft = perfect_pair(seed=1)
    fast = FastDecoder(base)
    whole = fast.generate(PROMPTS[:2], way(), draft)
    stopped = fast.generate(PROMPTS[:2], way(), draft, listener=Kept(stop_after=2))
    assert [answer.stop_reason for answer in stopped] == ["stopped", "stopped"]
    for cut, answer in zip(stopped, whole, strict=True):
        assert cut.tokens == answer.tokens[: len(cut.tokens)] and len(cut.tokens) < len(answer.tokens)
    assert facts(fast.generate(PROMPTS[:2], way(), draft)) == facts(whole)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_streams_of_prompts_get_the_reference_answers(temperature: float) -> None:
    base = tiny_base()
    base.stop_ids = frozenset({3, 7, 11, 13})
    prompts = [(number, prompt) for number, prompt in enumerate(ragged_prompts((3, 9, 1, 14, 6, 2, 8, 5, 4, 7, 11)))]
    sampling = SamplingSpec(temperature=temperature, seed=2)

    def answers(decoder: Decoder) -> dict[int, list[int]]:
        return dict(decoder.write_answers(prompts, sampling, 18, 4, seed_of=lambda number: number))

    assert answers(FastDecoder(base)) == answers(ReferenceDecoder(base))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_are_alike_share_one_compiled_region(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a compiler, and run as traced: what Inductor makes of it is tested on a GPU."""
    traced: Counter[str] = Counter()

    def fuse(work: Any, *, tuned: bool = False) -> Any:
        def run_as_traced(graph: torch.fx.GraphModule, _: Any) -> Any:
            traced[work.__qualname__] += 1
            return graph.forward

        return torch.compile(work, dynamic=False, backend=run_as_traced)

    monkeypatch.setattr("hetspec_core.engine.modeling.regions.fuse", fuse)
    monkeypatch.setattr("hetspec_core.engine.decoding.programs.fuse", fuse)
    torch.compiler.reset()
    base = tiny_base(family)
    draft, fast = tiny_draft(base), FastDecoder(base, compiled=True)
    for draft_or_none in (draft, None):
        expected = ReferenceDecoder(base).generate(PROMPTS[:3], way(), draft_or_none)
        assert facts(fast.generate(PROMPTS[:3], way(), draft_or_none)) == facts(expected)
    torch.compiler.reset()
    assert fast.notices == [] and "forward" not in vars(base.decoder)
    layers = layers_of(base.decoder)
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(len(layers)))
    for layer in layers:
        kinds = {getattr(each.self_attn, "layer_type", None) for each in layers}
        assert traced[f"{type(layer).__name__}.forward"] == 2 * len(kinds)  # two programs
    if not layers:
        assert traced[f"{type(base.decoder).__name__}.forward"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_the_bounds_of_the_mask_to_its_attention(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, seen = tiny_base(family), []
    monkeypatch.setattr("hetspec_core.engine.modeling.attention.is_fused", lambda query: True)
    kernels = ModuleType("hetspec_core.engine.modeling.kernels")

    def masked_attention(query, key, value, mask, bounds, scale, softcap):
        seen.append(bounds)
        with monkeypatch.context() as patch:
            patch.setattr("hetspec_core.engine.modeling.attention.is_fused", lambda query: False)
            return attend(query, key, value, mask, scale, softcap)

    kernels.masked_attention = masked_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    ids = torch.tensor([[3, 5, 8, 1], [2, 2, 9, 4]])
    mask = torch.ones(4, 4, dtype=torch.bool).tril().expand(2, 1, 4, 4)
    bounds = key_bounds(mask)
    assert bounds.tolist() == [[0, 4], [0, 4]]
    expected = base.forward(ids).hidden
    seen.clear()
    found = base.forward(ids, mask=mask, bounds=bounds).hidden
    torch.testing.assert_close(found, expected)
    assert len(seen) == 2 and any(each is bounds for each in seen)  # a layer with a window has bounds of its own


@given(st.integers(1, 100_000))
def test_a_bucket_holds_its_length_and_few_buckets_hold_all(length: int) -> None:
    assert length <= bucket(length) <= max(256, 2 * length)
    assert bucket(bucket(length)) == bucket(length)
