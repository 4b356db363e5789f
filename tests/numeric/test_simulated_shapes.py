"""The tree simulator against real runs of a tiny pair: one recording at every position predicts every smaller shape."""

from __future__ import annotations

import functools

import pytest
import torch

from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.backends.backend import Watcher
from hetspec_core.engine.backends.builtin import BuiltinBackend
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.chat import Reply, Tokens
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.events.trace import Trace, TraceHeader
from hetspec_core.service.traces.simulation import Positions, predict, read_positions
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import perfect_pair, ragged_prompts

WIDE, NEW_TOKENS = "5/6/120", 48
SHAPES = ["1/1/1", "3/1/3", "5/1/5", "2/2/4", "3/2/6", "3/3/12", "4/4/20", "5/6/30", "5/6/60", "2/6/42"]
PROMPT = ragged_prompts((9,), seed=4)[0]


class Words:
    """A tokenizer for models that have none."""

    def decode(self, tokens: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f" {token}" for token in tokens)


@functools.cache
def fair_pair() -> tuple[BaseLM, DraftLM]:
    """A base that is not sure, and a draft that is right now and then: the perfect one, disturbed."""
    base, draft = perfect_pair(seed=2, head_factor=2.0)
    base.tokenizer = Words()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in draft.backbone.parameters():
            weight += 0.12 * weight.std() * torch.randn(weight.shape, generator=random)
    return base, draft


def settings(tree: str, temperature: float) -> DecodingSpec:
    return DecodingSpec(
        tree=TreeSpec.parse(tree), max_new_tokens=NEW_TOKENS, sampling=SamplingSpec(temperature=temperature, seed=3)
    )


def record(tree: str, temperature: float) -> Trace:
    """A trace at every position, as the chat worker would write it."""
    base, draft = fair_pair()
    backend = BuiltinBackend.of(base, draft)
    backend.use_draft("memory", "tiny")
    replies: list[Reply] = []

    watcher = Watcher(
        on_tokens=lambda tokens: replies.append(Tokens(ask=1, tokens=tokens, pieces=[""])),
        on_step=replies.append,
        every_position=True,
    )
    backend.answer(PROMPT, settings(tree, temperature), watcher)
    return Trace(header=TraceHeader(messages=[], settings=ChatSettings(draft="x").changed(tree=tree)), replies=replies)


@functools.cache
def recorded(temperature: float) -> Positions:
    return read_positions(record(WIDE, temperature))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_prediction_that_is_certain_is_what_happens(shape: str, temperature: float) -> None:
    base, draft = fair_pair()
    positions = recorded(temperature)
    real = generate(base, draft, [PROMPT], settings(shape, temperature))[0]
    assert real.tokens == positions.tokens
    predicted = predict([positions], TreeSpec.parse(shape))
    assert predicted.own_trees == 1 and not predicted.extrapolated and predicted.certain > 0.8
    accept_length = AcceptStats.of([real]).accept_length
    if predicted.certain == 1:
        assert predicted.accept_length == accept_length
    else:
        assert predicted.accept_length == pytest.approx(accept_length, rel=0.05)


def test_the_pair_is_neither_perfect_nor_hopeless() -> None:
    lengths = [predict([recorded(0.0)], TreeSpec.parse(shape)).accept_length for shape in ("1/1/1", "5/6/60")]
    assert 1.1 < lengths[0] < 2 and lengths[0] + 0.3 < lengths[1] < 5.5


def test_recording_at_every_position_does_not_change_the_answer() -> None:
    base, _ = fair_pair()
    plain = generate(base, None, [PROMPT], settings(WIDE, 0.0))[0]
    assert plain.tokens == recorded(0.0).tokens
    trace = record("3/2/6", 0.0)
    assert [len(step.committed) for step in trace.steps] == [1] * (NEW_TOKENS - 1)
    assert all(step.tree is not None and step.tree.path == [] for step in trace.steps)
