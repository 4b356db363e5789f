"""The fast decoder as CUDA graphs against the reference: equal tokens in float32 for families, drafts and batches."""

from __future__ import annotations

import gc

import pytest
import torch

from hetspec_core.catalog import list_cards
from hetspec_core.engine.decoding.completion import Listener, PhaseClock
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.decoding.opening import open_decoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.events.chat import Step
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, ragged_prompts, tiny_base, tiny_draft

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

BACKBONES = [card.name for card in list_cards("backbones")]
ALGORITHMS = [card.name for card in list_cards("algorithms")]
PROMPTS = ragged_prompts((7, 1, 19, 4, 2, 9, 3, 5))


@pytest.fixture(autouse=True)
def exact_products():
    torch.backends.cuda.matmul.allow_tf32 = False
    yield


def on_gpu(family: str = "llama") -> BaseLM:
    base = tiny_base(family)
    base.model.to("cuda")
    return base


def compare(base: BaseLM, draft, rows: int, sampling: SamplingSpec) -> list[str]:
    """Hold the fast decoder to the reference; returns its notices."""
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True, sampling=sampling)
    fast = open_decoder(base)
    assert isinstance(fast, FastDecoder)
    for draft_or_none in (draft, None):
        expected = ReferenceDecoder(base).generate(PROMPTS[:rows], decoding, draft_or_none)
        for _ in range(2):
            found = fast.generate(PROMPTS[:rows], decoding, draft_or_none)
            assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
            assert [answer.steps for answer in found] == [answer.steps for answer in expected]
    return fast.notices


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_give_the_reference_answers_for_every_family(family: str) -> None:
    base = on_gpu(family)
    draft = tiny_draft(base).to("cuda").bind(base)
    for rows in (1, 3, 8):
        assert compare(base, draft, rows, SamplingSpec()) == []


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_graphs_give_the_reference_answers_for_every_draft(algorithm: str, backbone: str) -> None:
    base = on_gpu()
    draft = tiny_draft(base, algorithm=algorithm, backbone=backbone, vocab=(1, 2, 3, 5, 8, 13, 21))
    assert compare(base, draft.to("cuda").bind(base), 3, SamplingSpec()) == []


MIXED = [("qwen3_moe", "llama"), ("llama", "qwen3-moe"), ("qwen3_moe", "qwen3-moe")]


@pytest.mark.parametrize(("family", "backbone"), MIXED)
@pytest.mark.parametrize("rows", [1, 8])
def test_mixtures_in_bfloat16_are_captured_or_the_reference_answers_with_a_notice(
    family: str, backbone: str, rows: int
) -> None:
    """Tokens are those of the reference only where no two logits are within rounding, so they are not compared."""
    base = on_gpu(family)
    draft = tiny_draft(base, backbone).to("cuda", torch.bfloat16)
    base.model.to(torch.bfloat16)
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True)
    fast = FastDecoder(base)
    for draft_or_none in (draft.bind(base), None):
        for _ in range(2):
            found = fast.generate(PROMPTS[:rows], decoding, draft_or_none)
            assert [len(answer.tokens) for answer in found] == [24] * rows
    assert all("cannot be captured" in notice for notice in fast.notices)
    assert bool(fast.notices) == (fast.used == "reference")


def test_tables_and_graphs_take_little_more_than_the_weights_and_caches_of_the_reference() -> None:
    """Reserved memory, graphs and their pools included; of sizes at which weights and tables outweigh workspaces."""
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 12, "head_dim": 64}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4, "initializer_range": 0.02}
    decoding = DecodingSpec(tree=TreeSpec.parse("6/10/60"), max_new_tokens=64, ignore_eos=True)
    prompts = ragged_prompts((900, 512))

    def peak(kind: type[ReferenceDecoder] | type[FastDecoder]) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        base = tiny_base(vocab=32000, context=2048, **sizes, **heads)
        base.model.to("cuda", torch.bfloat16)
        draft = tiny_draft(base).to("cuda", torch.bfloat16).bind(base)
        decoder = kind(base)
        for rows in (1, 2):
            for draft_or_none in (draft, None):
                decoder.generate(prompts[:rows], decoding, draft_or_none)
        assert decoder.notices == []
        return torch.cuda.max_memory_reserved() - before

    peak(ReferenceDecoder)  # libraries allocate their workspaces
    reference, fast = peak(ReferenceDecoder), peak(FastDecoder)
    assert fast <= 1.3 * reference, f"{fast / 2**20:.0f} MiB, the reference {reference / 2**20:.0f}"


@pytest.mark.parametrize("compiled", [False, True])
def test_prompts_by_graphs_and_a_second_turn_over_kept_tables_answers_as_a_fresh_reference(compiled: bool) -> None:
    base = tiny_base(context=1024)
    base.model.to("cuda")
    draft = tiny_draft(base).to("cuda").bind(base)
    fast = FastDecoder(base, compiled=compiled)
    fast.keep_prefixes = True
    way = DecodingSpec(tree=TreeSpec.parse("3/2/6"), max_new_tokens=24, ignore_eos=True)
    for lengths in ((30,), (60, 7), (33,), (300,)):  # by graphs of their widths
        for proposer in (draft, None):
            found = [answer.tokens for answer in fast.generate(ragged_prompts(lengths), way, proposer)]
            assert found == [
                each.tokens for each in ReferenceDecoder(base).generate(ragged_prompts(lengths), way, proposer)
            ]
    (prompt,) = ragged_prompts((40,))
    for turn in range(3):
        (found,) = fast.generate([prompt], way, draft)
        assert found.tokens == ReferenceDecoder(base).generate([prompt], way, draft)[0].tokens
        assert turn == 0 or found.kept_tokens > 0
        prompt = prompt + found.tokens + ragged_prompts((9,), seed=turn)[0]
    assert fast.notices == []


def test_graphs_sample_the_reference_answers_with_the_same_seed() -> None:
    base = on_gpu()
    draft = tiny_draft(base).to("cuda").bind(base)
    for seed in range(3):
        assert compare(base, draft, 3, SamplingSpec(temperature=0.9, top_p=0.9, seed=seed)) == []


def test_a_fused_program_gives_the_reference_answers() -> None:
    base = on_gpu()
    draft = tiny_draft(base, vocab=(1, 2, 3, 5, 8, 13, 21)).to("cuda").bind(base)
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True)
    fused = FastDecoder(base, compiled=True)
    told: list[str] = []
    fused.on_compile = lambda program, seconds: told.append(program) if seconds == 0 else None
    for draft_or_none in (draft, None):
        expected = ReferenceDecoder(base).generate(PROMPTS[:3], decoding, draft_or_none)
        found = fused.generate(PROMPTS[:3], decoding, draft_or_none)
        assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]
    assert fused.notices == [] and told == ["program 1", "program 2"]


def test_a_compiler_that_fails_is_noticed_and_graphs_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    base = on_gpu()
    draft = tiny_draft(base).to("cuda").bind(base)
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the compiler is broken")

    monkeypatch.setattr(torch, "compile", broken)
    fused = FastDecoder(base, compiled=True)
    found = fused.generate(PROMPTS[:2], decoding, draft)
    assert [a.tokens for a in found] == [
        a.tokens for a in ReferenceDecoder(base).generate(PROMPTS[:2], decoding, draft)
    ]
    assert fused.notices == ["decoding goes on without torch.compile: the compiler is broken"]


def test_a_device_without_room_is_noticed_and_the_reference_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    base = on_gpu()
    draft = tiny_draft(base).to("cuda").bind(base)
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True)
    fast = FastDecoder(base)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("hetspec_core.engine.decoding.programs.Cycle.__init__", full)
    found = fast.generate(PROMPTS[:2], decoding, draft)
    assert [a.tokens for a in found] == [
        a.tokens for a in ReferenceDecoder(base).generate(PROMPTS[:2], decoding, draft)
    ]
    assert len(fast.notices) == 2 and "short of memory" in fast.notices[0] and "no memory left" in fast.notices[1]


class Watching(Listener):
    """Keeps the steps with their trees; times the phases."""

    def __init__(self) -> None:
        self.trees, self.clock = True, PhaseClock(torch.device("cuda"))
        self.steps: list[tuple[int, Step]] = []

    def on_step(self, row: int, step: Step) -> None:
        self.steps.append((row, step))


def test_a_viewer_sees_the_trees_of_the_reference_and_the_seconds_of_every_phase() -> None:
    base = on_gpu()
    draft = tiny_draft(base).to("cuda").bind(base)
    decoding = DecodingSpec(tree=TreeSpec.parse("4/3/9"), max_new_tokens=24, ignore_eos=True)
    expected, found = Watching(), Watching()
    ReferenceDecoder(base).generate(PROMPTS[:3], decoding, draft, listener=expected)
    fast = FastDecoder(base)
    for _ in range(2):
        found.steps.clear()
        fast.generate(PROMPTS[:3], decoding, draft, listener=found)
        assert fast.notices == [] and len(found.steps) == len(expected.steps)
        for (row, step), (other_row, other) in zip(found.steps, expected.steps, strict=True):
            assert row == other_row and step.committed == other.committed
            assert step.tree is not None and other.tree is not None
            assert (step.tree.tokens, step.tree.parents, step.tree.path) == (
                other.tree.tokens,
                other.tree.parents,
                other.tree.path,
            )
            assert 0 < step.propose_s < 1 and 0 < step.verify_s < 1
