"""Rows of the registry, and how events change them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from hetspec_core.documents import INT64
from hetspec_core.events import Event, Log, Marked, Metric, Progress, Result, Tally
from hetspec_core.events.state import UNREADABLE, RunFacts, RunState, derive_state, fold
from hetspec_core.spec import RunSpec

LAST_WORDS_S = 600.0
"""Seconds after its end in which a run is still scanned. A guard only: the end is the last event of an attempt."""

LARGEST_STEP = 2**62
"""Larger steps are left out: SQLite has 64 bits, and downsampling counts one step beyond the last."""

_FACTS = TypeAdapter(RunFacts)


@dataclass(frozen=True)
class RunRow:
    """One run as the registry keeps it; times in unix seconds.

    Attributes:
        state: what the journals say; of a run at work the caller asks whether its process lives.
        task: the current or the last one; it may come before the run's work, such as loading a model.
        done, total, unit: latest progress of the run's work: of its task `part` out of `parts`.
        step, tokens, wall_s: latest metric.
        accept_length, speedup: latest values under these names, from metrics or results.
        tags, note, starred, archived: labels that users have set; tags are sorted.
        facts: the folded journals, from which the state follows.
        events_offset, desk_offset: bytes of the two journals that are in this row.
        quiet_after: from when on events.jsonl does not grow before desk.jsonl does; None = it may at any time.
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
    tags: tuple[str, ...] = ()
    note: str = ""
    starred: bool = False
    archived: bool = False
    facts: RunFacts = field(default_factory=RunFacts)
    events_offset: int = 0
    desk_offset: int = 0
    quiet_after: float | None = None
    part: int = 1
    parts: int = 1

    @property
    def progress(self) -> float | None:
        """How far the run's work is, from 0 to 1; None = unknown. `query` has the same in SQL."""
        if self.done is None or not self.total:
            return None
        return min((self.part - 1 + min(self.done / self.total, 1.0)) / self.parts, 1.0)

    @classmethod
    def of_spec(cls, run_id: str, spec: RunSpec | None, created: float) -> RunRow:
        """The row of a run before its first event; `spec` None = this version cannot read its spec.toml."""
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

    @classmethod
    def unreadable(cls, run_id: str, why: str, created: float = 0.0) -> RunRow:
        """The row of a run whose folder cannot be taken in; `why` is a few words."""
        return cls(
            run_id=run_id,
            state=UNREADABLE,
            created=created,
            error_kind=UNREADABLE,
            error_message=why,
            error_hint=f"`hetspec-core runs delete {shlex.quote(run_id)}` moves it into the trash; other runs are not "
            "affected",
            facts=RunFacts(unreadable=True),
        )

    def to_columns(self) -> dict[str, Any]:
        """Column values for SQLite; integers beyond 64 bits become the nearest that it can store."""
        columns = {column.name: storable(getattr(self, column.name)) for column in fields(self)}
        return columns | {
            "parents": json.dumps(self.parents),
            "tags": json.dumps(self.tags, ensure_ascii=False),
            "facts": json.dumps(_FACTS.dump_python(self.facts, mode="json", exclude_defaults=True)),
        }

    @classmethod
    def from_columns(cls, columns: dict[str, Any]) -> RunRow:
        """The inverse of `to_columns`."""
        decoded = {
            "parents": tuple(json.loads(columns["parents"])),
            "tags": tuple(json.loads(columns["tags"])),
            "starred": bool(columns["starred"]),
            "archived": bool(columns["archived"]),
            "facts": _FACTS.validate_python(json.loads(columns["facts"])),
        }
        return cls(**columns | decoded)


def storable(value: Any) -> Any:
    """JSON values with every integer brought into 64 bits, to the nearest that SQLite can store."""
    if isinstance(value, dict):
        return {key: storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return max(-INT64, min(INT64 - 1, value))
    return value


class RunName(NamedTuple):
    """What names a run in a command."""

    run_id: str
    name: str
    stage: str


class MetricPoint(NamedTuple):
    """One value of one curve. `tokens` and `wall_s` as in `events.Metric`."""

    name: str
    step: int
    value: float | None
    tokens: int | None = None
    wall_s: float | None = None


@dataclass
class Change:
    """The change that a batch of events makes: the new row, and rows of the other two tables (later ones win)."""

    row: RunRow
    points: list[MetricPoint] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


def apply(row: RunRow, events: Iterable[Event]) -> Change:
    """Fold events of either journal into the row."""
    change = Change(row)
    facts, points = row.facts, change.points
    latest: dict[str, Any] = {}
    progress: Progress | None = None
    task: str | None = None
    metric: Metric | None = None
    for event in events:  # tens of thousands of metrics at a time: they come first, and nothing is done per event twice
        if isinstance(event, Metric):
            step, tokens, wall_s = event.step, event.tokens, event.wall_s
            if not -LARGEST_STEP < step < LARGEST_STEP:
                continue
            if tokens is not None and not -INT64 <= tokens < INT64:
                tokens = None
            metric = event
            for name, value in event.values.items():
                points.append(MetricPoint(name, step, value, tokens, wall_s))
                if value is not None and (headline := _headline(name)):
                    latest[headline] = float(value)
        elif isinstance(event, Progress):
            if event.prepares:
                task = event.task
                continue
            if event.workers > 1 or event.task in facts.parts:
                tally = Tally(facts.parts)
                summed = tally.add(event)
                facts = replace(facts, parts=tally.parts)
            else:
                summed = event
            if event.parts == 1 or not _is_behind(summed, event.workers, progress or _progress_of(row)):
                progress, task = summed, event.task
        elif isinstance(event, Log):
            pass
        elif isinstance(event, Result):
            change.results.append(event)
            for name, value in event.data.items():
                if isinstance(value, int | float) and (headline := _headline(name)):
                    latest[headline] = _as_float(value)
        elif isinstance(event, Marked):
            row = _marked(row, event)
        else:
            facts = fold(facts, event)
    if progress is not None:
        latest |= {"done": progress.done, "total": progress.total, "unit": progress.unit}
        latest |= {"part": progress.part, "parts": progress.parts}
    if task is not None:
        latest["task"] = task
    if metric is not None:
        latest |= {"step": metric.step, "tokens": metric.tokens, "wall_s": metric.wall_s}
    change.row = with_facts(replace(row, **latest), facts)
    return change


def _progress_of(row: RunRow) -> Progress | None:
    if row.done is None:
        return None
    return Progress(task=row.task, done=row.done, total=row.total, unit=row.unit, part=row.part, parts=row.parts)


def _is_behind(event: Progress, workers: int, known: Progress | None) -> bool:
    """Whether an event says nothing new about the progress of the run.

    A resumed run reports again that its earlier parts are complete. Of workers that share the work, fast ones begin the
    next part before slow ones end theirs; the run is then in the earlier part.
    """
    if known is None or event.part == known.part or event.parts != known.parts:
        return False
    if event.part < known.part:
        return event.total is not None and event.done >= event.total
    return workers > 1 and known.total is not None and known.done < known.total


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _marked(row: RunRow, event: Marked) -> RunRow:
    tags = tuple(sorted((set(row.tags) | set(event.add_tags)) - set(event.remove_tags)))
    return replace(
        row,
        tags=tags,
        note=row.note if event.note is None else event.note,
        starred=row.starred if event.starred is None else event.starred,
        archived=row.archived if event.archived is None else event.archived,
    )


@lru_cache(maxsize=1024)
def _headline(name: str) -> str:
    """The column that holds values of this name; empty when none does."""
    last = name.rsplit("/", 1)[-1]
    return last if last in ("accept_length", "speedup") else ""


def with_facts(row: RunRow, facts: RunFacts) -> RunRow:
    """The row with the state that follows from the journals."""
    state = derive_state(facts, lambda process: None)
    ended = facts.end_time if facts.ended == facts.attempt and facts.end_state else None
    error = facts.error if ended is not None else None
    kept = ended is not None and 0 < facts.launched == facts.attempt  # the next attempt begins in the desk's journal
    return replace(
        row,
        facts=facts,
        quiet_after=ended + LAST_WORDS_S if kept and ended is not None else None,
        state=state,
        created=facts.created or row.created,
        started=facts.first_start,
        ended=ended,
        attempt=facts.attempt,
        error_kind=error.kind if error else "",
        error_message=error.message if error else "",
        error_hint=error.hint if error else "",
    )
