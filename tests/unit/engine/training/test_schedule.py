from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.training.horizon import learning_rate
from hetspec_core.spec import OptimizerSpec


def options(schedule: str, warmup: int = 10) -> OptimizerSpec:
    return OptimizerSpec(lr=2e-3, schedule=schedule, warmup_steps=warmup, min_lr_ratio=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_linearly_to_the_peak(schedule: str) -> None:
    rates = [learning_rate(step, options(schedule), 100) for step in range(1, 11)]
    assert rates == pytest.approx([2e-3 * step / 10 for step in range(1, 11)])


@pytest.mark.parametrize(("schedule", "middle", "end"), [("linear", 1.1e-3, 2e-4), ("cosine", 1.1e-3, 2e-4)])
def test_decay_is_half_way_in_the_middle_and_at_the_floor_in_the_end(schedule: str, middle: float, end: float) -> None:
    assert learning_rate(60, options(schedule), 110) == pytest.approx(middle)
    assert learning_rate(110, options(schedule), 110) == pytest.approx(end)


def test_constant_stays_and_no_warm_up_begins_at_the_peak() -> None:
    assert {learning_rate(step, options("constant", warmup=0), 50) for step in (1, 25, 50)} == {2e-3}


def test_an_unplanned_horizon_holds_the_peak() -> None:
    assert learning_rate(500, options("cosine"), None) == 2e-3


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.integers(0, 50),
    total=st.integers(1, 200),
    step=st.integers(1, 400),
)
def test_the_rate_is_never_above_the_peak_nor_at_zero(schedule: str, warmup: int, total: int, step: int) -> None:
    assert 0 < learning_rate(step, options(schedule, warmup), total) <= 2e-3
