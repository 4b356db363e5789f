"""The gradient of an optimiser step does not depend on how the step is cut into micro-batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.data.batches import make_batch
from hetspec_core.engine.data.hidden_states import HiddenStateStore, open_store
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.training.feed import Position, StepBatches
from hetspec_core.engine.training.loop import accumulate_gradients
from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.state import MetricsWindow
from hetspec_core.spec import AlgorithmSpec, DraftSpec
from tests.fakes.tiny_training import load_tiny_base, tiny_architecture, write_tiny_base, write_tiny_store

SAMPLES = 7


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseLM, HiddenStateStore]:
    folder: Path = tmp_path_factory.mktemp("gradient")
    base = load_tiny_base(write_tiny_base(folder / "base"))
    return base, open_store([write_tiny_store(folder / "store", base, samples=SAMPLES)])


def step_of(store: HiddenStateStore, cut: list[list[int]], idle: set[int]) -> StepBatches:
    batches = tuple(
        make_batch([store[index] for index in part], supervised=number not in idle) for number, part in enumerate(cut)
    )
    return StepBatches(batches, num_tokens=0, shortest=0, longest=0, after=Position())


def gradients(
    parts: tuple[BaseLM, HiddenStateStore], cut: list[list[int]], idle: set[int]
) -> tuple[torch.Tensor, float]:
    base, store = parts
    spec = DraftSpec(name="tiny", architecture=tiny_architecture(layers=1), init="random")
    draft = build_draft(spec, AlgorithmSpec(), base, seed=0)
    algorithm = build_algorithm(AlgorithmSpec(options={"noise": 0.0, "feature_loss_weight": 0.5}))
    processes = Processes(Accelerator(cpu=True))
    window = MetricsWindow(torch.device("cpu"), processes)
    step = step_of(store, cut, idle)
    accumulate_gradients(draft, step, algorithm, processes, None, window)
    window.add_step(torch.tensor(0.0), step)
    return torch.cat([p.grad.flatten() for p in draft.parameters() if p.grad is not None]), window.read()["loss"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_any_split_gives_the_gradient_and_loss_of_one_big_batch(
    parts: tuple[BaseLM, HiddenStateStore], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(SAMPLES)))
    borders = sorted(data.draw(st.sets(st.integers(1, SAMPLES - 1), max_size=4)))
    cut = [order[a:b] for a, b in zip([0, *borders], [*borders, SAMPLES], strict=True)]
    idle = set()
    if data.draw(st.booleans()):  # a batch that only keeps a rank in step adds nothing
        cut.append([0])
        idle = {len(cut) - 1}
    whole, loss = gradients(parts, [list(range(SAMPLES))], set())
    mine, my_loss = gradients(parts, cut, idle)
    torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-6)
    assert my_loss == pytest.approx(loss, rel=1e-5)
    assert float(whole.abs().max()) > 1e-3


def test_a_step_without_supervised_tokens_changes_nothing(parts: tuple[BaseLM, HiddenStateStore]) -> None:
    gradient, loss = gradients(parts, [[0, 1]], {0})
    assert not gradient.any() and loss == 0.0
