"""The spec of a run: everything a worker needs, frozen into `spec.toml` of the run folder."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from hetspec_core.spec._base import Spec
from hetspec_core.spec.algorithm import AlgorithmSpec
from hetspec_core.spec.dataset import DatasetSpec
from hetspec_core.spec.decoding import BenchSpec, DecodingSpec
from hetspec_core.spec.model import BaseSpec, DraftSpec
from hetspec_core.spec.resources import ResourcesSpec
from hetspec_core.spec.serving import SGLangSpec
from hetspec_core.spec.training import TrainingSpec
from hetspec_core.spec.tuning import TuneSpec

Stage = Literal["dataset", "train", "bench", "generate", "serve", "tune"]
SCHEMA_VERSION = 1


class RunSpec(Spec):
    """One run. A recipe resolves to one RunSpec per stage; sections that a stage does not use are still recorded."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Stage = Field(description="What the worker does.")
    name: str = Field(default="", description="Name of the run.")
    recipe: str = Field(default="", description="Recipe preset that it came from.")
    base: BaseSpec
    draft: DraftSpec | None = Field(default=None, description="Absent for base-only runs.")
    algorithm: AlgorithmSpec = Field(default_factory=AlgorithmSpec)
    dataset: DatasetSpec = Field(default_factory=DatasetSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    decoding: DecodingSpec = Field(default_factory=DecodingSpec)
    bench: BenchSpec = Field(default_factory=BenchSpec)
    backend: str = Field(
        default="builtin", description="Who runs base and draft: builtin or sglang; see `catalog backends`."
    )
    sglang: SGLangSpec = Field(default_factory=SGLangSpec)
    tune: TuneSpec = Field(default_factory=TuneSpec)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    prompts: tuple[str, ...] = Field(default=(), description="Prompts of stage generate.")
    parents: tuple[str, ...] = Field(default=(), description="Run ids that this run stands on.")

    @property
    def spec_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal specs have equal hashes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
