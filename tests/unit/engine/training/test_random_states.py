from __future__ import annotations

import random

import numpy
import torch

from hetspec_core.engine.training.rng import capture_rng, restore_rng


def draw(noise: torch.Generator) -> list[float]:
    return [
        torch.rand(()).item(),
        torch.rand((), generator=noise).item(),
        random.random(),
        random.gauss(0, 1),
        float(numpy.random.rand()),
        float(numpy.random.randn()),
    ]


def test_every_generator_goes_on_as_if_it_had_not_been_touched() -> None:
    noise = torch.Generator().manual_seed(3)
    draw(noise)  # leaves the half-used pairs of the normal generators pending
    states = capture_rng(torch.device("cpu"), noise)
    expected = [draw(noise), draw(noise)]
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(99)
    other = torch.Generator()
    restore_rng(states, torch.device("cpu"), other)
    assert [draw(other), draw(other)] == expected


def test_states_have_the_same_shapes_whatever_was_drawn() -> None:
    noise = torch.Generator()
    before = {name: tensor.shape for name, tensor in capture_rng(torch.device("cpu"), noise).items()}
    draw(noise)
    assert before == {name: tensor.shape for name, tensor in capture_rng(torch.device("cpu"), noise).items()}
