"""Small specs for tests that need some run."""

from __future__ import annotations

from pathlib import Path

from hetspec_core.spec import Architecture, BaseSpec, PathSource, RunSpec, Stage


def small_spec(name: str, stage: Stage = "train") -> RunSpec:
    """A run of this name on a base that is nowhere."""
    architecture = Architecture(
        model_type="llama",
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=32,
        max_position_embeddings=64,
    )
    base = BaseSpec(name="tiny", source=PathSource(path=str(Path("/nowhere"))), architecture=architecture)
    return RunSpec(stage=stage, name=name, base=base)
