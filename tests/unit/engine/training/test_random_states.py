from __future__ import annotations

import torch

from hetspec_core.engine.training.state import capture_rng, restore_rng

CPU = torch.device("cpu")


def draw(noise: torch.Generator) -> list[float]:
    return [torch.rand(()).item(), torch.randn(()).item(), torch.rand((), generator=noise).item()]


def test_every_generator_goes_on_as_if_it_had_not_been_touched() -> None:
    noise = torch.Generator().manual_seed(3)
    draw(noise)
    states = capture_rng(CPU, noise)
    expected = [draw(noise), draw(noise)]
    torch.manual_seed(99)
    other = torch.Generator()
    restore_rng(states, CPU, other)
    assert [draw(other), draw(other)] == expected


def test_states_have_the_same_shapes_whatever_was_drawn() -> None:
    noise = torch.Generator()
    before = {name: tensor.shape for name, tensor in capture_rng(CPU, noise).items()}
    draw(noise)
    assert before == {name: tensor.shape for name, tensor in capture_rng(CPU, noise).items()}


def test_a_checkpoint_that_also_holds_the_generators_of_python_and_numpy_is_restored() -> None:
    noise = torch.Generator().manual_seed(3)
    older = {"python": torch.zeros(627, dtype=torch.int64), "numpy": torch.zeros(627, dtype=torch.int64)}
    states = capture_rng(CPU, noise) | older
    expected = draw(noise)
    restore_rng(states, CPU, noise)
    assert draw(noise) == expected
