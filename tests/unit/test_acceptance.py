"""Accept length and acceptance by depth, by the definitions of docs/measuring.md."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.acceptance import AcceptStats, StepCount, bootstrap_interval, macro_accept_length
from hetspec_core.engine.decoding.completion import Completion

STEPS = [StepCount(1, 0, 1), StepCount(3, 2, 3), StepCount(4, 3, 3), StepCount(2, 3, 3)]  # the last was cut at a stop


def test_accept_length_is_pooled_tokens_over_steps() -> None:
    answers = [Completion(5, steps=STEPS[:1]), Completion(5, steps=STEPS[1:])]
    assert AcceptStats.of(answers).accept_length == pytest.approx(10 / 4)
    assert macro_accept_length([answer.steps for answer in answers]) == pytest.approx((1 + 3) / 2)


def test_no_steps_have_no_accept_length() -> None:
    stats = AcceptStats.of([Completion(5)])
    assert stats.accept_length is None
    assert stats.by_depth == []
    assert macro_accept_length([[]]) is None


def test_acceptance_is_conditional_on_a_child_being_offered() -> None:
    rows = AcceptStats(STEPS).by_depth
    assert [(row.depth, row.offered, row.accepted) for row in rows] == [(1, 4, 3), (2, 3, 3), (3, 3, 2)]
    assert rows[2].acceptance_rate == pytest.approx(2 / 3)
    assert rows[2].joint_rate == pytest.approx(2 / 4)


def test_histogram_counts_committed_tokens() -> None:
    assert AcceptStats(STEPS).histogram == {1: 1, 2: 1, 3: 1, 4: 1}


@given(st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=9), min_size=2, max_size=6), st.integers(0, 9))
def test_the_interval_holds_the_extremes_of_the_conversations_and_repeats(groups: list[list[int]], seed: int) -> None:
    steps = [[StepCount(value, value - 1, value) for value in group] for group in groups]
    interval = bootstrap_interval(steps, 50, seed=seed)
    assert interval is not None
    means = [sum(group) / len(group) for group in groups]
    assert min(means) - 1e-9 <= interval[0] <= interval[1] <= max(means) + 1e-9
    assert interval == bootstrap_interval(steps, 50, seed=seed)


def test_one_conversation_has_no_interval() -> None:
    assert bootstrap_interval([STEPS], 100) is None
    assert bootstrap_interval([STEPS, STEPS], 0) is None
