"""Results of benches side by side: one row for each draft, setting and tree, and which of them nothing else beats.

It knows what the stage bench says, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hetspec_core.errors import DataError, NotFoundError
from hetspec_core.quantities import load_note
from hetspec_core.service.library import Library
from hetspec_core.service.sweeps.ledger import SweepLedger

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

PHASES = ("prefill", "propose", "verify", "other")


@dataclass(frozen=True)
class ResultRow:
    """One tree of one bench. Rates in tokens a second, times in seconds; None = not measured.

    Attributes:
        run_id: the bench.
        label: what it is called.
        parameters, active_parameters: of the draft; embedding and head are the base's.
        plain_tokens_per_s: of the base alone, in the same run.
        identical, prompts: answers equal to plain decoding's, of all; None where there was none to hold them against.
        histogram: committed tokens of a verify step -> how often.
        by_depth: depth, acceptance_rate given the parent, joint_rate.
        costs: phase -> seconds in the profiled pass at batch 1, the draft's commit counted with propose.
        step_s: phase -> seconds of one verify step there.
        load: of the processor, where other work shared it: the speeds are lower than they should be.
    """

    run_id: str
    label: str
    base: str
    recipe: str
    tree: str
    dtype: str
    batch_size: int
    temperature: float
    parameters: int
    active_parameters: int
    accept_length: float | None
    interval: tuple[float, float] | None
    plain_tokens_per_s: float | None
    tokens_per_s: float | None
    speedup: float | None
    identical: int | None
    prompts: int | None
    device: str = ""
    load: str = ""
    histogram: dict[int, int] = field(default_factory=dict)
    by_depth: tuple[dict[str, Any], ...] = ()
    costs: dict[str, float] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)

    @property
    def equal_answers(self) -> str:
        """Answers equal to plain decoding's, of all, as tables show it."""
        return "-" if self.identical is None else f"{self.identical}/{self.prompts}"

    @property
    def draft_cost_s(self) -> float | None:
        """Seconds that the draft takes of a verify step."""
        return self.step_s.get("propose")

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"draft_cost_s": self.draft_cost_s}


def collect(workbench: Workbench, words: Sequence[str]) -> list[ResultRow]:
    """The results of a sweep (its name alone), or of all benches that a query finds.

    Raises:
        DataError: no bench among them has succeeded.
        UsageError: the query cannot be understood.
    """
    library = Library(workbench)
    ledger = SweepLedger(workbench.roots.data, words[0]) if len(words) == 1 and "/" not in words[0] else None
    if ledger is not None and ledger.exists:
        entries = [entry for entry in ledger.read().values() if entry.stage == "bench"]
        states = {entry.run_id: _state(library, entry.run_id) for entry in entries}
        named = [(entry.run_id, entry.label) for entry in entries if states[entry.run_id] == "succeeded"]
    else:
        found = library.find([*words, "stage:bench", "state:succeeded"])
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
    """The results of one bench, under this name."""
    report = workbench.show(run_id)
    result = report.results.get("bench")
    return _rows(run_id, label, report.summary.recipe, report.summary.draft, result) if result else []


def _state(library: Library, run_id: str) -> str:
    try:
        return str(library.summary(run_id).state)
    except NotFoundError:
        return "gone"


def _rows(run_id: str, label: str, recipe: str, draft: str, result: dict[str, Any]) -> list[ResultRow]:
    setup, plain = result["setup"], result["plain"] or {}  # a server that is attached to has no plain
    shared: dict[str, Any] = {
        "run_id": run_id,
        "label": label or recipe or draft or run_id,
        "base": setup.get("base", ""),
        "recipe": recipe,
        "dtype": setup.get("dtype", ""),
        "device": setup.get("cpu", "cpu") if setup.get("device") == "cpu" else setup.get("device", ""),
        "load": load_note(setup),
        "batch_size": setup.get("batch_size", 1),
        "temperature": (setup.get("sampling") or {}).get("temperature", 0.0),
        "parameters": setup.get("draft_parameters") or 0,
        "active_parameters": setup.get("draft_active_parameters") or setup.get("draft_parameters") or 0,
        "plain_tokens_per_s": plain.get("decode_tokens_per_s"),
    }
    if not result["trees"]:
        nothing: dict[str, Any] = {"accept_length": None, "interval": None, "speedup": None}
        rate = shared["plain_tokens_per_s"]
        return [ResultRow(**shared, **nothing, tree="plain", tokens_per_s=rate, identical=0, prompts=0)]
    rows = []
    for tree in result["trees"]:
        costs, phases, lossless = tree.get("costs") or {}, tree.get("phases") or {}, tree["lossless"] or {}
        interval = tree.get("accept_length_interval")
        rows.append(
            ResultRow(
                **shared,
                tree=tree["tree"],
                accept_length=tree["accept_length"],
                interval=tuple(interval) if interval else None,  # type: ignore[arg-type] - two of them
                tokens_per_s=tree["decode_tokens_per_s"],
                speedup=tree["speedup"],
                identical=lossless.get("identical"),
                prompts=lossless.get("prompts"),
                histogram={int(length): count for length, count in tree["histogram"].items()},
                by_depth=tuple(tree["by_depth"]),
                costs=_by_phase(costs),
                step_s=_by_phase(phases),
            )
        )
    return rows


def _by_phase(seconds: dict[str, Any]) -> dict[str, float]:
    """Seconds by the phases that a table shows: the draft's second reading of what was committed is the draft's too."""
    if not seconds:
        return {}
    found = {name: float(seconds.get(f"{name}_s") or 0.0) for name in PHASES}
    found["propose"] += float(seconds.get("commit_s") or 0.0)
    return found


Point = tuple[float, float]


def front(
    rows: Sequence[ResultRow],
    cost: Callable[[ResultRow], float | None],
    gain: Callable[[ResultRow], float | None],
) -> tuple[list[tuple[ResultRow, Point]], set[int]]:
    """The rows that have both figures, and which of them are on the Pareto front: nothing costs less and brings more.

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
