"""Throughput of several requests at once: what is on the record, and what comes before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.measure import PLAIN, Track
from hetspec_core.sglang import offline_program
from hetspec_core.sglang.bench import named_shapes, throughput
from hetspec_core.spec import BenchSpec, DecodingSpec, TreeSpec

PROMPTS = [[1], [2], [3]]


def test_a_server_measures_the_bounds_of_auto_once() -> None:
    assert [tree.label for tree in named_shapes(BenchSpec().trees)] == ["6/10/60"]
    bounded = TreeSpec(auto=True, depth=3, top_k=2, num_draft_tokens=5)
    assert [tree.label for tree in named_shapes((bounded, TreeSpec()))] == ["3/2/5", "6/10/60"]


@pytest.mark.parametrize(("size", "warmup", "rounds"), [(2, 1, 2), (2, 0, 0), (8, 2, 6)])
def test_a_batch_size_is_warmed_up_off_the_record(size: int, warmup: int, rounds: int) -> None:
    limits: list[int] = []

    def complete(served: Any, prompt: list[int], decoding: DecodingSpec) -> tuple[Completion, dict[str, Any]]:
        limits.append(decoding.max_new_tokens)
        return Completion(len(prompt), [5] * decoding.max_new_tokens, "length"), {}

    flushed: list[int] = []
    served: Any = SimpleNamespace(client=SimpleNamespace(flush_cache=lambda: flushed.append(len(limits))))
    backend: Any = SimpleNamespace(complete=complete)
    way = Track(PLAIN, DecodingSpec(max_new_tokens=40))
    found = throughput(backend, served, PROMPTS, way, size, warmup=warmup)
    assert limits == [16] * rounds + [40] * 3
    assert flushed == [rounds], "the prompts of the warm-up are not found again"
    assert found.completion_tokens == 3 * 40


def test_the_offline_engine_warms_every_batch_size_up() -> None:
    asked: list[tuple[int, int]] = []

    def generate(*, input_ids: list[list[int]], sampling_params: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append((len(input_ids), sampling_params["max_new_tokens"]))
        return [{"output_ids": [5], "meta_info": {}} for _ in input_ids]

    engine = SimpleNamespace(generate=generate, flush_cache=lambda: asked.append((0, 0)))
    job = {"prompts": PROMPTS, "sampling": {"max_new_tokens": 40}, "warmup": 1}
    found = offline_program._measure(engine, job, 2)
    assert asked == [(2, 16), (0, 0), (2, 40), (1, 40)]
    assert len(found["answers"]) == 3
