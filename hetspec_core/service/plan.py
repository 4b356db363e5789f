"""The plan of a run: the memory, disk and time that it needs, what is free, and whether it fits.

`plan` is a pure function of a spec and of facts; `planning.facts` reads the machine and the files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hetspec_core.catalog import families
from hetspec_core.errors import SpecError
from hetspec_core.quantities import gigabytes
from hetspec_core.service.planning.costs import (
    DataEstimate,
    Part,
    bytes_per_token,
    disk_parts,
    estimate_data,
    memory_parts,
    peak_bytes,
    steps_of_training,
    store_bytes,
)
from hetspec_core.service.planning.facts import Facts, GpuFacts, ProbeFacts, gather_facts
from hetspec_core.service.planning.parameters import ParameterCount, count_base, count_draft
from hetspec_core.service.planning.timing import (
    REFERENCE_LAYER_S,
    Phase,
    Rates,
    TreeExpectation,
    dataset_phases,
    decoding_phases,
    expected_trees,
    measured_flops,
    rates_of,
    training_phases,
)
from hetspec_core.spec import RunSpec

__all__ = ["Facts", "GpuFacts", "Part", "Phase", "Plan", "ProbeFacts", "gather_facts", "plan"]


@dataclass(frozen=True)
class Plan:
    """What a run needs and what is free. Sizes in bytes, times in seconds; None = not known beforehand.

    Attributes:
        stage, recipe: of the spec.
        device: cuda or cpu; `device_name` says which.
        num_devices: number of workers, each with the device memory below.
        base, draft: parameters; no draft for a stage without one.
        samples, tokens: of the data that is made or trained on.
        mean_tokens: of one conversation.
        bytes_per_token: of the hidden states, on disk.
        store_bytes: all of the hidden states that the data is, on disk.
        steps, tokens_per_step: of training.
        memory, disk: by part.
        phases: time by part.
        trees: what the cost model of `tree = auto` expects of every tree; none where nothing is decoded with one.
        basis: whether the estimate comes from the cost model or from a probe run.
        assumptions: what the numbers assume.
        refusals: why it cannot fit; empty when it can.
        remedy: what to do about the refusals.
        notes: what could not be checked.
        free_memory_bytes, free_device_bytes, free_disk_bytes: free now, the device's per GPU.
        probe: the measurement, when there is one.
    """

    stage: str
    recipe: str
    device: Literal["cuda", "cpu"]
    device_name: str
    num_devices: int
    base: ParameterCount
    draft: ParameterCount | None
    samples: int | None
    tokens: int | None
    mean_tokens: float | None
    bytes_per_token: int
    store_bytes: int | None
    steps: int | None
    tokens_per_step: int | None
    memory: tuple[Part, ...]
    disk: tuple[Part, ...]
    phases: tuple[Phase, ...] | None
    trees: tuple[TreeExpectation, ...]
    basis: Literal["cost model", "probe"]
    assumptions: tuple[str, ...]
    refusals: tuple[str, ...]
    remedy: str
    notes: tuple[str, ...]
    free_memory_bytes: int
    free_device_bytes: int | None
    free_disk_bytes: int
    disk_path: str
    probe: ProbeFacts | None = None

    @property
    def device_bytes(self) -> int:
        """Peak memory of one device; on a processor, of one worker in the machine's memory."""
        return peak_bytes(part for part in self.memory if part.on_device or self.device == "cpu")

    @property
    def host_bytes(self) -> int:
        """Peak in the machine's memory, of all workers."""
        if self.device == "cpu":
            return self.num_devices * self.device_bytes
        return self.num_devices * peak_bytes(part for part in self.memory if not part.on_device)

    @property
    def disk_bytes(self) -> int:
        return sum(part.bytes for part in self.disk)

    @property
    def seconds(self) -> float | None:
        """Estimated duration; None when the amount of work is not known."""
        return None if self.phases is None else sum(phase.seconds for phase in self.phases)

    @property
    def fits(self) -> bool:
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """As JSON types, the sums included."""
        counts = {"base": self.base, "draft": self.draft}
        return {
            **asdict(self),
            **{name: asdict(count) | {"total": count.total} if count else None for name, count in counts.items()},
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "disk_bytes": self.disk_bytes,
            "seconds": self.seconds,
            "fits": self.fits,
        }


def plan(spec: RunSpec, facts: Facts) -> Plan:
    """Plan a run.

    Args:
        spec: the run.
        facts: of the machine and the data, and the probe if there is one.

    Raises:
        SpecError: the stage trains a draft and the spec has none.
    """
    if spec.stage == "train" and spec.draft is None:
        raise SpecError("stage train needs a draft, and the spec has none", hint="add a draft to the recipe")
    device = _device(spec, facts)
    gpus = _most_free(facts)
    count = _workers(spec, device)
    base = count_base(spec.base.architecture)
    draft = None
    if spec.draft is not None and spec.stage != "dataset":
        draft = count_draft(spec.draft, spec.algorithm, spec.base.architecture.hidden_size)
    data = estimate_data(spec, facts)
    with_data = spec.stage in ("dataset", "train")
    rates = _rates(spec, facts, device, gpus, base)
    ranks = count * spec.resources.num_nodes
    steps = steps_of_training(spec, data, ranks) if spec.stage == "train" else None
    training = spec.training
    made = Plan(
        stage=spec.stage,
        recipe=spec.recipe,
        device=device,
        device_name=(gpus[0].name if gpus else "GPU") if device == "cuda" else f"{facts.cores} processor cores",
        num_devices=count,
        base=base,
        draft=draft,
        samples=data.samples if with_data else None,
        tokens=data.tokens if with_data else None,
        mean_tokens=data.mean_tokens if with_data else None,
        bytes_per_token=bytes_per_token(spec),
        store_bytes=store_bytes(spec, data) if with_data else None,
        steps=steps,
        tokens_per_step=training.tokens_per_batch * training.gradient_accumulation * ranks if draft and steps else None,
        memory=memory_parts(spec, base, draft, device),
        disk=disk_parts(spec, facts, base, draft, data),
        phases=_phases(spec, facts, base, draft, data, steps, rates, device, count),
        trees=expected_trees(spec, facts, base, draft, rates, device),
        basis="probe" if facts.probe is not None and with_data else "cost model",
        assumptions=_assumptions(spec, facts, base, draft, data, rates),
        refusals=(),
        remedy="",
        notes=_notes(spec, facts, device, data, count),
        free_memory_bytes=facts.free_memory_bytes,
        free_device_bytes=min(gpu.available_bytes for gpu in gpus[:count]) if device == "cuda" and gpus else None,
        free_disk_bytes=facts.free_disk_bytes,
        disk_path=facts.disk_path,
        probe=facts.probe if with_data else None,
    )
    refusals, remedy = _refusals(made, spec, facts)
    return replace(made, refusals=refusals, remedy=remedy)


def _device(spec: RunSpec, facts: Facts) -> Literal["cuda", "cpu"]:
    if spec.resources.device == "auto":
        return "cuda" if facts.gpus else "cpu"
    return spec.resources.device


def _workers(spec: RunSpec, device: str) -> int:
    """Workers on this machine, each with memory of its own."""
    if spec.stage not in ("dataset", "train"):
        return 1
    wanted = spec.resources
    return max(1, wanted.num_gpus, len(wanted.gpus)) if device == "cuda" else wanted.num_workers or 1


def _most_free(facts: Facts) -> list[GpuFacts]:
    return sorted(facts.gpus or (), key=lambda gpu: (gpu.state != "free", -gpu.available_bytes))


def _rates(spec: RunSpec, facts: Facts, device: str, gpus: list[GpuFacts], base: ParameterCount) -> Rates:
    cores = min(facts.cores, spec.resources.num_threads or facts.cores)
    rates = rates_of(device, gpus[0] if gpus else None, cores)
    if device == "cuda" and (spec.resources.decoder == "reference" or spec.resources.max_memory):
        rates = replace(rates, layer_s=REFERENCE_LAYER_S)
    flops = measured_flops(facts.probe, base) if facts.probe is not None else None
    if flops is None or facts.probe is None:
        return rates
    basis = f"{flops / 1e9:,.0f} GFLOP/s, measured by run {facts.probe.run_id}"
    return Rates(flops, rates.bandwidth, rates.layer_s, basis)


def _phases(
    spec: RunSpec,
    facts: Facts,
    base: ParameterCount,
    draft: ParameterCount | None,
    data: DataEstimate,
    steps: int | None,
    rates: Rates,
    device: str,
    count: int,
) -> tuple[Phase, ...] | None:
    if spec.stage == "dataset":
        phases = dataset_phases(spec, facts, base, data, rates, device)
        if phases is not None and device == "cuda":  # workers on a processor share its cores
            phases = [phases[0], *(replace(phase, seconds=phase.seconds / count) for phase in phases[1:])]
    elif spec.stage == "train" and draft is not None:
        phases = training_phases(spec, base, draft, data, steps, rates)
    else:
        phases = decoding_phases(spec, facts, base, draft, rates, device)
    return None if phases is None else tuple(phases)


_BASIS = {
    "stored": "samples and tokens are those of the datasets that training names",
    "probe": "conversations are as long as those of the probe",
    "rows": "conversations are as long as their rows' text (4 bytes a token), and answers as long as they may be",
    "longest": "the source's texts are not known: every conversation is taken as long as it may be",
}


def _assumptions(
    spec: RunSpec,
    facts: Facts,
    base: ParameterCount,
    draft: ParameterCount | None,
    data: DataEstimate,
    rates: Rates,
) -> tuple[str, ...]:
    found = [f"arithmetic: {rates.basis}"]
    if spec.stage in ("dataset", "train"):
        found.append(f"data: {_BASIS[data.basis]}")
    if spec.stage == "train":
        if not spec.training.datasets:
            found.append("data: training reads the dataset that this recipe makes")
        found.append("memory: activations and logits as measured on a GPU with one-layer drafts")
        if facts.probe is not None:
            found.append("the probe ran the base, so the time of training follows from its arithmetic rate only")
    if spec.stage in ("bench", "generate"):
        known = "as the draft's training simulated it" if facts.acceptance_rates else "of a modest draft"
        found.append(f"answers as long as they may be; acceptance {known}")
    for name, count, model in (
        ("base", base, spec.base.architecture.model_type),
        ("draft", draft, spec.draft.architecture.model_type if spec.draft else ""),
    ):
        if count is not None and not count.exact:
            found.append(f"{name}: parameters of family {model!r} are counted as if it were a Llama")
    return tuple(found)


def _notes(spec: RunSpec, facts: Facts, device: str, data: DataEstimate, count: int) -> tuple[str, ...]:
    notes: list[str] = []
    free = sum(gpu.state == "free" for gpu in facts.gpus or ())
    if device == "cuda" and facts.gpus and free < count <= len(facts.gpus):
        notes.append(f"{free} of {len(facts.gpus)} GPUs are free now; the run waits until there are {count}")
    if facts.gpus is None:
        what = "the device's memory is not checked" if device == "cuda" else "planned for the processor"
        notes.append(f"no GPU inventory (neither NVML nor nvidia-smi answers): {what}")
    if spec.stage in ("dataset", "train") and data.samples is None:
        notes.append(
            f"the number of conversations in {spec.dataset.source} is not known before it is read: set dataset.limit "
            "to plan with a number"
        )
    if facts.base.presence == "absent":
        notes.append(f"the base is not on this machine: {facts.base.where}; {facts.base.hint}")
    return tuple(notes)


def _refusals(made: Plan, spec: RunSpec, facts: Facts) -> tuple[tuple[str, ...], str]:
    """Why the run does not fit, and what to do about it."""
    found: list[str] = []
    if made.device == "cuda" and facts.gpus is not None:
        if len(facts.gpus) < made.num_devices:
            found.append(f"{made.num_devices} GPUs are asked for (resources.num_gpus), there are {len(facts.gpus)}")
        elif made.free_device_bytes is not None and made.device_bytes > made.free_device_bytes > 0:
            found.append(
                f"a GPU needs {gigabytes(made.device_bytes)}; "
                f"{made.device_name} has {gigabytes(made.free_device_bytes)} free"
            )
    if made.host_bytes > facts.free_memory_bytes:
        found.append(
            f"the machine's memory needs {gigabytes(made.host_bytes)}; {gigabytes(facts.free_memory_bytes)} are free"
        )
    if made.disk_bytes > facts.free_disk_bytes:
        free = gigabytes(facts.free_disk_bytes)
        found.append(f"the disk of {facts.disk_path} needs {gigabytes(made.disk_bytes)}; {free} are free")
    remedies = ["make room or lower the sizes above with --set"] if found else []
    if facts.base.presence == "absent" and spec.base.source.kind != "hub":
        found.append(f"the base is not on this machine: {facts.base.where}")
        remedies.append(facts.base.hint)
    sizes = spec.base.architecture
    ours = spec.backend == "builtin" or spec.stage in ("dataset", "train")  # another backend runs the base by itself
    if ours and (reason := facts.base.refusal or families.refusal(sizes.model_type, sizes.extra)):
        found.append(reason)
        remedies.append(families.HINT)
    return tuple(found), "; ".join(remedies)
