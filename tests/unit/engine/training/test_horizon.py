from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.training.horizon import StepCosts, enough_measured, steps_of_budget, steps_of_epochs


def test_epochs_are_rounded_up_to_whole_steps() -> None:
    assert steps_of_epochs([5, 5], gradient_accumulation=4) == 3
    assert steps_of_epochs([1], gradient_accumulation=4) == 1


def test_a_plan_waits_for_a_few_steps_and_a_share_of_the_time() -> None:
    assert not enough_measured(steps=3, spent_s=100, budget_s=100)
    assert not enough_measured(steps=50, spent_s=1, budget_s=100)
    assert enough_measured(steps=4, spent_s=5, budget_s=100)


@given(
    budget=st.floats(10, 1000),
    step_s=st.floats(0.01, 1),
    eval_s=st.floats(0, 2),
    save_s=st.floats(0, 2),
    eval_every=st.integers(10, 100),
    save_every=st.integers(10, 100),
)
def test_planned_steps_with_their_evaluations_and_checkpoints_fit_the_budget(
    budget: float, step_s: float, eval_s: float, save_s: float, eval_every: int, save_every: int
) -> None:
    costs = StepCosts(step_s, eval_s, save_s)
    spent, done = 0.05 * budget, 5
    total = steps_of_budget(budget, spent, done, costs, eval_every=eval_every, save_every=save_every)
    steps = total - done
    needed = spent + steps * step_s + (steps / eval_every + 1) * eval_s + (steps / save_every + 1) * save_s
    assert steps == 1 or needed <= budget * (1 + 1e-9)
    one_more = needed + step_s + eval_s / eval_every + save_s / save_every
    assert one_more > budget * (1 - 1e-9)


def test_a_budget_that_is_gone_still_ends_with_a_step_to_come() -> None:
    assert steps_of_budget(10, 60, 7, StepCosts(1, 0, 0), eval_every=5, save_every=5) == 8
