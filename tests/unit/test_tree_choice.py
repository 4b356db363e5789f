"""The choice of a draft tree from times and rates of acceptance, on synthetic pairs whose best shape is known."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.acceptance import StepCount
from hetspec_core.spec import TreeSpec
from hetspec_core.tree_choice import LEAST_GAIN, SHAPES, AcceptanceModel, CycleCosts, choose, shapes_within


def steps(shape: TreeSpec, ranks: list[float], count: int, seed: int = 0) -> list[StepCount]:
    """Steps of a pair whose r-th child is right with `ranks[r]` at every depth, in trees with all children."""
    random_numbers = random.Random(seed)
    found = []
    for _ in range(count):
        accepted: list[int] = []
        while len(accepted) < shape.depth:
            rank = random_numbers.choices(range(len(ranks) + 1), [*ranks, max(0.0, 1 - sum(ranks))])[0]
            if rank >= min(shape.top_k, len(ranks)):
                break
            accepted.append(rank)
        full = len(accepted) == shape.depth
        offered = len(accepted) + (not full)
        found.append(StepCount(len(accepted) + 1, len(accepted), offered, tuple(accepted), 0 if full else shape.top_k))
    return found


def costs(plain: float = 10.0, node: float = 0.1, level: float = 0.5) -> CycleCosts:
    return CycleCosts(plain, {shape.label: plain + node * shape.num_nodes + level * shape.depth for shape in SHAPES})


@given(st.floats(0.05, 0.95), st.integers(1, 8))
def test_the_expected_accept_length_of_a_chain_is_the_sum_of_powers(rate: float, depth: int) -> None:
    model = AcceptanceModel()
    model.start_from([rate] * depth, weight=1e9)
    chain = TreeSpec(depth=depth, top_k=1, num_draft_tokens=depth)
    assert model.modelled(chain) == pytest.approx(sum(rate**level for level in range(depth + 1)), rel=1e-3)


@given(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3), st.integers(0, 3))
def test_more_nodes_never_lower_the_expected_accept_length(ranks: list[float], seed: int) -> None:
    model = AcceptanceModel()
    model.learn(TreeSpec.parse("4/3/60"), steps(TreeSpec.parse("4/3/60"), ranks, 50, seed))
    lengths = [model.modelled(TreeSpec(depth=4, top_k=3, num_draft_tokens=count)) for count in (1, 2, 4, 8, 16, 30)]
    assert lengths == sorted(lengths) and lengths[0] >= 1.0
    chances = [model.chance(1, rank) for rank in range(1, 30)]
    assert sum(chances) <= 1.0 + 1e-9


def test_the_estimate_comes_near_to_what_a_pair_accepts() -> None:
    model, shape, ranks = AcceptanceModel(), TreeSpec.parse("4/3/60"), [0.6, 0.15, 0.05]
    model.learn(shape, steps(shape, ranks, 4000))
    for rank, chance in enumerate(ranks, start=1):
        assert model.chance(1, rank) == pytest.approx(chance, abs=0.06)
    truth = steps(TreeSpec.parse("4/1/4"), ranks[:1], 4000, seed=1)
    expected = sum(step.committed for step in truth) / len(truth)
    assert model.modelled(TreeSpec.parse("4/1/4")) == pytest.approx(expected, abs=0.15)


def test_a_draft_that_is_never_right_is_left_out_and_the_sentence_says_why() -> None:
    model, shape = AcceptanceModel(), TreeSpec.parse("3/2/5")
    assert choose(costs(), model, SHAPES).shape is not None
    model.learn(shape, [StepCount(1, 0, 1, (), 2)] * 300)
    found = choose(costs(), model, SHAPES)
    assert found.shape is None and found.label == "plain" and found.predicted_speedup < LEAST_GAIN
    assert "decodes plainly" in found.sentence and found.best.label in found.sentence


def test_the_shape_follows_the_costs() -> None:
    model, shape = AcceptanceModel(), TreeSpec.parse("5/8/31")
    model.learn(shape, steps(shape, [0.7, 0.1, 0.05], 1000))
    free = choose(costs(node=0.0, level=0.0), model, SHAPES)
    dear = choose(costs(node=1.0, level=0.2), model, SHAPES)
    assert free.shape == TreeSpec.parse("6/10/60")
    assert dear.shape is not None and dear.shape.num_nodes <= 5
    assert free.predicted_speedup > dear.predicted_speedup > 1.0


def test_a_change_of_topic_changes_the_choice() -> None:
    model, shape = AcceptanceModel(), TreeSpec.parse("3/2/5")
    model.learn(shape, steps(shape, [0.8, 0.1], 3000))
    assert choose(costs(node=0.5), model, SHAPES).shape is not None
    model.learn(shape, [StepCount(1, 0, 1, (), 2)] * 3000)
    assert choose(costs(node=0.5), model, SHAPES).shape is None


def test_times_of_answers_scale_the_shapes_that_were_not_used() -> None:
    """As when the times were measured on programs that are not compiled."""
    found = costs()
    before = found.seconds("6/10/60") / found.seconds("plain")
    found.correct("3/2/5", 0.25 * found.cycle_s["3/2/5"])
    assert found.seconds("plain") == pytest.approx(2.5)
    assert found.seconds("6/10/60") / found.seconds("plain") == pytest.approx(before)
    found.correct("plain", 2.5)
    assert found.seconds("plain") == 2.5 and found.plain_s == 10.0


def test_the_end_of_an_answer_does_not_lower_the_accept_length() -> None:
    """Committed tokens are cut at a stop token or the limit, accepted ones are not."""
    model, shape = AcceptanceModel(), TreeSpec.parse("3/1/3")
    model.learn(shape, [StepCount(1, 3, 3, (0, 0, 0), 0)] * 400)
    assert model.accept_length(shape) == pytest.approx(4.0, abs=0.1)


def test_one_time_alone_does_not_make_a_shape_slower_and_two_do() -> None:
    found = costs()
    measured = found.seconds("3/2/5")
    found.correct("3/2/5", 5 * measured)
    assert found.seconds("3/2/5") == measured
    found.correct("3/2/5", 5 * measured)
    assert found.seconds("3/2/5") == 5 * measured
    for _ in range(5):
        found.correct("3/2/5", measured)
    found.correct("3/2/5", 9 * measured)
    assert found.seconds("3/2/5") == measured


def test_times_of_a_disturbed_machine_are_seen() -> None:
    assert costs().plausible(SHAPES)
    disturbed = costs()
    disturbed.cycle_s["1/1/1"] *= 10
    assert not disturbed.plausible(SHAPES)


def test_shapes_keep_within_the_bounds_and_the_vocabulary() -> None:
    assert shapes_within(TreeSpec(auto=True)) == SHAPES
    small = shapes_within(TreeSpec(auto=True, depth=3, top_k=4, num_draft_tokens=5))
    assert {shape.label for shape in small} == {"1/1/1", "2/1/2", "3/1/3", "3/2/5"}
    assert all(shape.top_k <= 3 for shape in shapes_within(TreeSpec(auto=True), vocab_size=3))
    assert shapes_within(TreeSpec(auto=True, depth=1, top_k=1, num_draft_tokens=1))


def test_auto_is_a_label_of_a_tree_and_its_bounds_are_a_shape() -> None:
    tree = TreeSpec.parse("auto")
    assert tree.auto and tree.label == "auto" and tree.num_nodes == 60
    assert TreeSpec.model_validate("auto") == tree == TreeSpec.model_validate(tree.model_dump())
    assert not TreeSpec.parse("6/10/60").auto
