"""Long lists of runs, a page at a time: the ids that a query gives, the rows of those in view, and curves of metrics.

SQLite sorts and filters, and gives the ids once; rows are read for the few in view. So a list does not change while a
user scrolls, and 100,000 runs cost a tenth of a second.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from hetspec_core.events import AT_WORK, RunState
from hetspec_core.events.state import STATES
from hetspec_core.runs import Axis
from hetspec_core.runs.query import FIELDS
from hetspec_core.service.library import Library
from hetspec_core.service.report import RunSummary, list_files
from hetspec_core.service.workbench import Workbench

__all__ = [
    "Axis",
    "Listing",
    "Loss",
    "MetricSeries",
    "Pages",
    "RunLine",
    "Vocabulary",
    "split_query",
]

STAGES = ("dataset", "train", "bench", "generate")

_PART = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_RECENT = 200  # newest runs whose tags are offered


@dataclass(frozen=True)
class Listing:
    """The runs that a query means.

    Attributes:
        run_ids: in the order asked for.
        total: number of runs that are not archived, or of all when archived ones count.
        states: the state now of the runs whose rows cannot tell it: those at work, lost or waiting.
    """

    run_ids: tuple[str, ...] = ()
    total: int = 0
    states: dict[str, RunState] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLine:
    """One run in a list, with its values under further names (metrics, settings)."""

    summary: RunSummary
    values: dict[str, Any]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a query and an order may use now."""

    fields: tuple[str, ...] = FIELDS
    metrics: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that may stand before a sign."""
        return (*self.fields, *self.metrics, *self.settings)


@dataclass(frozen=True)
class MetricSeries:
    """One metric of one run; `xs` as the axis asked for, a point without an x is left out."""

    run: RunSummary
    xs: list[float]
    ys: list[float | None]


@dataclass(frozen=True)
class Loss:
    """What is lost when some runs are deleted.

    Attributes:
        runs: they themselves.
        bytes: of all files in their folders.
        checkpoints: how many folders of checkpoints and drafts are among them.
        dependents: ids of the other runs that depend on them.
    """

    runs: list[RunSummary]
    bytes: int
    checkpoints: int
    dependents: list[str]


def split_query(text: str) -> tuple[str, ...]:
    """The words of a query typed in one line; text in double quotes is one word."""
    words = [part[1:-1] if _is_quoted(part) else part for part in _PART.findall(text)]
    return tuple(word for word in words if word.strip('"'))


class Pages:
    """Lists of runs for a screen that shows a part of them.

    Args:
        workbench: whose runs.
    """

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench

    def listing(
        self, words: Sequence[str] = (), *, sort: str = "created", archived: bool = False, sync: bool = True
    ) -> Listing:
        """The runs that a query asks for, as `Workbench.summaries` gives them.

        Args:
            words: the query, as in `runs.query`.
            sort: field, metric or setting, `:asc` or `:desc` behind it.
            archived: whether archived runs count too.
            sync: look for what is new on disk first.

        Raises:
            UsageError: the query or the order cannot be understood.
        """
        registry = self.workbench.registry
        if sync:
            registry.sync_all()
        waiting = self.workbench.queue.waiting_ids()
        states = self._states(waiting)
        found = registry.find(words, sort=sort, archived=archived, waiting=waiting)
        run_ids = tuple(run_id for run_id in found.run_ids if run_id not in states or found.accepts(states[run_id]))
        total = len(registry.find(archived=archived).run_ids) if words else len(run_ids)
        return Listing(run_ids, max(total, len(run_ids)), states)

    def lines(self, run_ids: Sequence[str], names: Collection[str] = ()) -> list[RunLine]:
        """The rows of some runs, in this order; a run that does not exist is left out.

        Args:
            run_ids: which; a screenful or two.
            names: metrics and settings whose values are wanted too.
        """
        further = [name for name in names if not hasattr(RunSummary, name) and name not in FIELDS]
        library, runs = Library(self.workbench), self.workbench.summaries_of(run_ids)
        return [RunLine(run, library.values(run.run_id, further) if further else {}) for run in runs]

    def curves(
        self, run_ids: Sequence[str], metric: str, axis: Axis = "step", *, most: int = 2000
    ) -> list[MetricSeries]:
        """One metric of several runs, thinned to about `most` points each; a run without it is left out."""
        registry = self.workbench.registry
        found: list[MetricSeries] = []
        for run in self.workbench.summaries_of(run_ids):
            registry.sync(run.run_id)
            points = registry.curve(run.run_id, metric, most=most, axis=axis)
            pairs = [(getattr(point, axis), point.value) for point in points]
            kept = [(float(x), y) for x, y in pairs if x is not None]
            if kept:
                found.append(MetricSeries(run, [x for x, _ in kept], [y for _, y in kept]))
        return found

    def metrics(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Names of the metrics of some runs, and how many of the runs have each; those that most have come first."""
        counts = Counter(name for run_id in run_ids for name in self.workbench.registry.metric_names(run_id))
        return dict(sorted(counts.items(), key=lambda found: (-found[1], found[0])))

    def loss(self, run_ids: Sequence[str]) -> Loss:
        """What is lost if these runs are deleted."""
        runs = self.workbench.summaries_of(run_ids)
        sizes = [list_files(self.workbench.paths(run.run_id).folder) for run in runs]
        kept = [self.workbench.paths(run.run_id).folder for run in runs]
        checkpoints = sum(
            sum(1 for part in (folder / "checkpoints").glob("*") if part.is_dir()) + (folder / "draft").is_dir()
            for folder in kept
        )
        removed = set(run_ids)
        dependents = [
            run_id
            for run_id, parents in self.workbench.registry.lineage().items()
            if run_id not in removed and removed & set(parents)
        ]
        return Loss(runs, sum(sum(size.values()) for size in sizes), checkpoints, dependents)

    def vocabulary(self) -> Vocabulary:
        """The words that a query may use in this registry."""
        registry = self.workbench.registry
        found = registry.find(archived=True)
        tags: dict[str, None] = {}
        for row, _ in zip(found, range(_RECENT), strict=False):
            tags.update(dict.fromkeys(row.tags))
        return Vocabulary(
            metrics=tuple(registry.metric_names()),
            settings=tuple(sorted(registry.setting_keys())),
            choices={"state": STATES, "stage": STAGES, "tag": tuple(sorted(tags)), "starred": ("yes", "no"),
                     "archived": ("yes", "no")},
        )  # fmt: skip

    def _states(self, waiting: Collection[str]) -> dict[str, RunState]:
        """The states now of the runs whose rows cannot tell them: those at work and those in the queue."""
        rows = self.workbench.registry.find([f"state:{','.join(sorted(AT_WORK))}"], archived=True)
        states: dict[str, RunState] = dict.fromkeys(waiting, "queued")
        states.update((row.run_id, state) for row, state in self.workbench.states(rows))
        return states


def _is_quoted(part: str) -> bool:
    return len(part) > 1 and part[0] == part[-1] == '"' and '"' not in part[1:-1]
