"""Spec of a training dataset: conversations in, hidden states of the base out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hetspec_core.spec._base import Spec
from hetspec_core.spec.decoding import SamplingSpec


class DatasetSpec(Spec):
    """Where conversations come from, who writes the answers, and what is stored of the base's forward."""

    source: str = Field(
        default="shipped:prompts",
        description="A file (.jsonl, .json, .parquet), a saved dataset directory, hub:owner/name[@revision][:file], "
        "shipped:NAME, or self (the base writes the prompts itself).",
    )
    format: str = Field(
        default="auto",
        description="Card of the form of the rows, see `hetspec-core catalog formats`; auto = that of most first rows.",
    )
    split: str = Field(default="train", description="Split of a hub or saved dataset.")
    limit: int | None = Field(default=None, gt=0, description="At most so many conversations, after the shuffle.")
    range: tuple[int, int] | None = Field(default=None, description="Rows A to B (B excluded) after the shuffle.")
    shuffle_seed: int | None = Field(
        default=None, ge=0, description="Shuffle the rows with this seed; order kept when absent."
    )
    sample_ids: tuple[str, ...] = Field(
        default=(), description="Only the conversations of these ids (id, question_id, or their place, as `line 12`)."
    )
    answers: Literal["data", "base"] = Field(
        default="data", description="Take the answers from the data, or have the base write them."
    )
    max_length: int = Field(default=2048, gt=3, description="Longest conversation in tokens; longer ones are cut.")
    max_new_tokens: int = Field(default=256, gt=0, description="Longest answer in tokens when the base writes them.")
    sampling: SamplingSpec = Field(default_factory=SamplingSpec, description="How the base writes answers.")
    prompt_sampling: SamplingSpec = Field(
        default_factory=lambda: SamplingSpec(temperature=1.0, top_p=0.95),
        description="How the base writes prompts (self).",
    )
    generation_batch: int = Field(default=32, gt=0, description="Conversations written at the same time.")
    layers: tuple[int, ...] = Field(
        default=(),
        description="Further hidden states to store, in HF numbering (0 = embeddings); the final one is always stored.",
    )
    store_dtype: Literal["bfloat16", "float16", "float32"] = Field(default="bfloat16", description="Type on disk.")
    tokens_per_batch: int = Field(default=2048, gt=0, description="Tokens of one forward when capturing.")
    shard_megabytes: int = Field(default=256, gt=0, description="Size at which a shard is closed and made durable.")

    @model_validator(mode="after")
    def _check(self) -> DatasetSpec:
        if self.range is not None and not 0 <= self.range[0] < self.range[1]:
            raise ValueError(f"range is {self.range[0]}:{self.range[1]}; it needs 0 <= A < B")
        if self.source == "self" and self.answers != "base":
            raise ValueError("source = self has no answers of its own; set answers = 'base'")
        return self
