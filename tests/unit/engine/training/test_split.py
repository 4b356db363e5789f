from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.training.samples import pick_evaluated, split_by_id

IDS = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=60, unique=True)


@given(ids=IDS, fraction=st.floats(0.01, 0.9))
def test_every_sample_is_on_exactly_one_side_and_no_side_is_empty(ids: list[str], fraction: float) -> None:
    trained, held = split_by_id(ids, fraction)
    assert sorted(trained + held) == list(range(len(ids)))
    assert trained and held


def test_a_sample_stays_on_its_side_when_others_are_added() -> None:
    ids = [f"sample-{number}" for number in range(400)]
    few = {ids[index] for index in split_by_id(ids[:200], 0.2)[1]}
    backwards = ids[::-1]
    many = {backwards[index] for index in split_by_id(backwards, 0.2)[1]}
    assert few == many & set(ids[:200])
    assert 40 < len(many) < 120


def test_the_same_id_twice_is_never_on_both_sides() -> None:
    trained, held = split_by_id(["a", "b", "a", "b", "c"], 0.5)
    names = ["a", "b", "a", "b", "c"]
    assert not {names[index] for index in trained} & {names[index] for index in held}


def test_nothing_is_held_out_when_nothing_is_asked_for_or_nothing_can_be_spared() -> None:
    assert split_by_id(["a", "b"], 0.0) == ([0, 1], [])
    assert split_by_id(["a", "a"], 0.3) == ([0, 1], []) or split_by_id(["a", "a"], 0.3) == ([], [0, 1])


def test_the_evaluated_choice_does_not_depend_on_the_order_of_samples() -> None:
    ids = [f"s{number}" for number in range(50)]
    first = {ids[index] for index in pick_evaluated(ids, range(50), 7)}
    backwards = ids[::-1]
    assert first == {backwards[index] for index in pick_evaluated(backwards, range(50), 7)}
    assert len(first) == 7
