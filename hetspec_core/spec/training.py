"""Specs of what a draft learns from and how: a dataset of hidden states, and the training on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from hetspec_core.spec.decode import Spec
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
    limit: int | None = Field(default=None, gt=0, description="Maximum number of conversations, after the shuffle.")
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
    generation_batch: int = Field(default=32, gt=0, description="Conversations that the base writes together.")
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


TRACKERS: dict[str, dict[str, str]] = {
    "wandb": {"name": "{run_id}", "id": "{run_id}", "resume": "allow", "dir": "{folder}"},
    "tensorboard": {},
    "trackio": {"name": "{run_id}", "resume": "allow"},
    "mlflow": {"run_name": "{run_id}", "logging_dir": "{folder}/mlruns"},
}
"""Experiment trackers of Accelerate, by the name of their package -> arguments of its init. A new one is an entry here.

`{run_id}` and `{folder}` stand for the run and its folder.
"""

if TYPE_CHECKING:
    Tracker = str
else:
    Tracker = Literal[tuple(TRACKERS)]


class OptimizerSpec(Spec):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Adam's decay rates.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="cosine", description="After the warm-up.")
    warmup_steps: int = Field(default=20, ge=0, description="Steps of linear warm-up.")
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1, description="Last learning rate as a share of the peak.")
    clip_norm: float = Field(default=0.5, ge=0, description="Gradient norm clip; 0 = none.")

    @model_validator(mode="after")
    def _check(self) -> OptimizerSpec:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; each needs 0 <= beta < 1")
        return self


class TrainingSpec(Spec):
    """What is trained on, for how long, and how often it is measured and saved."""

    datasets: tuple[str, ...] = Field(default=(), description="Hidden-state datasets: run ids or directories.")
    eval_dataset: str | None = Field(
        default=None, description="Held-out dataset; else a share of `datasets` is held out."
    )
    eval_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of samples held out when there is no eval_dataset."
    )
    sample_ids: tuple[str, ...] = Field(
        default=(), description="Train and evaluate on the stored samples of these ids only; see `dataset inspect`."
    )
    max_samples: int | None = Field(
        default=None, gt=0, description="Maximum number of stored samples, from the first, the held-out share included."
    )
    max_steps: int | None = Field(default=None, gt=0, description="Number of optimiser steps.")
    epochs: int = Field(default=10, gt=0, description="Passes over the data when neither steps nor minutes are given.")
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Plan the steps to end within this time, measured on the first; max_steps at most.",
    )
    allow_other_base: bool = Field(
        default=False, description="Train on hidden states of a base with other weights (e.g. another quantisation)."
    )
    max_length: int = Field(default=2048, gt=3, description="Samples are cut to this many tokens.")
    tokens_per_batch: int = Field(
        default=4096, gt=0, description="Most tokens of one micro-batch on one device, padding included."
    )
    gradient_accumulation: int = Field(default=1, gt=0, description="Micro-batches per optimiser step.")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Autocast type; weights stay float32."
    )
    seed: int = Field(default=0, ge=0, description="Seed of initialisation, order and noise.")
    log_every: int = Field(default=10, gt=0, description="Steps between metrics.")
    eval_every: int = Field(default=200, gt=0, description="Steps between evaluations.")
    eval_samples: int = Field(default=32, gt=0, description="Held-out samples per evaluation.")
    eval_starts: int = Field(default=64, gt=0, description="Simulated verify steps per held-out sample.")
    save_every: int = Field(default=500, gt=0, description="Steps between checkpoints.")
    save_total_limit: int = Field(default=2, gt=0, description="Checkpoints kept (the best one is kept besides).")
    report_to: tuple[Tracker, ...] = Field(default=(), description="Experiment trackers, if installed.")
    project: str = Field(default="hetspec", description="Project name for the trackers.")
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="How several devices share the work: ddp = each has the whole draft; fsdp = weights and optimizer "
        "are sharded over them.",
    )
