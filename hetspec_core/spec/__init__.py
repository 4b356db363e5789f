"""Frozen, typed specs of everything a user can ask for. They import neither torch nor the presets."""

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
from hetspec_core.spec.decode import Scalar, Spec
from hetspec_core.spec.decoding import BenchSpec, DecodingSpec, DraftVocabChoice, SamplingSpec, TreeSpec, TuneSpec
from hetspec_core.spec.model import (
    Architecture,
    BaseSpec,
    DraftSpec,
    HubSource,
    ModelSource,
    PackageSource,
    PathSource,
)
from hetspec_core.spec.run import SCHEMA_VERSION, ResourcesSpec, RunSpec, Stage
from hetspec_core.spec.serving import SGLangSpec
from hetspec_core.spec.training import DatasetSpec, OptimizerSpec, TrainingSpec
