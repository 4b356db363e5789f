"""When a tuning names a fastest shape, and what it says when it cannot."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.decoding.trials import Trial, speedup, verdict
from hetspec_core.engine.stages.tune import report
from hetspec_core.spec import DecodingSpec, TreeSpec

PLAIN = "plain"


def trial(tree: str, seconds: list[float], accept_length: float = 3.0, tokens: int = 100) -> Trial:
    """One turn of `tokens` tokens per entry."""
    turns = {(0, number): (tokens, spent) for number, spent in enumerate(seconds)}
    return Trial(tree, 1, turns, committed=round(accept_length * 1000), steps=1000)


def steady(tree: str, second: float, accept_length: float = 3.0, *, noise: float = 0.01, turns: int = 8) -> Trial:
    draw = random.Random(f"{tree}{second}")
    return trial(tree, [second * (1 + noise * draw.uniform(-1, 1)) for _ in range(turns)], accept_length)


def test_a_clear_difference_has_a_winner() -> None:
    found = verdict([trial(PLAIN, [10.0] * 8), steady("3/1/3", 6.0), steady("6/10/59", 8.0)], PLAIN)
    assert found is not None and found.fastest is not None and found.fastest.tree == "3/1/3"
    assert found.sentence.startswith("3/1/3 is the fastest (1.6")


def test_plain_decoding_may_be_the_fastest() -> None:
    found = verdict([trial(PLAIN, [10.0] * 8), steady("3/1/3", 14.0), steady("6/10/59", 18.0)], PLAIN)
    assert found is not None and found.fastest is not None and found.fastest.tree == PLAIN


def test_a_speedup_above_the_accept_length_has_no_winner() -> None:
    """The walk of a newcomer: 3.32 times plain decoding at an accept length of 1.40."""
    found = verdict([trial(PLAIN, [3.32] * 8), trial("1/1/1", [1.0] * 8, accept_length=1.4)], PLAIN)
    assert found is not None and found.fastest is None and found.leading.tree == "1/1/1"
    assert "no difference was measured: 1/1/1 came out 3.32 times as fast" in found.sentence
    assert "accept length of 1.40" in found.sentence


@pytest.mark.parametrize("turns", [1, 2])
def test_one_or_two_turns_have_no_winner(turns: int) -> None:
    found = verdict([steady(PLAIN, 10.0, turns=turns), steady("3/1/3", 8.0, turns=turns)], PLAIN)
    assert found is not None and found.fastest is None
    assert found.sentence.startswith("no difference was measured: 3/1/3")


def test_shapes_that_overlap_have_no_winner_and_the_next_one_is_named() -> None:
    trials = [trial(PLAIN, [10.0] * 8), steady("3/1/3", 6.0, noise=0.1), steady("2/1/2", 6.1, noise=0.1)]
    found = verdict(trials, PLAIN)
    assert found is not None and found.fastest is None
    assert "is not apart from" in found.sentence and "2/1/2" in found.sentence and "3/1/3" in found.sentence


def test_a_shape_alone_has_no_winner() -> None:
    found = verdict([trial(PLAIN, [10.0]), Trial("3/1/3", 1, note="the time budget was spent")], PLAIN)
    assert found is not None and found.fastest is None and "only plain was measured" in found.sentence
    assert verdict([Trial(PLAIN, 1)], PLAIN) is None


def test_drift_that_all_ways_share_does_not_widen_the_interval() -> None:
    """A machine that slows down slows all ways of a turn: the turns are compared with each other."""
    drift = [1.0, 1.5, 2.5, 1.2, 3.0, 1.1]
    plain = trial(PLAIN, [10 * factor for factor in drift])
    found = speedup(trial("3/1/3", [5 * factor for factor in drift]), plain)
    assert found is not None and found.interval is not None
    assert found.value == pytest.approx(2.0) and found.interval == (pytest.approx(2.0), pytest.approx(2.0))


@given(seed=st.integers(0, 2000), turns=st.integers(3, 12))
def test_twins_are_hardly_ever_told_apart(seed: int, turns: int) -> None:
    """Two ways of the same speed under noise: their interval holds 1 unless the draw is among the rare ones."""
    draw = random.Random(seed)
    plain, twin = (trial(PLAIN if i else "twin", [math.exp(draw.gauss(0, 0.1)) for _ in range(turns)]) for i in (1, 0))
    found = speedup(twin, plain)
    assert found is not None and found.interval is not None
    ratios = [math.log(plain.turns[key][1] / twin.turns[key][1]) for key in plain.turns]
    if abs(statistics.mean(ratios)) < statistics.stdev(ratios) / math.sqrt(turns):
        assert found.interval[0] < 1 < found.interval[1]


def test_the_share_of_false_winners_is_that_of_the_interval() -> None:
    draw, wrong = random.Random(1), 0
    for _ in range(400):
        plain, twin = (trial(name, [math.exp(draw.gauss(0, 0.1)) for _ in range(6)]) for name in (PLAIN, "twin"))
        found = verdict([plain, twin], PLAIN)
        wrong += found is not None and found.fastest is not None
    assert wrong / 400 < 0.09, "5 % are expected"


def test_the_report_says_so_in_words_and_gives_no_flags() -> None:
    decodings = {PLAIN: DecodingSpec(plain=True), "3/1/3": DecodingSpec(tree=TreeSpec.parse("3/1/3"))}
    undecided = report([trial(PLAIN, [10.0] * 3), steady("3/1/3", 9.9, turns=3)], backend="sglang", decodings=decodings)
    best = undecided.best["1"]
    assert best.tree is best.flags is best.speedup is None
    assert "no difference was measured" in best.verdict and "--limit" in best.advice
    decided = report([trial(PLAIN, [10.0] * 6), steady("3/1/3", 5.0, turns=6)], backend="sglang", decodings=decodings)
    best = decided.best["1"]
    assert best.tree == "3/1/3" and (best.flags or "").startswith("--speculative-num-steps 3") and not best.advice
