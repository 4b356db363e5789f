"""The results of a bench or a tuning as lines, tables and bars, for the command line and the dashboard.

A figure that belongs to every tree is one entry of `COLUMNS`: it is then in the table of a bench in both faces, and in
the table, CSV, Markdown and JSON of `report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hetspec_core.events.record import read_record
from hetspec_core.events.results import (
    BatchResult,
    BenchResult,
    BenchSetup,
    FastestResult,
    LeftOut,
    Lossless,
    MachineFacts,
    PlainResult,
    TreeResult,
    TuneResult,
    read_bench,
)
from hetspec_core.quantities import is_greedy

_MOST_DIFFERENCES = 5


# --- columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchColumn:
    """A figure of every tree.

    Attributes:
        name: key in the JSON and CSV of `report`.
        head: heading of tables.
        value: the figure, as JSON data.
        text: how tables show it.
        plain: how tables show it for plain decoding.
    """

    name: str
    head: str
    value: Callable[[TreeResult], Any]
    text: Callable[[TreeResult], str]
    plain: Callable[[PlainResult], str] = lambda _: "-"


def equal_answers(found: Lossless | None) -> str:
    """Answers equal to plain decoding's, of all; a dash where they were not compared."""
    if found is None:
        return "-"
    return "/".join("?" if count is None else str(count) for count in (found.identical, found.prompts))


COLUMNS = (
    BenchColumn(
        "accept_length", "accept length", lambda tree: tree.accept_length, lambda tree: number(tree.accept_length)
    ),
    BenchColumn(
        "interval",
        "95 %",
        lambda tree: tree.accept_length_interval,
        lambda tree: _range(tree.accept_length_interval),
    ),
    BenchColumn(
        "tokens_per_s",
        "tokens/s",
        lambda tree: tree.decode_tokens_per_s,
        lambda tree: rate(tree.decode_tokens_per_s),
        lambda plain: rate(plain.decode_tokens_per_s),
    ),
    BenchColumn("speedup", "speedup", lambda tree: tree.speedup, lambda tree: number(tree.speedup), lambda _: "1.00"),
    BenchColumn(
        "identical",
        "identical",
        lambda tree: tree.lossless and tree.lossless.identical,
        lambda tree: equal_answers(tree.lossless),
    ),
)


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchLine:
    """A line of text; `warning` = the figures or the record are not reliable."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Grid:
    """Rows under a head. The first column is text, the others are figures; with `notes` the last one is text too."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: bool = False

    @property
    def figures(self) -> range:
        """Indices of the columns that are aligned right."""
        return range(1, len(self.head) - self.notes)


@dataclass(frozen=True)
class Bar:
    """One entry of `Bars`: `length` from 0 to 1; `text` follows its name in a line, `figures` follow its bar."""

    name: str
    length: float
    text: str
    figures: str


@dataclass(frozen=True)
class Bars:
    """A distribution under its title."""

    title: str
    bars: tuple[Bar, ...]


Part = BenchLine | Grid | Bars


def is_bench(data: Any) -> bool:
    """Whether this looks like the record of a bench."""
    return isinstance(data, dict) and isinstance(data.get("trees"), list) and "plain" in data


def bench_lines(data: Any) -> list[Part]:
    """The record of a bench as parts: the setting, the table of all ways of decoding, the details of each tree.

    Args:
        data: the record, of any version; what cannot be read of it is named in a line and left out.
    """
    found = read_bench(data)
    result = found.record
    parts: list[Part] = [BenchLine(found.note, warning=True)] if found.note else []
    parts += _setup(result.setup)
    plain = result.plain
    rows = [] if plain is None else [(plain.tree, *(column.plain(plain) for column in COLUMNS))]
    rows += [(tree.tree, *(column.text(tree) for column in COLUMNS)) for tree in result.trees]
    parts.append(Grid(("tree", *(column.head for column in COLUMNS)), tuple(rows)))
    parts += _with_prefill(result)
    parts += _vocabularies(result)
    if plain is not None and plain.sglang is not None:
        parts += [BenchLine(f"{plain.tree}, {_throughput(batch)}") for batch in plain.sglang.batches]
    for tree in result.trees:
        parts += _tree(tree)
    parts += _words(result)
    return parts


def _setup(setup: BenchSetup) -> Iterator[Part]:
    if setup.base:
        about = f"{setup.base} with draft {setup.draft}" if setup.draft else f"{setup.base} alone"
        if setup.draft and setup.draft_parameters is not None:
            vocabulary = "" if setup.draft_vocab_size is None else f", vocabulary {setup.draft_vocab_size:,}"
            about += f" ({setup.draft_parameters / 1e6:.1f} M parameters{vocabulary})"
        yield BenchLine(about)
    sampling = setup.sampling
    asked = [
        "" if setup.questions is None else f"{setup.questions} prompts of {setup.prompts}",
        "" if setup.prompt_tokens is None else f"{setup.prompt_tokens:,} prompt tokens",
        "" if setup.max_new_tokens is None else f"up to {setup.max_new_tokens} new tokens",
        ""
        if sampling is None
        else "greedy"
        if is_greedy(sampling.temperature)
        else f"temperature {sampling.temperature}, seed {sampling.seed}",
        setup.dtype,
    ]
    if any(asked):
        repeats = "" if setup.repeats is None else f"median of {setup.repeats}"
        yield BenchLine(", ".join(filter(None, [*asked, f"batch {setup.batch_size}", repeats])))
    if setup.device:
        machine = [setup.cpu, "" if setup.threads is None else f"{setup.threads} threads"]
        yield BenchLine(
            f"{setup.device} ({', '.join(filter(None, machine))}), torch {setup.torch}, "
            f"transformers {setup.transformers}"
        )
    yield from _left_out(setup.left_out)
    yield from _load(setup)
    served = setup.sglang
    if served is not None:
        yield BenchLine(f"SGLang {served.version}, {served.mode} {served.url}".rstrip())


def _left_out(reasons: dict[str, LeftOut]) -> Iterator[Part]:
    for reason, left_out in reasons.items():
        named = f" ({left_out.named[0]})" if left_out.named else ""
        yield BenchLine(f"left out: {left_out.count} {reason}{named}")


def _load(machine: MachineFacts) -> Iterator[Part]:
    if machine.load:
        yield BenchLine(
            f"measured at {machine.load}: other work shared the processor and slowed these figures", warning=True
        )


def _with_prefill(result: BenchResult) -> Iterator[Part]:
    ways = [way for way in (result.plain, *result.trees) if way is not None]
    if all(way.end_to_end_tokens_per_s is None for way in ways):
        return
    ends = [
        f"{way.tree} {rate(way.end_to_end_tokens_per_s)}"
        + (f" ({number(way.speedup_end_to_end)})" if isinstance(way, TreeResult) else "")
        for way in ways
    ]
    yield BenchLine(f"with prefill, tokens/s (speedup): {', '.join(ends)}")


def _vocabularies(result: BenchResult) -> Iterator[Part]:
    """For each tree with a reduced draft vocabulary: its size, and what that changes if a larger one was measured."""
    whole = result.setup.draft_vocab_size
    for tree in result.trees:
        if tree.shapes:
            took = ", ".join(f"{shape} for {count}" for shape, count in sorted(tree.shapes.items()))
            expected = "" if tree.predicted_speedup is None else f", predicted {tree.predicted_speedup:.2f} times plain"
            yield BenchLine(f"{tree.tree} took {took} of {sum(tree.shapes.values())} answers{expected}")
        size = tree.draft_vocab_size
        if size is None or whole is None or size >= whole:
            continue
        same = [one for one in result.trees if _shape(one) == _shape(tree)]
        largest = max(same, key=lambda one: one.draft_vocab_size or 0)
        effect = ""
        if (largest.draft_vocab_size or 0) > size:
            lengths = _change(tree.accept_length, largest.accept_length)
            speeds = _change(tree.decode_tokens_per_s, largest.decode_tokens_per_s)
            effect = f"; against {largest.draft_vocab_size:,}: accept length {lengths}, tokens/s {speeds}"
        yield BenchLine(f"{tree.tree} proposes the {size:,} commonest of {whole:,} tokens{effect}")


def _shape(tree: TreeResult) -> tuple[bool, int | None, int | None, int | None]:
    return bool(tree.shapes), tree.depth, tree.top_k, tree.num_draft_tokens


def _change(value: float | None, reference: float | None) -> str:
    return f"{value / reference - 1:+.1%}" if value and reference else "-"


def _tree(tree: TreeResult) -> Iterator[Part]:
    total = sum(tree.histogram.values()) or 1
    most = max(tree.histogram.values(), default=0) or 1
    steps = "" if tree.verify_steps is None else f"{tree.verify_steps:,} "
    if steps or tree.histogram:
        yield Bars(
            f"{tree.tree}: {steps}verify steps by committed tokens",
            tuple(
                Bar(str(length), count / most, str(count), f"{count / total:4.0%}  {count:,}")
                for length, count in tree.histogram.items()
            ),
        )
    if tree.by_depth:
        yield Bars(
            "acceptance by depth, given its parent (joint)",
            tuple(
                Bar(
                    str(row.depth),
                    row.acceptance_rate or 0.0,
                    f"{_percent(row.acceptance_rate)} ({_percent(row.joint_rate)})",
                    f"{_percent(row.acceptance_rate):>4}  ({_percent(row.joint_rate)})",
                )
                for row in tree.by_depth
            ),
        )
    counted = tree.sglang
    if counted is not None:
        yield BenchLine(
            f"as SGLang counts: {counted.completion_tokens} tokens / {counted.spec_verify_ct} verify steps = "
            f"{number(counted.accept_length)} (the first token is in it), flags {counted.flags}"
        )
        yield from (BenchLine(_throughput(batch)) for batch in counted.batches)
    if tree.costs is not None and (spent := tree.costs.seconds):
        whole = sum(spent.values()) or 1.0
        shares = ", ".join(f"{name} {seconds:.2f} s ({seconds / whole:.0%})" for name, seconds in spent.items())
        yield BenchLine(f"where the time goes at batch 1: {shares}")
    if tree.phases is not None and (spent := tree.phases.seconds):
        phases = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in spent.items())
        yield BenchLine(f"a step, in a profiled pass of its own: {phases}")
    if len(tree.categories) > 1:
        yield Grid(
            ("category", "prompts", "accept length", "tokens/s", "speedup"),
            tuple(
                (
                    name,
                    "-" if row.prompts is None else str(row.prompts),
                    number(row.accept_length),
                    rate(row.decode_tokens_per_s),
                    number(row.speedup),
                )
                for name, row in tree.categories.items()
            ),
        )
    for one in tree.lossless.differences[:_MOST_DIFFERENCES] if tree.lossless is not None else ():
        gap = "" if one.top2_gap is None else f"; the base's two likeliest tokens are {one.top2_gap:.2g} apart"
        yield BenchLine(f"prompt {one.question} differs from plain decoding at token {one.token}{gap}")


def _words(result: BenchResult) -> Iterator[Part]:
    """What the words of the table mean."""
    served = result.setup.sglang
    first = served is None or served.mode != "engine"
    yield BenchLine(
        f"tree: depth/top_k/num_draft_tokens. tokens/s: {'after the first token' if first else 'prefill included'}."
    )
    equal = " identical: answers equal to plain's." if any(tree.lossless is not None for tree in result.trees) else ""
    yield BenchLine(f"Accept length: committed tokens per verify step, bonus token included.{equal}")
    proved = [tree for tree in result.trees if tree.proof is not None]
    if proved:
        yield BenchLine(f"Speeds and identical: {result.setup.dtype}, in which answers part at near ties of the base.")
        for tree in proved:
            wrong = tree.proof is not None and tree.proof.identical != tree.proof.prompts
            yield BenchLine(
                f"{tree.tree} in float32: {equal_answers(tree.proof)} answers of the reference equal plain's", wrong
            )


def _throughput(batch: BatchResult) -> str:
    speed = f"not measured: {batch.note}" if batch.note else f"{rate(batch.tokens_per_s)} tokens/s"
    return f"{batch.batch_size} prompts at once: {speed}"


# --- tunings ----------------------------------------------------------------------------------------------------------


def is_tuning(data: Any) -> bool:
    """Whether this looks like the record of a tuning."""
    return isinstance(data, dict) and isinstance(data.get("trials"), list) and "best" in data


def tune_lines(data: Any) -> list[Part]:
    """The record of a tuning as parts: every trial, and the verdict on each batch size.

    Args:
        data: the record, as of `bench_lines`.
    """
    read = read_record(TuneResult, data)
    result = read.record
    parts: list[Part] = [BenchLine(read.note, warning=True)] if read.note else []
    parts += _left_out(result.prompts.left_out)
    rows, expected = [], dict[int, list[str]]()
    for trial in result.trials:
        best = result.best.get(str(trial.batch_size), FastestResult())
        cells = (trial.tree, str(trial.batch_size), rate(trial.tokens_per_s), number(trial.speedup))
        interval = "-" if trial.tree == "plain" else _range(trial.speedup_interval)
        on_it = "*" if trial.tree in best.frontier else ""
        if trial.predicted_speedup is not None:
            expected.setdefault(trial.batch_size, []).append(f"{trial.tree} {number(trial.predicted_speedup)}")
        rows.append((*cells, interval, number(trial.accept_length), str(trial.turns), on_it, trial.note))
    head = ("tree", "batch", "tokens/s", "speedup", "95 %", "accept length", "turns", "frontier", "")
    parts.append(Grid(head, tuple(rows), notes=True))
    for size, shapes in expected.items():
        parts.append(BenchLine(f"batch {size}, speedup predicted before the first turn: {', '.join(shapes)}"))
    parts += _load(result.machine)
    for size, best in result.best.items():
        if best.tree is None:
            parts += [BenchLine(f"batch {size}: {best.verdict}"), BenchLine(f"to tell them apart, {best.advice}")]
        else:
            parts.append(BenchLine(f"batch {size}: {best.verdict}, {rate(best.tokens_per_s)} tokens/s: {best.flags}"))
    return parts


# --- figures ----------------------------------------------------------------------------------------------------------


def rate(value: float | None) -> str:
    """Tokens per second."""
    return "-" if value is None else f"{value:,.1f}"


def number(value: float | None) -> str:
    """A length or a ratio."""
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _range(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[0]:.2f}-{value[1]:.2f}"
