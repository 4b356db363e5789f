"""Results of benches side by side: a row for each draft, setting and tree, and the Pareto front of the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hetspec_core.errors import DataError
from hetspec_core.events.record import ReadRecord
from hetspec_core.events.results import BenchResult, Lossless, PhaseSeconds, TreeResult, read_bench
from hetspec_core.service.bench_view import COLUMNS, equal_answers
from hetspec_core.service.sweeps.running import SweepLedger, state_of

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

PHASES = ("prefill", "propose", "verify", "other")


@dataclass(frozen=True)
class ResultRow:
    """One tree of one bench. Rates in tokens a second, times in seconds; None = not measured.

    Attributes:
        run_id: the bench.
        label: shown in tables.
        parameters, active_parameters: of the draft; embedding and head are the base's.
        plain_tokens_per_s: of the base alone, in the same run.
        measured: the figures of the tree.
        load: of the processor, when other work shared it, which lowers the speeds.
        problem: what of the record cannot be read; empty when all of it can.
    """

    run_id: str
    label: str
    base: str
    recipe: str
    dtype: str
    batch_size: int
    temperature: float
    parameters: int
    active_parameters: int
    plain_tokens_per_s: float | None
    measured: TreeResult
    device: str = ""
    load: str = ""
    problem: str = ""

    @property
    def tree(self) -> str:
        """Label of the tree, or `plain`."""
        return self.measured.tree

    @property
    def accept_length(self) -> float | None:
        """Committed tokens per verify step."""
        return self.measured.accept_length

    @property
    def tokens_per_s(self) -> float | None:
        """After the first token."""
        return self.measured.decode_tokens_per_s

    @property
    def speedup(self) -> float | None:
        """Over plain decoding."""
        return self.measured.speedup

    @property
    def equal_answers(self) -> str:
        """Answers equal to plain decoding's, of all, as tables show it."""
        return equal_answers(self.measured.lossless)

    @property
    def costs(self) -> dict[str, float]:
        """Phase -> seconds in the profiled pass at batch 1, the draft's commit counted with propose."""
        return _by_phase(self.measured.costs)

    @property
    def step_s(self) -> dict[str, float]:
        """Phase -> seconds of one verify step there."""
        return _by_phase(self.measured.phases)

    @property
    def draft_cost_s(self) -> float | None:
        """Seconds that the draft takes of a verify step."""
        return self.step_s.get("propose")

    def to_json(self) -> dict[str, Any]:
        """As JSON types: the setting, every figure of `COLUMNS`, and the details."""
        measured = self.measured
        figures = {column.name: column.value(measured) for column in COLUMNS}
        return {
            "run_id": self.run_id,
            "label": self.label,
            "base": self.base,
            "recipe": self.recipe,
            "tree": self.tree,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "temperature": self.temperature,
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "accept_length": figures.pop("accept_length"),
            "interval": figures.pop("interval"),
            "plain_tokens_per_s": self.plain_tokens_per_s,
            **figures,
            "prompts": measured.lossless and measured.lossless.prompts,
            "device": self.device,
            "load": self.load,
            "histogram": measured.histogram,
            "by_depth": [row.to_json() for row in measured.by_depth],
            "costs": self.costs,
            "step_s": self.step_s,
            "draft_cost_s": self.draft_cost_s,
        }


def collect(workbench: Workbench, words: Sequence[str]) -> list[ResultRow]:
    """The results of a sweep (its name alone), or of all benches that a query finds.

    Raises:
        DataError: no bench among them has succeeded.
        UsageError: the query cannot be understood.
    """
    ledger = SweepLedger(workbench.roots.data, words[0]) if len(words) == 1 and "/" not in words[0] else None
    if ledger is not None and ledger.exists:
        entries = [entry for entry in ledger.read().values() if entry.stage == "bench"]
        named = [(entry.run_id, entry.label) for entry in entries if state_of(workbench, entry) == "succeeded"]
    else:
        found = workbench.summaries([*words, "stage:bench", "state:succeeded"])
        named = [(run.run_id, run.name) for run in reversed(found)]
    rows: list[ResultRow] = []
    for run_id, label in named:
        rows += rows_of(workbench, run_id, label)
    if not rows:
        raise DataError(
            f"no bench of {' '.join(words) or 'any kind'} has succeeded",
            hint="see `hetspec-core runs list stage:bench`; a sweep is named by its name alone",
        )
    return rows


def rows_of(workbench: Workbench, run_id: str, label: str) -> list[ResultRow]:
    """The results of one bench, with this label."""
    report = workbench.show(run_id)
    result = report.results.get("bench")
    return _rows(run_id, label, report.summary.recipe, report.summary.draft, read_bench(result)) if result else []


def _rows(run_id: str, label: str, recipe: str, draft: str, found: ReadRecord[BenchResult]) -> list[ResultRow]:
    setup, plain = found.record.setup, found.record.plain  # a bench of a running server has no plain decoding
    shared = ResultRow(
        run_id=run_id,
        label=label or recipe or draft or run_id,
        base=setup.base,
        recipe=recipe,
        dtype=setup.dtype,
        device=(setup.cpu or "cpu") if setup.device == "cpu" else setup.device,
        load=setup.load,
        batch_size=setup.batch_size,
        temperature=setup.sampling.temperature if setup.sampling is not None else 0.0,
        parameters=setup.draft_parameters or 0,
        active_parameters=setup.draft_active_parameters or setup.draft_parameters or 0,
        plain_tokens_per_s=plain.decode_tokens_per_s if plain is not None else None,
        measured=TreeResult(),
        problem=found.note,
    )
    alone = TreeResult(
        tree="plain", decode_tokens_per_s=shared.plain_tokens_per_s, lossless=Lossless(prompts=0, identical=0)
    )
    return [replace(shared, measured=tree) for tree in found.record.trees or [alone]]


def _by_phase(found: PhaseSeconds | None) -> dict[str, float]:
    """Seconds by the phases of a table; the time in which the draft reads committed tokens counts as propose."""
    seconds = found.seconds if found is not None else {}
    if not seconds:
        return {}
    by_phase = {name: seconds.get(name, 0.0) for name in PHASES}
    by_phase["propose"] += seconds.get("commit", 0.0)
    return by_phase


Point = tuple[float, float]


def front(
    rows: Sequence[ResultRow],
    cost: Callable[[ResultRow], float | None],
    gain: Callable[[ResultRow], float | None],
) -> tuple[list[tuple[ResultRow, Point]], set[int]]:
    """The rows that have both figures, and those on the Pareto front: no other row costs less and gains more.

    Returns:
        (row, (cost, gain)) for each, and indices of those on the front.
    """
    points = []
    for row in rows:
        x, y = cost(row), gain(row)
        if x is not None and y is not None:
            points.append((row, (float(x), float(y))))
    best: set[int] = set()
    for index, (_, (x, y)) in enumerate(points):
        beaten = any(
            a <= x and b >= y and (a < x or b > y) for other, (_, (a, b)) in enumerate(points) if other != index
        )
        if not beaten:
            best.add(index)
    return points, best
