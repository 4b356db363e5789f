"""Frozen, typed specs of everything a user can ask for. They know no files, no torch and no presets."""

from hetspec_core.spec._base import Scalar, Spec
from hetspec_core.spec.algorithm import (
    AlgorithmOptions,
    AlgorithmSpec,
    DraftSizes,
    Eagle3Options,
    EagleOptions,
    HeadParameters,
    LatentOptions,
    Passes,
)
from hetspec_core.spec.dataset import DatasetSpec
from hetspec_core.spec.decoding import BenchSpec, DecodingSpec, SamplingSpec, TreeSpec
from hetspec_core.spec.model import (
    Architecture,
    BaseSpec,
    DraftSpec,
    HubSource,
    ModelSource,
    PackageSource,
    PathSource,
)
from hetspec_core.spec.resources import ResourcesSpec
from hetspec_core.spec.run import SCHEMA_VERSION, RunSpec, Stage
from hetspec_core.spec.serving import SGLangSpec
from hetspec_core.spec.training import OptimizerSpec, TrainingSpec
from hetspec_core.spec.tuning import TuneSpec

__all__ = [
    "SCHEMA_VERSION",
    "AlgorithmOptions",
    "AlgorithmSpec",
    "Architecture",
    "BaseSpec",
    "BenchSpec",
    "DatasetSpec",
    "DecodingSpec",
    "DraftSizes",
    "DraftSpec",
    "Eagle3Options",
    "EagleOptions",
    "HeadParameters",
    "HubSource",
    "LatentOptions",
    "ModelSource",
    "OptimizerSpec",
    "PackageSource",
    "Passes",
    "PathSource",
    "ResourcesSpec",
    "RunSpec",
    "SGLangSpec",
    "SamplingSpec",
    "Scalar",
    "Spec",
    "Stage",
    "TrainingSpec",
    "TreeSpec",
    "TuneSpec",
]
