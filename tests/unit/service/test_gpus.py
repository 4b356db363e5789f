"""Which runs ask for a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from hetspec_core.config import resolve
from hetspec_core.service.gpus import gpu_request, processor_slots


@pytest.mark.parametrize(
    ("stage", "options", "gpus"),
    [
        ("bench", {}, 1),
        ("bench", {"resources.device": "cpu"}, None),
        ("bench", {"backend": "sglang"}, 1),
        ("bench", {"backend": "sglang", "sglang.url": "http://127.0.0.1:30000"}, None),
        ("generate", {"backend": "sglang", "sglang.url": "http://127.0.0.1:30000"}, None),
        ("serve", {}, 1),
        ("serve", {"sglang.tp_size": 2}, 2),
        ("serve", {"sglang.flags": ["--tp", "2"]}, 2),
        ("bench", {"backend": "sglang", "sglang.flags": ["--tensor-parallel-size=2"], "sglang.engine": True}, 2),
        ("bench", {"sglang.tp_size": 2}, 1),
    ],
)
def test_only_a_run_that_loads_models_here_asks_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, stage: Any, options: dict[str, Any], gpus: int | None
) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    spec = resolve("smollm2-llama-eagle", stage=stage, options={"resources.num_gpus": 1, **options}).spec
    request = gpu_request(spec)
    assert (None if request is None else request.count) == gpus


@pytest.mark.parametrize(
    ("stage", "options", "slots"),
    [
        ("dataset", {}, 1),
        ("train", {}, 1),
        ("bench", {}, 1),
        ("tune", {}, 1),
        ("generate", {}, 0),
        ("serve", {}, 0),
        ("bench", {"resources.cpu_slots": 0}, 0),
        ("bench", {"resources.cpu_slots": 5}, 2),
        ("generate", {"resources.cpu_slots": 1}, 1),
        ("bench", {"backend": "sglang", "sglang.url": "http://127.0.0.1:30000"}, 0),
        ("train", {"resources.num_nodes": 2, "resources.rendezvous": "first:29500"}, 0),
    ],
)
def test_runs_that_compute_take_a_slot_and_those_that_answer_a_user_take_none(
    monkeypatch: pytest.MonkeyPatch, stage: Any, options: dict[str, Any], slots: int
) -> None:
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", "2")
    assert processor_slots(resolve("smollm2-llama-eagle", stage=stage, options=options).spec) == slots
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", "0")
    assert processor_slots(resolve("smollm2-llama-eagle", stage=stage, options=options).spec) == 0
