"""Writing many answers with rows that are refilled: every key once, and every answer as if it were alone."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.engine.decoding.decoder import ReferenceDecoder, generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError
from hetspec_core.spec import DecodingSpec, SamplingSpec
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft

GREEDY = SamplingSpec()
CONTEXT = 96


@functools.cache
def base() -> BaseLM:
    """A base that stops soon after some prompts and late after others."""
    return tiny_base(context=CONTEXT, stop_ids=(2, 5, 31))


def alone(prompt: list[int], limit: int, sampling: SamplingSpec = GREEDY) -> list[int]:
    return generate(base(), None, [prompt], DecodingSpec(max_new_tokens=limit, sampling=sampling))[0].tokens


@functools.cache
def greedy_alone(prompt: tuple[int, ...], limit: int) -> list[int]:
    return alone(list(prompt), limit)


def check(lengths: list[int], limit: int, batch_size: int) -> None:
    prompts = ragged_prompts(tuple(lengths), seed=1)
    answers = list(ReferenceDecoder(base()).write_answers(enumerate(prompts), GREEDY, limit, batch_size))
    assert Counter(key for key, _ in answers) == Counter(range(len(prompts)))
    for key, answer in answers:
        assert answer == greedy_alone(tuple(prompts[key]), limit), (key, lengths[key])


@given(
    st.lists(st.sampled_from([1, 2, 7, 20, 60, CONTEXT - 3]), max_size=20),
    st.sampled_from([1, 2, 12]),
    st.sampled_from([1, 2, 3, 9]),
)
@settings(max_examples=15)
def test_every_key_once_with_the_answer_it_has_alone(lengths: list[int], limit: int, batch_size: int) -> None:
    check(lengths, limit, batch_size)


@pytest.mark.parametrize("batch_size", [1, 4, 16, 64])
def test_prompts_that_stop_at_different_times(batch_size: int) -> None:
    answers = {len(greedy_alone(tuple(prompt), 30)) for prompt in ragged_prompts((3,) * 40, seed=1)}
    assert len(answers) > 4 and 30 in answers
    check([3] * 40, 30, batch_size)


def test_longer_prompts_that_arrive_late() -> None:
    check([2] * 25 + [70, 3, 90, 3, 3], 8, 4)
    check([5, 90], 20, 1)
    check([5] * 9 + [90], 20, 2)


def test_prompts_near_the_context_get_shorter_answers() -> None:
    check([CONTEXT - 1, CONTEXT - 2, CONTEXT - 10, 4], 20, 3)


@pytest.mark.parametrize("batch_size", [12, 16])
def test_a_row_that_waits_for_company_does_not_outgrow_its_cache(batch_size: int) -> None:
    """The one long prompt ends first, at the context; its row is free for many steps before a second one is."""
    endless = tiny_base(context=CONTEXT)
    prompts = ragged_prompts((CONTEXT - 2, *[2] * (3 * batch_size)))
    answers = dict(ReferenceDecoder(endless).write_answers(enumerate(prompts), GREEDY, CONTEXT - 8, batch_size))
    assert [len(answers[key]) for key in range(len(prompts))] == [2] + [CONTEXT - 8] * (3 * batch_size)
    settings_alone = DecodingSpec(max_new_tokens=CONTEXT - 8)
    for key in (0, 1, len(prompts) - 1):
        assert answers[key] == generate(endless, None, [prompts[key]], settings_alone)[0].tokens


def test_sampled_answers_depend_on_their_seed_alone() -> None:
    sampling = SamplingSpec(temperature=1.0, seed=3)
    prompts = dict(enumerate(ragged_prompts((4, 4, 9, 2, 30, 4, 4))))

    def answers(order: list[int], batch_size: int) -> dict[int, list[int]]:
        chosen = ((key, prompts[key]) for key in order)
        return dict(
            ReferenceDecoder(base()).write_answers(chosen, sampling, 10, batch_size, seed_of=lambda key: 100 + key)
        )

    first = answers([0, 1, 2, 3, 4, 5, 6], 3)
    assert first == answers([6, 4, 2, 0, 5, 3, 1], 2) == answers([0, 1, 2, 3, 4, 5, 6], 1)
    assert len({tuple(answer) for answer in first.values()}) == 7


def test_equal_prompts_under_different_keys() -> None:
    answers = list(ReferenceDecoder(base()).write_answers([("a", [1, 2]), ("b", [1, 2]), ("c", [1, 2])], GREEDY, 5, 2))
    assert sorted(answers) == [(key, greedy_alone((1, 2), 5)) for key in "abc"]


def test_prompts_are_read_as_rows_become_free() -> None:
    """Not all at once: a source may be a file that does not fit into memory."""
    read = 0

    def source() -> Iterator[tuple[int, list[int]]]:
        nonlocal read
        for key in range(100):
            read += 1
            yield key, [1 + key % 40, 3]

    answers = ReferenceDecoder(base()).write_answers(source(), GREEDY, 4, 2)
    next(answers)
    assert read < 20
    assert len(list(answers)) == 99


def test_nothing_to_answer() -> None:
    assert list(ReferenceDecoder(base()).write_answers([], GREEDY, 4, 2)) == []


@pytest.mark.parametrize("length", [0, CONTEXT])
def test_prompts_without_room_are_refused(length: int) -> None:
    with pytest.raises(DataError):
        list(ReferenceDecoder(base()).write_answers([("x", [1] * length)], GREEDY, 4, 2))


def test_batches_of_plain_and_speculative_answers_equal_those_alone() -> None:
    prompts = ragged_prompts((3, 50, 1, 20, 8), seed=4)
    expected = [greedy_alone(tuple(prompt), 25) for prompt in prompts]
    for draft in (None, tiny_draft(base())):
        answers = generate(base(), draft, prompts, DecodingSpec(max_new_tokens=25))
        assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize("plain", [True, False])
def test_a_prompt_with_a_token_beyond_the_embedding_is_refused(plain: bool) -> None:
    """An added token that the base was made without: the index error of the device would name nothing."""
    draft, decoding = tiny_draft(base()), DecodingSpec(plain=plain, max_new_tokens=4)
    for wrong in (48, -1):
        with pytest.raises(DataError, match=rf"the prompt has token id {wrong}; the embedding of .* has 48 rows"):
            generate(base(), draft, [[3, 4], [5, wrong, 6]], decoding)
    with pytest.raises(DataError, match="token id 48"):
        list(ReferenceDecoder(base()).write_answers([("a", [3, 48])], GREEDY, 4, 2))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_end_where_prompt_and_answer_have_the_longest_length(batch_size: int) -> None:
    endless = tiny_base(context=CONTEXT)
    prompts = dict(enumerate(ragged_prompts((5, 19, 12, 3, 20))))

    answers = dict(ReferenceDecoder(endless).write_answers(prompts.items(), GREEDY, 8, batch_size, max_length=21))

    assert {key: len(answer) for key, answer in answers.items()} == {0: 8, 1: 2, 2: 8, 3: 8, 4: 1}
    for key, answer in answers.items():
        alone_tokens = generate(endless, None, [prompts[key]], DecodingSpec(max_new_tokens=8))[0].tokens
        assert answer == alone_tokens[: len(answer)]


def test_answers_end_at_the_stop_ids_that_are_given() -> None:
    endless = tiny_base(context=CONTEXT)
    free = dict(ReferenceDecoder(endless).write_answers([("a", [1, 2])], GREEDY, 20, 1))["a"]

    stopped = dict(
        ReferenceDecoder(endless).write_answers([("a", [1, 2])], GREEDY, 20, 1, stop_ids=frozenset({free[4]}))
    )["a"]

    assert stopped == free[: free.index(free[4]) + 1]
