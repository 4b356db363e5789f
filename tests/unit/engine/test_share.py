"""Shares of the same samples are all of them, none twice, and of one size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.run_folder import Share


@given(ids=st.lists(st.text("0123456789abcdef", min_size=4, max_size=4)), count=st.integers(1, 6), order=st.randoms())
def test_every_sample_is_in_one_share_whatever_the_order(ids: list[str], count: int, order: object) -> None:
    shuffled = list(ids)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    shares = [Share(number, count).pick(shuffled if number % 2 else ids) for number in range(count)]
    assert sorted(name for share in shares for name in share) == sorted(set(ids))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_is_written_as_two_numbers() -> None:
    assert Share.parse("1/3") == Share(1, 3) and not Share(1, 3).is_whole and Share().is_whole
    for text in ("3/3", "-1/3", "1", "a/b"):
        with pytest.raises(ValueError):
            Share.parse(text)
