"""The records of a bench and of a tuning: written by the engine into the event `result`, read by the desk.

Every key of a record is a field here, with its unit; `events.record` reads records of other versions.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hetspec_core.events.record import Count, Histogram, Interval, ReadRecord, Real, Record, read_record
from hetspec_core.quantities import load_note

# --- conditions -------------------------------------------------------------------------------------------------------


class MachineFacts(Record):
    """The machine of a measurement; `load_average` (over a minute each) is the highest of the measurement."""

    device: str = ""
    cpu: str = ""
    cores: Count = None
    threads: Count = None
    load_average: Real = None
    python: str = ""
    torch: str = ""
    transformers: str = ""
    cuda: str | None = None
    gpu_memory_bytes: Count = None

    @property
    def load(self) -> str:
        """`load 12 on 2 cores` when other work shared the processor; else empty."""
        return load_note({"load_average": self.load_average, "cores": self.cores})


class LeftOut(Record):
    """Prompts that were left out for one reason: their number, and the names of the first few."""

    count: int = 0
    named: list[str] = Field(default_factory=list)


class SamplingUsed(Record):
    """How tokens were chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: Count = None
    top_p: Real = None
    seed: Count = None


class ServedBy(Record):
    """The SGLang that measured: `mode` is server or engine; `draft` is the one that the server itself names."""

    mode: str = ""
    version: str = ""
    model: str = ""
    url: str = ""
    dtype: str | None = None
    draft: str | None = None
    start_s: Real = None
    batch_size: int = 1
    repeats: Count = None


class BenchSetup(MachineFacts):
    """Conditions under which the figures of a bench hold.

    Attributes:
        draft: the draft; empty when the base was measured alone.
        draft_parameters, draft_active_parameters, draft_vocab_size: None where SGLang measured.
        prompt_ids_hash: of all prompts, token by token; benches with equal hashes had the same prompts.
        left_out: reason -> prompts that were left out.
        repeats: answers to each prompt; the median counts.
        peak_memory_bytes: `process`, and `gpu` where there is one.
        backend: absent in records of the built-in decoding.
        decoder: path of the built-in decoding, fast or reference; empty where it is not recorded.
    """

    dtype: str = ""
    base: str = ""
    base_fingerprint: str | None = None
    draft: str = ""
    draft_parameters: Count = None
    draft_active_parameters: Count = None
    draft_vocab_size: Count = None
    template_hash: str | None = None
    prompts: str = ""
    prompt_ids_hash: str | None = None
    conversations: Count = None
    left_out: dict[str, LeftOut] = Field(default_factory=dict)
    questions: Count = None
    prompt_tokens: Count = None
    max_new_tokens: Count = None
    sampling: SamplingUsed | None = None
    batch_size: int = 1
    repeats: Count = None
    peak_memory_bytes: dict[str, int] = Field(default_factory=dict)
    backend: str = "builtin"
    decoder: str = ""
    sglang: ServedBy | None = None


# --- figures ----------------------------------------------------------------------------------------------------------


class BatchResult(Record):
    """Throughput of SGLang with `batch_size` requests at once; `note` is the reason when it was not measured."""

    batch_size: int = 1
    completion_tokens: Count = None
    total_s: Real = None
    tokens_per_s: Real = None
    accept_length: Real = None
    verify_steps: Count = None
    note: str = ""


class SGLangCounts(Record):
    """The same measurement as SGLang counts it; of plain decoding the batches only.

    Attributes:
        flags: steps, topk and draft tokens.
        accept_length: completion tokens / verify steps, the first token of each answer included.
        correct_drafts_histogram: at index n, verify steps with n accepted draft tokens.
    """

    flags: list[int] = Field(default_factory=list)
    completion_tokens: Count = None
    spec_verify_ct: Count = None
    accept_length: Real = None
    correct_drafts_histogram: list[int] = Field(default_factory=list)
    batches: list[BatchResult] = Field(default_factory=list)


class PlainResult(Record):
    """Speed of one way of decoding.

    Attributes:
        tree: its label; not in the record of plain decoding.
        decode_tokens_per_s: tokens after the first / seconds after the first token.
        end_to_end_tokens_per_s: all tokens / all seconds, prefill included.
        first_token_s: median seconds to the first token.
        stop_reasons: reason -> answers.
    """

    tree: str = "plain"
    completion_tokens: Count = None
    decode_tokens_per_s: Real = None
    end_to_end_tokens_per_s: Real = None
    first_token_s: Real = None
    stop_reasons: dict[str, int] = Field(default_factory=dict)
    sglang: SGLangCounts | None = None


class DepthResult(Record):
    """Acceptance at one depth: `acceptance_rate` is accepted / offered, `joint_rate` is accepted / verify steps."""

    depth: int = 0
    offered: Count = None
    accepted: Count = None
    acceptance_rate: Real = None
    joint_rate: Real = None


class AnswerDifference(Record):
    """The first token at which an answer differs from plain decoding's.

    Attributes:
        question: index of the prompt.
        token: index in the answer.
        plain, speculative: the two token ids; None when one answer is the beginning of the other.
        top2_gap: distance between the logits of the base's two most likely tokens there.
    """

    question: int = 0
    token: int = 0
    plain: int | None = None
    speculative: int | None = None
    top2_gap: Real = None


class Lossless(Record):
    """Answers compared with those of plain decoding."""

    prompts: Count = None
    identical: Count = None
    differences: list[AnswerDifference] = Field(default_factory=list)


class CategoryResult(Record):
    """One category of prompts; speeds are None where prompts of several categories shared a batch."""

    prompts: Count = None
    accept_length: Real = None
    decode_tokens_per_s: Real = None
    speedup: Real = None


class PhaseSeconds(Record):
    """Seconds by phase; a phase that was not measured is None."""

    prefill_s: Real = None
    propose_s: Real = None
    verify_s: Real = None
    commit_s: Real = None
    other_s: Real = None

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds, of those that were measured, in the order of a step."""
        return {
            name.removesuffix("_s"): float(value)
            for name, value in self.to_json().items()
            if name.endswith("_s") and isinstance(value, int | float)
        }


class PassCosts(PhaseSeconds):
    """Seconds of the whole profiled pass at batch 1 by phase, and what it decoded."""

    verify_steps: Count = None
    prompt_tokens: Count = None
    completion_tokens: Count = None


class TreeResult(PlainResult):
    """One tree measured against plain decoding.

    Attributes:
        draft_vocab_size: tokens that the draft proposed; None where it is not known.
        shapes: label of a shape, or `plain` -> answers that `auto` decoded with it; None for a named shape.
        predicted_speedup: of `auto`, the mean over its answers of what it expected; None for a named shape.
        accept_length: committed tokens per verify step, pooled; with its bootstrap `accept_length_interval`.
        accept_length_macro: mean over conversations.
        histogram: committed tokens of a verify step -> number of steps.
        speedup, speedup_end_to_end: ratios to plain decoding; None where that was not measured.
        lossless: answers in the type that speeds were measured in; None where plain decoding was not measured.
        proof: answers of a separate pass in float32, which must be equal; None where there was none.
        phases: seconds of one verify step in a profiled pass.
    """

    tree: str = "?"
    depth: Count = None
    top_k: Count = None
    num_draft_tokens: Count = None
    draft_vocab_size: Count = None
    shapes: dict[str, int] | None = None
    predicted_speedup: Real = None
    accept_length: Real = None
    accept_length_interval: Interval = None
    accept_length_macro: Real = None
    verify_steps: Count = None
    histogram: Histogram = Field(default_factory=dict)
    by_depth: list[DepthResult] = Field(default_factory=list)
    speedup: Real = None
    speedup_end_to_end: Real = None
    lossless: Lossless | None = None
    proof: Lossless | None = None
    categories: dict[str, CategoryResult] = Field(default_factory=dict)
    phases: PhaseSeconds | None = None
    costs: PassCosts | None = None


class BenchResult(Record):
    """The record of a bench; `plain` is None at a running server that always drafts."""

    setup: BenchSetup = Field(default_factory=BenchSetup)
    plain: PlainResult | None = None
    trees: list[TreeResult] = Field(default_factory=list)


# --- tuning -----------------------------------------------------------------------------------------------------------


class TrialResult(Record):
    """One tree shape at one batch size; `note` is the reason when it was not measured, or what is wrong with it.

    `predicted_speedup` over plain decoding is what the cost model of `tree = auto` expected before the first turn.
    """

    tree: str = "?"
    batch_size: int = 1
    tokens_per_s: Real = None
    speedup: Real = None
    speedup_interval: Interval = None
    predicted_speedup: Real = None
    accept_length: Real = None
    tokens: Count = None
    seconds: Real = None
    turns: int = 0
    note: str = ""


class FastestResult(Record):
    """The verdict on one batch size.

    Attributes:
        tree, tokens_per_s, speedup, speedup_interval, flags: of the fastest; None where no difference was measured.
        leading: the tree with the highest speed, whether that means anything or not.
        verdict, advice: in words; advice where no difference was measured.
        frontier: trees that no other exceeds in both speed and accept length.
    """

    tree: str | None = None
    tokens_per_s: Real = None
    speedup: Real = None
    speedup_interval: Interval = None
    flags: str | None = None
    leading: str = ""
    verdict: str = ""
    advice: str = ""
    frontier: list[str] = Field(default_factory=list)


class TunedPrompts(Record):
    """The prompts of a tuning; `left_out` as in `BenchSetup`."""

    source: str = ""
    conversations: Count = None
    left_out: dict[str, LeftOut] = Field(default_factory=dict)


class TuneResult(Record):
    """The record of a tuning; `best` by batch size."""

    backend: str = ""
    trials: list[TrialResult] = Field(default_factory=list)
    best: dict[str, FastestResult] = Field(default_factory=dict)
    prompts: TunedPrompts = Field(default_factory=TunedPrompts)
    machine: MachineFacts = Field(default_factory=MachineFacts)


def read_bench(data: Any) -> ReadRecord[BenchResult]:
    """The record of a bench, as of `read_record`."""
    return read_record(BenchResult, data)
