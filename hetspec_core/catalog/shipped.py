"""HetSpec's own cards, one for each part that a spec can name."""

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
        capabilities={
            "head": f"{_ENGINE}.algorithms.eagle:FusionHead",
            "captured_layers": "final",
            "base_last_layers": True,
            "sglang": "hetspec_core.sglang.export:write_eagle",
        },
        source="arXiv 2401.15077, arXiv 2406.16858",
    ),
    Card(
        axis="algorithms",
        name="eagle3",
        target=f"{_ENGINE}.algorithms.eagle3:Eagle3",
        options="hetspec_core.spec.algorithm:Eagle3Options",
        summary="EAGLE-3: three layers of the base in, own output head, own states shown in training.",
        capabilities={
            "head": f"{_ENGINE}.algorithms.eagle3:Eagle3Head",
            "captured_layers": "low, middle, high",
            "owns_output_norm": True,
            "architecture_word": "eagle3",  # in the names of architectures that other programs write
            "sglang": "hetspec_core.sglang.export:write_eagle3",
        },
        source="arXiv 2503.01840",
    ),
    Card(
        axis="algorithms",
        name="latent",
        target=f"{_ENGINE}.algorithms.latent:Latent",
        options="hetspec_core.spec.algorithm:LatentOptions",
        summary="Latent recurrence: a narrow draft refines a latent state several times per token.",
        capabilities={
            "head": f"{_ENGINE}.algorithms.latent:LatentHead",
            "captured_layers": "final",
            "sglang": "hetspec_core.sglang.export:write_latent",
        },
        source="the origin's Experimental; arXiv 2502.05171, arXiv 2510.04871",
    ),
    *(
        Card(
            axis="backbones",
            name=name,
            target=f"{_ENGINE}.modeling.backbones:HFBackbone",
            summary=summary,
            capabilities={"model_type": model_type, "experts": experts},
            source=source,
        )
        for name, model_type, experts, summary, source in (
            ("llama", "llama", False, "Dense Llama decoder layers.", "arXiv 2302.13971"),
            (
                "qwen3",
                "qwen3",
                False,
                "Dense Qwen3 decoder layers (queries and keys are normalised).",
                "arXiv 2505.09388",
            ),
            (
                "qwen2",
                "qwen2",
                False,
                "Dense Qwen2 decoder layers (biases on queries, keys, values).",
                "arXiv 2407.10671",
            ),
            ("mistral", "mistral", False, "Dense Mistral decoder layers, without sliding window.", "arXiv 2310.06825"),
            (
                "gemma3",
                "gemma3_text",
                False,
                "Dense Gemma 3 decoder layers (norms around attention and MLP).",
                "arXiv 2503.19786",
            ),
            (
                "qwen3-moe",
                "qwen3_moe",
                True,
                "Qwen3-MoE decoder layers, with zero-compute and shared experts if wanted.",
                "arXiv 2505.09388, arXiv 2410.07348, arXiv 2401.06066",
            ),
        )
    ),
    Card(
        axis="backbones",
        name="hf",
        target=f"{_ENGINE}.modeling.backbones:HFBackbone",
        summary="Decoder layers of any other Hugging Face family of the same shape, by model_type.",
        source="huggingface.co/docs/transformers, AutoModel",
    ),
    Card(
        axis="formats",
        name="sharegpt",
        target=f"{_ENGINE}.data.reading:ShareGPT",
        summary="Rows with `conversations`: a list of {from: human or gpt, value}.",
    ),
    Card(
        axis="formats",
        name="messages",
        target=f"{_ENGINE}.data.reading:Messages",
        summary="Rows with `messages`: a list of {role, content}, as the OpenAI API writes them.",
    ),
    Card(
        axis="formats",
        name="prompts",
        target=f"{_ENGINE}.data.reading:Prompts",
        summary="Rows with `prompt` or `turns`: questions without answers.",
    ),
    Card(
        axis="layouts",
        name="hetspec",
        target=f"{_ENGINE}.modeling.layouts.base:OwnLayout",
        summary="HetSpec's own: a `hetspec` block in config.json says how the draft is put together.",
    ),
    Card(
        axis="layouts",
        name="origin",
        target=f"{_ENGINE}.modeling.layouts.eagle:OriginLayout",
        summary="Combined models and checkpoints of specforge_het: draft_model/states.pt.",
    ),
    Card(
        axis="layouts",
        name="speculators",
        target=f"{_ENGINE}.modeling.layouts.eagle3:SpeculatorsLayout",
        summary="EAGLE-3 drafts of vLLM's speculators library.",
        capabilities={"writes": True},
    ),
    Card(
        axis="layouts",
        name="eagle3",
        target=f"{_ENGINE}.modeling.layouts.eagle3:Eagle3Layout",
        summary="EAGLE-3 as its authors, SpecForge, ModelOpt and SGLang write it.",
        capabilities={"writes": True},
    ),
    Card(
        axis="layouts",
        name="eagle",
        target=f"{_ENGINE}.modeling.layouts.eagle:EagleLayout",
        summary="EAGLE-1/2 as its authors and SGLang write it.",
        capabilities={"writes": True},
    ),
    Card(
        axis="stages",
        name="dataset",
        target=f"{_ENGINE}.stages.dataset:run",
        options="hetspec_core.spec.training:DatasetSpec",
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
        axis="stages",
        name="serve",
        target="hetspec_core.sglang.serve:run",
        options="hetspec_core.spec.serving:SGLangSpec",
        summary="Serve base and draft by SGLang until it is stopped.",
        capabilities={"needs_draft": "unless plain"},
    ),
    Card(
        axis="stages",
        name="tune",
        target=f"{_ENGINE}.stages.tune:run",
        options="hetspec_core.spec.decoding:TuneSpec",
        summary="Try tree shapes and batch sizes within a time budget, and name the best.",
        capabilities={"needs_draft": True},
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
        capabilities={"decoding": ("trees", "every_position", "calibrate", "sampling")},
    ),
    Card(
        axis="backends",
        name="sglang",
        target="hetspec_core.sglang.backend:SGLangBackend",
        options="hetspec_core.spec.serving:SGLangSpec",
        summary="SGLang over HTTP: a running server, or one that is started for base, draft and tree.",
        capabilities={
            "decoding": ("trees", "calibrate", "sampling"),
            "server": True,
            "measurement": "hetspec_core.sglang.bench:SGLangMeasurement",
            "tree_flags": "hetspec_core.sglang.launch:tree_words",
        },
        source="docs.sglang.ai",
    ),
)
