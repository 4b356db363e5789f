"""The spec of a run, its dotted keys, and its file `spec.toml`: all that a worker needs, frozen at submission."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from hetspec_core.documents import DocumentError, parse_toml, read_bounded
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.spec.algorithm import AlgorithmSpec
from hetspec_core.spec.decode import Spec, decode, near_word
from hetspec_core.spec.decoding import BenchSpec, DecodingSpec, TuneSpec
from hetspec_core.spec.model import BaseSpec, DraftSpec
from hetspec_core.spec.serving import SGLangSpec
from hetspec_core.spec.training import DatasetSpec, TrainingSpec


class ResourcesSpec(Spec):
    """Devices, number type and threads."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto = cuda when there is one.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number type of the base: auto = bfloat16 on a GPU; on a CPU float32, but bfloat16 for decoding "
        "and for datasets stored in it, where the processor multiplies in it.",
    )
    decoder: Literal["auto", "fast", "reference"] = Field(
        default="auto",
        description="Path of the built-in decoding: fast = captured graphs on a GPU, packed weights on a CPU; "
        "reference = the readable one; auto = fast on one GPU, and in bfloat16 on a CPU that multiplies in it.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Fuse the fast decoder's programs with torch.compile: half a minute for each, less from torch's "
        "cache on disk. auto = for bench and tune, on a GPU with Triton and a C compiler.",
    )
    num_threads: int | None = Field(
        default=None, gt=0, description="CPU threads of a worker; the machine's cores when absent."
    )
    num_gpus: int = Field(
        default=1,
        ge=0,
        description="GPUs wanted, when the device is cuda; datasets and training have a worker on each.",
    )
    num_workers: int | None = Field(
        default=None,
        gt=0,
        description="Workers of a dataset or a training on a CPU; one when absent. On GPUs there is one on each.",
    )
    num_nodes: int = Field(default=1, gt=0, description="Machines that train together, each with a run of its own.")
    node_rank: int = Field(default=0, ge=0, description="Number of this machine among them, from 0.")
    rendezvous: str | None = Field(
        default=None, description="HOST:PORT of machine 0, where the machines that train together meet."
    )
    gpus: tuple[str, ...] = Field(default=(), description="Only these GPUs, each an index or a UUID; empty = any.")
    min_free_gib: float = Field(default=0.0, ge=0, description="Minimum free memory of a GPU, in GiB.")
    cpu_slots: int | None = Field(
        default=None,
        ge=0,
        description="Processor slots of a run that leases no GPU; it waits until so many are free (HETSPEC_CPU_SLOTS, "
        "one on a machine). Absent = 1 for dataset, train, bench and tune, else 0; 0 = it starts at once.",
    )
    max_memory: dict[str, str] = Field(
        default_factory=dict,
        description="Spread base and draft over GPUs, for bench, generate and chat: index of a GPU of the run -> what "
        "it may hold of the weights, e.g. {0 = '17.5GiB', 1 = '17GiB'}.",
    )
    share_busy: bool = Field(default=False, description="Also use GPUs on which other programs work.")
    priority: int = Field(
        default=0, description="Place among runs that wait for GPUs or a processor slot; higher is earlier."
    )

    @model_validator(mode="after")
    def _check(self) -> ResourcesSpec:
        if self.node_rank >= self.num_nodes:
            raise ValueError(f"node_rank is {self.node_rank}; of {self.num_nodes} nodes it needs 0 to num_nodes - 1")
        if any(not index.isdecimal() for index in self.max_memory):
            raise ValueError(f"max_memory names {', '.join(self.max_memory)}; GPUs are 0, 1, ... within the run")
        if len(self.max_memory) > max(self.num_gpus, len(self.gpus)):
            raise ValueError(
                f"max_memory names {len(self.max_memory)} GPUs, num_gpus is {self.num_gpus}; set num_gpus to as many"
            )
        if self.num_nodes > 1 and self.rendezvous is None:
            raise ValueError(f"{self.num_nodes} nodes need rendezvous = 'HOST:PORT' of node 0, the same on all of them")
        if self.rendezvous is not None:
            host, _, port = self.rendezvous.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"rendezvous is {self.rendezvous!r}; it needs HOST:PORT, e.g. node-0:29500")
        return self


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
        default="builtin", description="What runs base and draft: builtin or sglang; see `catalog backends`."
    )
    sglang: SGLangSpec = Field(default_factory=SGLangSpec)
    tune: TuneSpec = Field(default_factory=TuneSpec)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec)
    prompts: tuple[str, ...] = Field(default=(), description="Prompts of stage generate.")
    parents: tuple[str, ...] = Field(default=(), description="Run ids that this run depends on.")

    @property
    def spec_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal specs have equal hashes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


# --- its keys --------------------------------------------------------------------------------------------------------

SECTIONS = ("base", "draft", "algorithm", "dataset", "training", "decoding", "bench", "sglang", "tune", "resources")
LOOSE = ("name", "backend", "prompts", "parents")
GIVEN = ("schema_version", "stage", "recipe")
"""Keys that follow from the recipe and the command. Presets and --set cannot set them."""

ABSENT = "none"
"""The word that takes an optional value away again; TOML itself has no null."""


def spec_class(annotation: Any) -> type[BaseModel] | None:
    """The one spec class of an annotation such as `DraftSpec | None`; None when there is none, or several."""
    found = [item for item in _branches(annotation) if isinstance(item, type) and issubclass(item, BaseModel)]
    return found[0] if len(found) == 1 else None


def _branches(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


@cache
def every_key() -> tuple[str, ...]:
    """Dotted keys of all leaves that a preset, a file or --set may say."""
    return tuple(key for key in _dotted(RunSpec) if key not in GIVEN)


def _dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = spec_class(field.annotation)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _dotted(inner, f"{prefix}{name}.")


def meant(wanted: str) -> str:
    """`; did you mean 'x'?` for a dotted key whose first part is unknown, or the list of what there is."""
    first, _, rest = wanted.partition(".")
    section = near_word(first, (*SECTIONS, *LOOSE))
    if section is not None:
        full = f"{section}.{rest}" if rest else section
        if full not in every_key() and full not in SECTIONS:
            full = near_word(full, every_key()) or section
        return f"; did you mean '{full}'?"
    by_last = {key.rpartition(".")[2]: key for key in reversed(every_key())}
    last = near_word(wanted.rpartition(".")[2], by_last)
    if last is not None:
        return f"; did you mean '{by_last[last]}'?"
    return f"; known: {', '.join((*SECTIONS, *LOOSE))}"


def without_absent(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Data without the optional keys whose value is the word `none`."""
    kept = dict(data)
    for name, value in data.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        inner = spec_class(field.annotation)
        if value == ABSENT and type(None) in _branches(field.annotation):
            del kept[name]
        elif inner is not None and isinstance(value, Mapping):
            kept[name] = without_absent(inner, value)
    return kept


def spec_field(key: str) -> FieldInfo:
    """The field of a dotted key of the run spec, e.g. `training.optimizer.lr`."""
    model: Any = RunSpec
    *sections, last = key.split(".")
    for name in sections:
        model = model.model_fields[name].annotation
    return model.model_fields[last]


# --- its file --------------------------------------------------------------------------------------------------------


def to_toml(spec: RunSpec) -> str:
    """The whole spec as TOML, defaults included, so that a later version's defaults cannot change an old run."""
    import tomli_w  # only submitting a run needs it

    return tomli_w.dumps(spec.model_dump(mode="json", exclude_none=True))


def read_spec(path: Path, *, name: str = "") -> RunSpec:
    """The spec in a file `spec.toml`.

    Args:
        path: of the file.
        name: what errors call it; its path when empty.

    Raises:
        NotFoundError: there is no such file.
        SpecError: it cannot be read, or as of `from_toml`.
    """
    name = name or str(path)
    try:
        content = read_bounded(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path.parent} is not a run folder: it has no {path.name}") from None
    except DocumentError as error:
        raise SpecError(f"{name} {error}") from None
    except OSError as error:
        raise SpecError(f"{name}: {error.strerror or error}") from None
    return from_toml(content, name=name)


def from_toml(text: str | bytes, *, name: str = "spec.toml") -> RunSpec:
    """Read what `to_toml` wrote.

    Args:
        text: the TOML text; bytes are read as UTF-8.
        name: what to call it in errors, e.g. its path.

    Raises:
        SpecError: it is not TOML, was written by a newer version, or is not valid; every problem is listed.
    """
    try:
        data = parse_toml(text)
    except DocumentError as error:
        raise SpecError(f"{name} {error}", hint="the file is damaged; submit the run again") from None
    version = data.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SpecError(
            f"{name} has schema_version {version}; this version of HetSpec reads up to {SCHEMA_VERSION}",
            hint="update HetSpec, or submit the run again with this version",
        )
    spec, problems = decode(RunSpec, data)
    if spec is None:
        raise SpecError(
            f"{name} is not valid",
            problems=[str(problem) for problem in problems],
            hint="it was written by another version of HetSpec, or edited; submit the run again",
        )
    return spec
