"""Rows of the registry as records, and how events change them. It knows no database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from hetspec_core.events import ErrorInfo, Event, Metric, Progress, Result
from hetspec_core.process import ProcessIdentity
from hetspec_core.runs.state import RunFacts, RunState, derive_state, fold
from hetspec_core.spec import RunSpec


@dataclass(frozen=True)
class RunRow:
    """One run as the registry keeps it; times in unix seconds.

    Attributes:
        state: what the journals say; of a run at work the caller asks whether its process lives.
        task, done, total, unit: latest progress.
        step, tokens, wall_s: latest metric.
        accept_length, speedup: latest values under these names, from metrics or results.
        facts: the folded journals, from which the state follows.
        events_offset, desk_offset: bytes of the two journals that are in this row.
    """

    run_id: str
    name: str = ""
    stage: str = ""
    state: RunState = "queued"
    recipe: str = ""
    base: str = ""
    draft: str = ""
    algorithm: str = ""
    spec_hash: str = ""
    parents: tuple[str, ...] = ()
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    attempt: int = 0
    task: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    step: int | None = None
    tokens: int | None = None
    wall_s: float | None = None
    accept_length: float | None = None
    speedup: float | None = None
    error_kind: str = ""
    error_message: str = ""
    error_hint: str = ""
    facts: RunFacts = field(default_factory=RunFacts)
    events_offset: int = 0
    desk_offset: int = 0

    @classmethod
    def of_spec(cls, run_id: str, spec: RunSpec | None, created: float) -> RunRow:
        """The row of a run that has said nothing yet; `spec` None = its spec.toml cannot be read by this version."""
        if spec is None:
            return cls(run_id=run_id, created=created)
        return cls(
            run_id=run_id,
            name=spec.name,
            stage=spec.stage,
            recipe=spec.recipe,
            base=spec.base.name,
            draft=spec.draft.name if spec.draft else "",
            algorithm=spec.algorithm.name,
            spec_hash=spec.spec_hash,
            parents=spec.parents,
            created=created,
        )

    def to_columns(self) -> dict[str, Any]:
        """Column values for SQLite."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return columns | {"parents": json.dumps(self.parents), "facts": _facts_to_json(self.facts)}

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> RunRow:
        """The inverse of `to_columns`."""
        facts = _facts_from_json(columns["facts"])
        return cls(**columns | {"parents": tuple(json.loads(columns["parents"])), "facts": facts})


@dataclass(frozen=True)
class MetricPoint:
    """One value of one curve. `tokens` and `wall_s` as in `events.Metric`."""

    name: str
    step: int
    value: float | None
    tokens: int | None = None
    wall_s: float | None = None


@dataclass
class Change:
    """What a batch of events does to a run: its new row, and rows of the other two tables (later ones win)."""

    row: RunRow
    points: list[MetricPoint] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


def apply(row: RunRow, events: Iterable[Event]) -> Change:
    """Fold events of either journal into the row."""
    change = Change(row)
    facts = row.facts
    latest: dict[str, Any] = {}
    for event in events:
        facts = fold(facts, event)
        if isinstance(event, Progress):
            latest |= {"task": event.task, "done": event.done, "total": event.total, "unit": event.unit}
        elif isinstance(event, Metric):
            latest |= {"step": event.step, "tokens": event.tokens, "wall_s": event.wall_s} | _headline(event.values)
            change.points += [
                MetricPoint(name, event.step, value, event.tokens, event.wall_s) for name, value in event.values.items()
            ]
        elif isinstance(event, Result):
            latest |= _headline(event.data)
            change.results.append(event)
    change.row = _with_facts(replace(row, **latest), facts)
    return change


def _headline(values: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        last = name.rsplit("/", 1)[-1]
        if last in ("accept_length", "speedup") and isinstance(value, int | float):
            found[last] = float(value)
    return found


def _with_facts(row: RunRow, facts: RunFacts) -> RunRow:
    state = derive_state(facts, lambda process: None)
    ended = facts.end_time if facts.ended == facts.attempt and facts.end_state else None
    error = facts.error if ended is not None else None
    return replace(
        row,
        facts=facts,
        state=state,
        created=facts.created or row.created,
        started=facts.first_start,
        ended=ended,
        attempt=facts.attempt,
        error_kind=error.kind if error else "",
        error_message=error.message if error else "",
        error_hint=error.hint if error else "",
    )


def _facts_to_json(facts: RunFacts) -> str:
    return json.dumps({name: value for name, value in asdict(facts).items() if value is not None} | _error(facts))


def _error(facts: RunFacts) -> dict[str, Any]:
    return {} if facts.error is None else {"error": facts.error.model_dump()}


def _facts_from_json(text: str) -> RunFacts:
    data = json.loads(text)
    for name in ("launched_process", "started_process"):
        if data.get(name) is not None:
            data[name] = ProcessIdentity(**data[name])
    if data.get("error") is not None:
        data["error"] = ErrorInfo(**data["error"])
    return RunFacts(**data)
