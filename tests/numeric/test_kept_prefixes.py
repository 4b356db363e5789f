"""A decoder that keeps keys and values of a conversation answers as one that reads every prompt whole, in float32."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.engine.decoding.completion import Completion, Listener
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, perfect_pair, ragged_prompts, tiny_base, tiny_draft

KINDS = [ReferenceDecoder, FastDecoder]
WAY = DecodingSpec(tree=TreeSpec.parse("3/2/5"), max_new_tokens=14, ignore_eos=True)
PLAIN = WAY.model_copy(update={"plain": True})
FIRST, MORE, OTHER = ragged_prompts((9, 5, 21))


def keeping(kind: type[Any], base: BaseLM) -> Decoder:
    decoder = kind(base)
    decoder.keep_prefixes = True
    return decoder


def fresh(base: BaseLM, prompt: list[int], way: DecodingSpec, draft: Any) -> Completion:
    (answer,) = ReferenceDecoder(base).generate([prompt], way, draft)
    assert answer.kept_tokens == 0
    return answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_turn_reads_only_what_is_new_and_answers_alike(family: str, kind: type[Any]) -> None:
    windows = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    base = tiny_base(family, **windows)
    draft, decoder = tiny_draft(base), keeping(kind, base)
    (answer,) = decoder.generate([FIRST], WAY, draft)
    second = FIRST + answer.tokens + MORE
    (found,) = decoder.generate([second], WAY, draft)
    expected = fresh(base, second, WAY, draft)
    assert found.tokens == expected.tokens and found.steps == expected.steps
    assert found.kept_tokens == len(FIRST) + len(answer.tokens) - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ["eagle", "eagle3", "latent"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_conversations_that_are_edited_stopped_and_decoded_in_turns_answer_as_fresh_ones(
    kind: type[Any], algorithm: str, data: st.DataObject
) -> None:
    base, perfect = perfect_pair(seed=1) if algorithm == "eagle" else (BASES[algorithm], None)
    draft = perfect or DRAFTS[algorithm]
    decoder, held = keeping(kind, base), list(FIRST)
    for turn in range(data.draw(st.integers(2, 4))):
        cut = data.draw(st.integers(1, len(held)), label="tokens of the conversation that stay")
        prompt = held[:cut] + ragged_prompts((data.draw(st.integers(1, 40)),), seed=turn)[0]
        way = data.draw(st.sampled_from([WAY, PLAIN]))
        way = way.model_copy(update={"sampling": SamplingSpec(temperature=data.draw(st.sampled_from([0.0, 0.9])))})
        stop = data.draw(st.sampled_from([100, 2]))
        (found,) = decoder.generate([prompt], way, draft, listener=StopsAfter(stop))
        expected = fresh(base, prompt, way, draft)
        assert found.tokens == expected.tokens[: len(found.tokens)]
        assert found.tokens == expected.tokens or found.stop_reason == "stopped"
        held = prompt + found.tokens


BASES = {name: tiny_base() for name in ("eagle3", "latent")}
DRAFTS = {name: tiny_draft(base, algorithm=name) for name, base in BASES.items()}


class StopsAfter(Listener):
    """Asks for the end after so many looks."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def stop_asked(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.mark.parametrize("kind", KINDS)
def test_another_conversation_and_a_draft_that_was_loaded_meanwhile_are_read_whole(kind: type[Any]) -> None:
    base = tiny_base()
    draft, other = tiny_draft(base), tiny_draft(base, algorithm="eagle3")
    decoder = keeping(kind, base)
    (answer,) = decoder.generate([FIRST], WAY, draft)
    longer = FIRST + answer.tokens + MORE
    for prompt, proposer in ((longer, other), (OTHER, draft), (longer, draft)):
        (found,) = decoder.generate([prompt], WAY, proposer)
        assert found.kept_tokens == 0
        assert found.tokens == fresh(base, prompt, WAY, proposer).tokens


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_between_two_turns_does_not_spoil_them(kind: type[Any]) -> None:
    """Batches, answers for datasets, and a conversation that outgrows its tables."""
    base = tiny_base()
    draft, decoder = tiny_draft(base), keeping(kind, base)
    held = list(FIRST)
    for turn in range(3):
        (found,) = decoder.generate([held], WAY.model_copy(update={"max_new_tokens": 14 + 40 * turn}), draft)
        assert found.tokens[:14] == fresh(base, held, WAY, draft).tokens
        list(decoder.write_answers([(0, OTHER)], SamplingSpec(), 5, 1))
        decoder.generate([OTHER, MORE], WAY, draft)
        held = held + found.tokens + MORE


def test_tables_that_longer_ones_have_replaced_are_not_taken_for_them() -> None:
    base = tiny_base(context=1024)
    draft, decoder = tiny_draft(base), FastDecoder(base)
    decoder.keep_prefixes, decoder._most_outgrown = True, 1 << 30  # of a base whose weights are larger than its tables
    long, rest = ragged_prompts((300, 290), seed=2)
    for prompt in (MORE, long):  # programs over tables of two lengths
        decoder.generate([prompt], WAY, draft)
    (answer,) = decoder.generate([FIRST], WAY, draft)
    prompt = FIRST + answer.tokens + rest
    (found,) = decoder.generate([prompt], WAY, draft)
    assert found.tokens == fresh(base, prompt, WAY, draft).tokens and found.kept_tokens == 0


def test_a_measurement_reads_every_prompt_whole() -> None:
    base = tiny_base()
    decoder = keeping(FastDecoder, base)
    decoder.generate([FIRST], WAY, draft := tiny_draft(base))
    decoder.keep_prefixes = False
    assert [decoder.generate([FIRST], WAY, draft)[0].kept_tokens for _ in range(2)] == [0, 0]
    decoder.keep_prefixes = True
    assert [decoder.generate([FIRST], WAY, draft)[0].kept_tokens for _ in range(2)] == [0, len(FIRST) - 1]
