"""Probabilities after temperature, top-k and top-p, and the choice of a token by a uniform number."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.engine.decoding.sampling import Sampler, pick, process_logits
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.sglang.client import sampling_params
from hetspec_core.spec import SamplingSpec

LOGITS = st.lists(st.integers(-40, 40).map(lambda value: value / 8), min_size=1, max_size=12)


def naive(logits: list[float], sampling: SamplingSpec) -> list[float]:
    """Temperature, then top-k (all that tie with the last one stay), then the fewest tokens that hold top-p."""
    scaled = [value / sampling.temperature for value in logits]
    if 0 < sampling.top_k < len(scaled):
        floor = sorted(scaled, reverse=True)[sampling.top_k - 1]
        scaled = [value if value >= floor else -math.inf for value in scaled]
    highest = max(scaled)
    weights = [math.exp(value - highest) for value in scaled]
    probabilities = [weight / sum(weights) for weight in weights]
    kept, mass = set(), 0.0
    for index in sorted(range(len(logits)), key=lambda index: (-probabilities[index], index)):
        if mass < sampling.top_p - 1e-9:
            kept.add(index)
        mass += probabilities[index]
    inside = sum(probabilities[index] for index in kept)
    return [probabilities[index] / inside if index in kept else 0.0 for index in range(len(logits))]


@given(LOGITS, st.sampled_from([0.1, 0.7, 1.0, 2.0]), st.integers(0, 14), st.sampled_from([1.0, 0.93, 0.5, 1e-6]))
def test_probabilities_are_the_naive_ones(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    sampling = SamplingSpec(temperature=temperature, top_k=top_k, top_p=top_p)
    ours = process_logits(torch.tensor(logits), sampling)
    expected = naive(logits, sampling)
    assert float(ours.sum()) == pytest.approx(1.0, abs=1e-5)
    at_the_edge = any(abs(sum(sorted(expected, reverse=True)[:n]) - top_p) < 1e-4 for n in range(1, len(logits)))
    if not at_the_edge or top_p == 1.0:
        assert ours.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_likeliest_token_always_stays() -> None:
    for sampling in (SamplingSpec(temperature=1, top_p=1e-9), SamplingSpec(temperature=1, top_k=1)):
        assert process_logits(torch.tensor([0.1, 0.2, 0.0]), sampling).tolist() == [0, 1, 0]


def test_low_temperature_does_not_overflow() -> None:
    sampling = SamplingSpec(temperature=1e-30)
    assert process_logits(torch.tensor([100.0, 101.0, -100.0]), sampling).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temperature", [1e-7, 1e-20, 1e-40, 5e-324])
def test_a_tiny_temperature_is_greedy_everywhere(temperature: float) -> None:
    """Ties included: sampling would draw between two equal logits, and a chat would show two different answers."""
    sampling = SamplingSpec(temperature=temperature, top_p=0.9, seed=3)
    sampler = Sampler(sampling, [0], 8, "cpu")
    logits = torch.tensor([[[1.0, 700.0, 700.0, -5.0]]])
    assert [sampler.choose(logits, torch.tensor([[t]])).item() for t in range(8)] == [1] * 8
    assert sampling_params(sampling, 9, ignore_eos=False) == {
        "temperature": 0.0,
        "max_new_tokens": 9,
        "ignore_eos": False,
    }
    assert ChatSettings.model_validate({"temperature": temperature}).sampling.greedy


@given(st.floats(1e-6, 1e300), st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9))
def test_every_temperature_gives_finite_probabilities(temperature: float, logits: list[float]) -> None:
    found = process_logits(torch.tensor(logits), SamplingSpec(temperature=temperature))
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)
    assert found[torch.tensor(logits).argmax()] == found.max()


def test_half_precision_logits_are_treated_in_float32() -> None:
    sampling = SamplingSpec(temperature=1.0, top_p=0.999)
    probabilities = process_logits(torch.zeros(1, 5000, dtype=torch.bfloat16), sampling)
    assert probabilities.dtype == torch.float32
    assert abs(int((probabilities > 0).sum()) - 4995) <= 1


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.3, 0.999999, 1 - 2**-53])
@pytest.mark.parametrize(
    "probabilities",
    [[1.0], [0.0, 0.0, 1.0], [0.0, 0.4, 0.0, 0.6, 0.0, 0.0], [1.0, 0.0], [1e-38, 0.0, 1.0, 1e-38, 0.0]],
)
def test_tokens_without_mass_are_never_picked(probabilities: list[float], uniform: float) -> None:
    picked = int(pick(torch.tensor(probabilities), torch.tensor(uniform, dtype=torch.float64)))
    assert probabilities[picked] > 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9).filter(any), st.integers(0, 199))
def test_pick_inverts_the_cumulative_distribution(weights: list[int], part: int) -> None:
    uniform = (part + 0.5) / 200
    reached = [sum(weights[: index + 1]) / sum(weights) for index in range(len(weights))]
    if all(abs(uniform - mass) > 1e-6 for mass in reached):
        probabilities = torch.tensor(weights, dtype=torch.float32) / sum(weights)
        expected = next(index for index, mass in enumerate(reached) if uniform < mass)
        assert int(pick(probabilities, torch.tensor(uniform))) == expected


def test_batches_are_picked_row_by_row() -> None:
    probabilities = torch.softmax(torch.randn(3, 4, 11, generator=torch.Generator().manual_seed(0)), -1)
    uniform = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = pick(probabilities, uniform)
    assert together.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            assert together[row, column] == pick(probabilities[row, column], uniform[row, column])


def sampler(rows: list[int], *, positions: int = 50, seed: int = 0) -> Sampler:
    return Sampler(SamplingSpec(temperature=1.0, seed=seed), rows, positions, "cpu")


FLAT = torch.zeros(1, 1, 1000)  # every token is as likely: the choice shows the uniform number


def choose(source: Sampler, rows: int, position: int) -> list[int]:
    return source.choose(FLAT.expand(rows, 1, -1), torch.full((rows, 1), position))[:, 0].tolist()


def test_randomness_belongs_to_the_row_and_the_place() -> None:
    both, alone = sampler([7, 8]), sampler([8], positions=4000)
    for position in range(50):
        assert choose(both, 2, position)[1] == choose(alone, 1, position)[0]
    assert choose(both, 2, 0) != choose(both, 2, 1)
    assert choose(both, 2, 0) != choose(sampler([7, 8], seed=1), 2, 0)


def test_rows_are_replaced_and_moved() -> None:
    moving = sampler([1, 2, 3])
    moving.replace_row(0, 9)
    moving.move_row(2, 1)
    assert [choose(moving, 2, t) for t in range(20)] == [choose(sampler([9, 3]), 2, t) for t in range(20)]


def test_greedy_takes_the_first_of_the_likeliest_and_needs_no_randomness() -> None:
    greedy = Sampler(SamplingSpec(), [0], 1, "cpu")
    assert greedy.choose(torch.tensor([[[0.0, 2.0, 2.0]]]), torch.tensor([[99]])).tolist() == [[1]]
