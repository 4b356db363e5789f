"""Measuring: who is compared with whom, and what is said of differences."""

from __future__ import annotations

import pytest
import torch

from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.measure import (
    PLAIN,
    Question,
    Track,
    base_gap,
    first_difference,
    measure_questions,
    plain_report,
    profile,
    speculative_report,
)
from hetspec_core.engine.decoding.opening import open_decoder
from hetspec_core.events.results import Lossless
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft

DECODING = DecodingSpec(max_new_tokens=12, ignore_eos=True, tree=TreeSpec.parse("3/2/5"))


@pytest.fixture(scope="module")
def measured():
    base = tiny_base()
    draft = tiny_draft(base)
    questions = [
        Question(number // 2, number % 2, "ab"[number // 2], ids)
        for number, ids in enumerate(ragged_prompts((5, 9, 7, 3)))
    ]
    plain = Track(PLAIN, DECODING.model_copy(update={"plain": True}))
    track = Track("3/2/5", DECODING)
    for question in questions:
        measure_questions(open_decoder(base), draft, [question], [plain, track], repeats=2)
    return base, draft, questions, plain, track


def test_every_track_answers_every_question_once(measured) -> None:
    _, _, questions, plain, track = measured
    for each in (plain, track):
        assert [answer.prompt_tokens for answer in each.completions] == [len(question.ids) for question in questions]
        assert each.completion_tokens == 12 * len(questions)


def test_the_report_counts_what_was_decoded(measured) -> None:
    base, _, questions, plain, track = measured
    report = speculative_report(base_gap(base), questions, plain, track, bootstrap=100)
    committed = sum(length * count for length, count in report.histogram.items())
    assert committed == (12 - 1) * len(questions)  # the first token of each answer is prefill's
    assert report.accept_length == pytest.approx(committed / report.verify_steps)
    assert report.accept_length_interval is not None and report.accept_length is not None
    low, high = report.accept_length_interval
    assert low <= report.accept_length <= high
    assert report.lossless == Lossless(prompts=4, identical=4, differences=[])
    ours, theirs = report.decode_tokens_per_s, plain_report(plain).decode_tokens_per_s
    assert ours is not None and theirs is not None
    assert report.speedup == pytest.approx(ours / theirs)
    assert {name: row.prompts for name, row in report.categories.items()} == {"a": 2, "b": 2}


def test_a_difference_is_found_with_the_gap_of_the_two_likeliest(measured) -> None:
    base, _, questions, plain, _ = measured
    right = plain.completions[0]
    wrong = Completion(right.prompt_tokens, tokens=[*right.tokens[:4], (right.tokens[4] + 1) % 7, *right.tokens[5:]])
    found = first_difference(base_gap(base), 0, questions[0], right, wrong)
    assert found is not None
    assert (found.token, found.plain) == (4, right.tokens[4])
    with torch.inference_mode():
        context = torch.tensor([questions[0].ids + right.tokens[:4]])
        best = base.logits(base.forward(context).hidden[0, -1]).topk(2).values
    assert found.top2_gap == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    assert first_difference(base_gap(base), 0, questions[0], right, right) is None


def test_an_answer_that_ends_early_is_a_difference(measured) -> None:
    base, _, questions, plain, _ = measured
    right = plain.completions[0]
    short = Completion(right.prompt_tokens, tokens=right.tokens[:5])
    found = first_difference(base_gap(base), 0, questions[0], right, short)
    assert found is not None
    assert found.token == 5


def test_the_profile_splits_a_step_by_phase(measured) -> None:
    base, draft, questions, _, _ = measured
    found = profile(open_decoder(base), draft, questions[:2], DECODING)
    phases, costs = (one.to_json() for one in found)
    assert set(phases) == {"propose_s", "verify_s", "commit_s", "other_s"}
    assert all(seconds >= 0 for seconds in phases.values())
    assert phases["verify_s"] > 0
    assert costs["verify_s"] == pytest.approx(phases["verify_s"] * costs["verify_steps"])
    assert costs["prefill_s"] > 0 and costs["completion_tokens"] == 2 * 12
    assert costs["prompt_tokens"] == sum(len(question.ids) for question in questions[:2])


def test_the_median_repeat_counts(measured) -> None:
    base, draft, questions, _, _ = measured
    times = iter([3.0, 1.0, 2.0])

    class Timed(ReferenceDecoder):
        def generate(self, *_: object, **__: object) -> list[Completion]:
            return [Completion(1, tokens=[1, 2], total_s=next(times))]

    track = Track(PLAIN, DECODING)
    measure_questions(Timed(base), draft, questions[:1], [track], repeats=3)
    assert [completion.total_s for completion in track.completions] == [2.0]


def test_a_batch_answers_as_one_by_one_and_its_rows_share_its_time(measured) -> None:
    base, draft, questions, _, alone = measured
    track = Track("3/2/5", DECODING)
    measure_questions(open_decoder(base), draft, questions[:3], [track], repeats=1)
    measure_questions(open_decoder(base), draft, questions[3:], [track], repeats=1)
    assert [row.tokens for row in track.completions] == [row.tokens for row in alone.completions]
    first = track.completions[:3]
    seconds = max(row.decode_s for row in first) + track.completions[3].decode_s
    assert track.decode_tokens_per_s == pytest.approx(11 * 4 / seconds)
