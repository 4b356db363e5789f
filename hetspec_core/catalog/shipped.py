"""HetSpec's own cards. One line here and one new file is what a new part costs."""

from __future__ import annotations

from hetspec_core.catalog.card import Card

_ENGINE = "hetspec_core.engine"

SHIPPED: tuple[Card, ...] = (
    Card(
        axis="algorithms",
        name="eagle",
        target=f"{_ENGINE}.algorithms.eagle:Eagle",
        options="hetspec_core.spec.algorithm:EagleOptions",
        summary="EAGLE-1/2: continue the base's final hidden states, one fused token and feature at a time.",
        capabilities={"same_hidden_size": True, "captured_layers": "final"},
        source="arXiv 2401.15077, arXiv 2406.16858",
    ),
    Card(
        axis="backbones",
        name="llama",
        target=f"{_ENGINE}.modeling.backbones:HFBackbone",
        summary="Dense Llama decoder layers.",
        capabilities={"model_type": "llama", "experts": False},
        source="arXiv 2302.13971",
    ),
    Card(
        axis="backbones",
        name="qwen3",
        target=f"{_ENGINE}.modeling.backbones:HFBackbone",
        summary="Dense Qwen3 decoder layers (queries and keys are normalised).",
        capabilities={"model_type": "qwen3", "experts": False},
        source="arXiv 2505.09388",
    ),
    Card(
        axis="formats",
        name="sharegpt",
        target=f"{_ENGINE}.data.formats.sharegpt:ShareGPT",
        summary="Rows with `conversations`: a list of {from: human or gpt, value}.",
    ),
    Card(
        axis="formats",
        name="messages",
        target=f"{_ENGINE}.data.formats.messages:Messages",
        summary="Rows with `messages`: a list of {role, content}, as the OpenAI API writes them.",
    ),
    Card(
        axis="formats",
        name="prompts",
        target=f"{_ENGINE}.data.formats.prompts:Prompts",
        summary="Rows with `prompt` or `turns`: questions without answers.",
    ),
    Card(
        axis="stages",
        name="dataset",
        target=f"{_ENGINE}.stages.dataset:run",
        options="hetspec_core.spec.dataset:DatasetSpec",
        summary="Conversations in, hidden states of the base out.",
    ),
    Card(
        axis="stages",
        name="train",
        target=f"{_ENGINE}.stages.train:run",
        options="hetspec_core.spec.training:TrainingSpec",
        summary="Train a draft on stored hidden states.",
        capabilities={"needs_draft": True},
    ),
    Card(
        axis="stages",
        name="bench",
        target=f"{_ENGINE}.stages.bench:run",
        options="hetspec_core.spec.decoding:BenchSpec",
        summary="Measure speculative against plain decoding on the same prompts.",
        capabilities={"needs_draft": True},
    ),
    Card(
        axis="stages",
        name="generate",
        target=f"{_ENGINE}.stages.generate:run",
        options="hetspec_core.spec.decoding:DecodingSpec",
        summary="Answer prompts.",
        capabilities={"needs_draft": "unless plain"},
    ),
    Card(
        axis="executors",
        name="local",
        target="hetspec_core.jobs.local:LocalExecutor",
        summary="A child process on this machine.",
    ),
    Card(
        axis="backends",
        name="builtin",
        target=f"{_ENGINE}.backends.builtin:BuiltinBackend",
        summary="HetSpec's own decoding in PyTorch: the reference that others are tested against.",
    ),
)
