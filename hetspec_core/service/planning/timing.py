"""The seconds of a run by phase, from a cost model of arithmetic, memory traffic and fixed costs per layer.

Its rates are assumptions about a kind of device, below what was measured (docs/lab/LOG.md); a probe replaces the rate
of arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hetspec_core.service.planning.costs import (
    BYTES_OF,
    DataEstimate,
    base_dtype,
    store_bytes,
)
from hetspec_core.service.planning.facts import Facts, GpuFacts, ProbeFacts
from hetspec_core.service.planning.parameters import ParameterCount, count_passes
from hetspec_core.spec import RunSpec, TreeSpec
from hetspec_core.tree_choice import AcceptanceModel, CycleCosts, choose, shapes_within

EFFICIENCY = 0.15  # of a GPU's dense bfloat16 peak that is reached
CORE_FLOPS = 40e9  # float32, of one processor core
PROCESSOR_BANDWIDTH = 15e9  # bytes/s
DISK_RATE = 300e6  # bytes/s
LOAD_RATE = 500e6  # bytes/s, of reading weights
START_S = 15.0  # a process with torch and transformers in it
REFERENCE_LAYER_S = 0.7e-3  # the same by the reference decoder on a GPU, which launches every operation
LAYER_S = {"cuda": 0.022e-3, "cpu": 0.1e-3}  # fixed cost of a layer in a forward of few tokens, by the fast decoder
TURNS = 2  # of a benchmark conversation

_PEAKS = (  # name part, dense bfloat16 FLOP/s, bytes/s
    ("B200", 2250e12, 8.0e12),
    ("H200", 989e12, 4.8e12),
    ("H100 PCIe", 756e12, 2.0e12),
    ("H100", 989e12, 3.35e12),
    ("A100", 312e12, 1.9e12),
    ("L40S", 362e12, 0.86e12),
    ("L4", 121e12, 0.30e12),
    ("A10", 125e12, 0.60e12),
    ("RTX 5090", 210e12, 1.79e12),
    ("RTX 4090", 165e12, 1.0e12),
    ("RTX 3090", 71e12, 0.93e12),
    ("V100", 112e12, 0.90e12),
    ("T4", 65e12, 0.32e12),
)
_UNKNOWN_PEAK = (60e12, 0.5e12)


@dataclass(frozen=True)
class Phase:
    """One part of a run and its seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Rates:
    """What a device does in a second.

    Attributes:
        flops: floating-point operations in large products.
        bandwidth: bytes of weights read.
        layer_s: fixed seconds per layer of a small forward.
        basis: where they come from, as a sentence part.
    """

    flops: float
    bandwidth: float
    layer_s: float
    basis: str


def rates_of(device: str, gpu: GpuFacts | None, cores: int) -> Rates:
    """Rates assumed of a GPU (None = of an unknown one), or of so many processor cores."""
    if device == "cpu":
        basis = f"{CORE_FLOPS / 1e9:g} GFLOP/s for each of {cores} cores, {PROCESSOR_BANDWIDTH / 1e9:g} GB/s of memory"
        return Rates(CORE_FLOPS * cores, PROCESSOR_BANDWIDTH, LAYER_S["cpu"], basis)
    name = gpu.name if gpu is not None else ""
    peak, bandwidth = next((values for part, *values in _PEAKS if part in name), _UNKNOWN_PEAK)
    known = name if (peak, bandwidth) != _UNKNOWN_PEAK else f"an unknown GPU {name}".rstrip()
    basis = f"{EFFICIENCY:.0%} of {peak / 1e12:g} TFLOP/s and {bandwidth / 1e12:g} TB/s of {known}"
    return Rates(EFFICIENCY * peak, bandwidth, LAYER_S["cuda"], basis)


def measured_flops(probe: ProbeFacts, base: ParameterCount) -> float | None:
    """Arithmetic rate of the probe's capture: two operations per parameter and token."""
    return 2 * base.active * probe.tokens / probe.capture_s if probe.capture_s > 0 else None


def dataset_phases(
    spec: RunSpec, facts: Facts, base: ParameterCount, data: DataEstimate, rates: Rates, device: str
) -> list[Phase] | None:
    """Phases of making a dataset; None when its size is not known."""
    size = store_bytes(spec, data)
    if data.samples is None or data.tokens is None or size is None:
        return None
    phases = _start(base, BYTES_OF[base_dtype(spec, device)])
    probe = facts.probe
    if probe is not None:
        if probe.answers_s > 0:
            phases.append(Phase("answers", probe.answers_s * data.samples / probe.samples))
        phases.append(Phase("capture", probe.capture_s * data.tokens / probe.tokens))
        return phases
    if spec.dataset.answers == "base":
        rows = min(spec.dataset.generation_batch, max(1, data.samples))
        steps = math.ceil(data.samples / rows) * spec.dataset.max_new_tokens
        if spec.dataset.source == "self":
            steps *= 2  # the questions are written first
        phases.append(Phase("answers", steps * _step_s(spec, base, rates, device, rows)))
    forward = data.tokens * 2 * base.active / rates.flops
    phases.append(Phase("capture", max(forward, size / DISK_RATE)))
    return phases


def training_phases(
    spec: RunSpec, base: ParameterCount, draft: ParameterCount, data: DataEstimate, steps: int | None, rates: Rates
) -> list[Phase] | None:
    """Phases of training; None when neither steps nor minutes are known. `max_minutes` cuts all of it off."""
    training = spec.training
    passes = count_passes(spec.algorithm)
    heads = 4 * draft.head_products * passes.readouts
    per_token = 6 * draft.active * passes.training + data.supervised_share * (2 * base.head_products + heads)
    tokens = training.tokens_per_batch * training.gradient_accumulation
    step_s = tokens * per_token / rates.flops
    evaluated = training.eval_samples * (data.mean_tokens + training.eval_starts * spec.decoding.tree.depth)
    evaluation_s = evaluated * 2 * (draft.active + draft.head_products) / rates.flops
    start = _start(base, 4 if spec.training.precision == "float32" else 2)
    if steps is None:
        return None if training.max_minutes is None else [*start, Phase("training", training.max_minutes * 60)]
    evaluations = 1 + steps // training.eval_every
    checkpoints = 1 + steps // training.save_every
    phases = [
        Phase("training steps", steps * step_s),
        Phase("evaluations", evaluations * evaluation_s),
        Phase("checkpoints", checkpoints * 12 * draft.total / DISK_RATE),
    ]
    if training.max_minutes is not None:
        over = sum(phase.seconds for phase in phases) / (training.max_minutes * 60)
        phases = [Phase(phase.name, phase.seconds / max(1.0, over)) for phase in phases]
    return start + phases


@dataclass(frozen=True)
class TreeExpectation:
    """What the cost model of `tree = auto` expects of a tree.

    Attributes:
        tree: its label.
        shape: the shape that answers are decoded with; of `auto`, the one that it would take, or `plain`.
        accept_length: committed tokens of a verify step.
        speedup: over plain decoding.
    """

    tree: str
    shape: str
    accept_length: float
    speedup: float

    @property
    def sentence(self) -> str:
        """The expectation in words."""
        if self.shape == "plain":
            return f"{self.tree} decodes plainly: no shape is expected to be faster"
        takes = "" if self.shape == self.tree else f" takes {self.shape}"
        return f"{self.tree}{takes}: accept length {self.accept_length:.2f}, {self.speedup:.2f} times plain decoding"


def expected_trees(
    spec: RunSpec, facts: Facts, base: ParameterCount, draft: ParameterCount | None, rates: Rates, device: str
) -> tuple[TreeExpectation, ...]:
    """What is expected of the trees of a benchmark or of answers, from the plan's times of a step and a cycle."""
    if draft is None or spec.draft is None or spec.stage not in ("bench", "generate") or spec.decoding.plain:
        return ()
    model, found = AcceptanceModel(), []
    model.start_from(facts.acceptance_rates)
    for tree in spec.bench.trees if spec.stage == "bench" else (spec.decoding.tree,):
        shapes = shapes_within(tree, spec.draft.vocab_size) if tree.auto else (tree,)
        cycles = {shape.label: _cycle_s(spec, base, draft, rates, device, shape) for shape in shapes}
        choice = choose(CycleCosts(_step_s(spec, base, rates, device, 1), cycles), model, shapes)
        plain = tree.auto and choice.shape is None
        found.append(
            TreeExpectation(
                tree=tree.label,
                shape="plain" if plain else choice.best.label,
                accept_length=1.0 if plain else choice.accept_length,
                speedup=1.0 if plain else choice.predicted_speedup,
            )
        )
    return tuple(found)


def _cycle_s(
    spec: RunSpec, base: ParameterCount, draft: ParameterCount | None, rates: Rates, device: str, tree: TreeSpec
) -> float:
    """Seconds of a cycle: the levels of the draft, and the base over root and nodes."""
    propose = 0.0
    if draft is not None and spec.draft is not None:
        passes = count_passes(spec.algorithm).drafting
        draft_layers = passes * spec.draft.architecture.num_hidden_layers
        one = max(
            passes * draft.active * BYTES_OF[base_dtype(spec, device)] / rates.bandwidth,
            2 * tree.top_k * (passes * draft.active + draft.head_products) / rates.flops,
        )
        propose = tree.depth * (one + (1 + draft_layers) * rates.layer_s)
    return _step_s(spec, base, rates, device, 1 + tree.num_nodes) + propose


def decoding_phases(
    spec: RunSpec, facts: Facts, base: ParameterCount, draft: ParameterCount | None, rates: Rates, device: str
) -> list[Phase] | None:
    """Phases of a benchmark or of answering prompts, every answer as long as it may be; None without prompts."""
    most = spec.decoding.max_new_tokens
    if spec.stage == "bench":
        if facts.prompts is None:
            return None
        answers = facts.prompts * (1 if spec.bench.first_turn_only else TURNS) * spec.bench.repeats
    else:
        answers = max(1, len(spec.prompts))
    phases = _start(base, BYTES_OF[base_dtype(spec, device)])
    plain_s = answers * most * _step_s(spec, base, rates, device, 1)
    trees = expected_trees(spec, facts, base, draft, rates, device)
    if spec.stage == "bench" or not trees:
        phases.append(Phase("plain decoding", plain_s))
    phases += [Phase(f"speculative decoding {tree.tree}", plain_s / tree.speedup) for tree in trees]
    return phases


def _start(base: ParameterCount, element: int) -> list[Phase]:
    return [Phase("start and load", START_S + base.total * element / LOAD_RATE)]


def _step_s(spec: RunSpec, base: ParameterCount, rates: Rates, device: str, tokens: int) -> float:
    """Seconds of one forward of few tokens with its logits: weights read, arithmetic, and the layers' fixed cost."""
    touched = min(base.layers, base.active * tokens) + base.head_products
    reading = touched * BYTES_OF[base_dtype(spec, device)] / rates.bandwidth
    arithmetic = 2 * tokens * (base.active + base.head_products) / rates.flops
    return max(reading, arithmetic) + spec.base.architecture.num_hidden_layers * rates.layer_s
