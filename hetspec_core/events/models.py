"""The closed set of events, and the JSON form of each.

A worker's events are in `events.jsonl`, the desk's in `desk.jsonl`. A reader of an older version can read the events of
a newer one: unknown keys are ignored, and an event of an unknown type is read as `Unknown`.

Events are plain dataclasses, and this module does not import pydantic: a supervisor, which writes events and lives as
long as its run, stays small. `journal` checks the lines that it reads.
"""

from __future__ import annotations

import json
import math
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

EndState = Literal["succeeded", "failed", "cancelled"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class EventBase:
    """What every event has: `time` in seconds since 1970, and the `worker` that reports it (set by the journal)."""

    time: float = field(default_factory=clock.time)
    worker: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON types. A number that is not finite is None."""
        return _plain(self)

    def to_line(self) -> bytes:
        """As a line of a journal, without the newline; `time`, `worker` and `type` are its first keys."""
        text = json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")  # a lone surrogate, as in the name of a file, is no UTF-8


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return _plain(vars(value))
    if not hasattr(value, "__float__"):
        return str(value)
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(frozen=True, kw_only=True)
class ErrorInfo:
    """An error as it is shown: what was seen, what to do, and the exit status it stands for."""

    kind: str
    message: str
    hint: str = ""
    exit_code: int = 1


@dataclass(frozen=True, kw_only=True)
class RunStarted(EventBase):
    """A worker has begun an attempt at the run.

    Attributes:
        attempt: 1 for the first start, one more for each resume.
        birth: kernel start time of the process (`process.ProcessIdentity`), so that a reused pid is not taken for it.
        versions: what it runs on, e.g. python, torch, hetspec.
    """

    type: Literal["run_started"] = "run_started"
    stage: str
    pid: int
    host: str
    versions: dict[str, str] = field(default_factory=dict)
    attempt: int = 1
    birth: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress(EventBase):
    """How far a task is, in its own unit; `total` None = unknown.

    Attributes:
        workers: how many workers share the task; of several each reports its own share (`Tally` adds them up).
        prepares: whether the task comes before the run's work, such as loading a model: its share is not the run's.
        part: which of the `parts` of the run's work the task is, from 1. Parts follow one another and count alike.
        parts: how many there are.
    """

    type: Literal["progress"] = "progress"
    task: str
    done: float
    total: float | None = None
    unit: str = ""
    note: str = ""
    workers: int = 1
    prepares: bool = False
    part: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if self.part < 1 or self.parts < 1:
            raise ValueError(f"part {self.part} of {self.parts}; both count from 1")


@dataclass(frozen=True, kw_only=True)
class Metric(EventBase):
    """Measured values at a step. A value that is not finite is written as null and read as None.

    Attributes:
        tokens: training tokens seen so far.
        wall_s: seconds of work so far, over all attempts.
    """

    type: Literal["metric"] = "metric"
    step: int
    values: dict[str, float | None]
    tokens: int | None = None
    wall_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Log(EventBase):
    """One sentence for the reader of the run."""

    type: Literal["log"] = "log"
    level: LogLevel = "info"
    message: str


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(EventBase):
    """A checkpoint is complete on disk; `path` is relative to the run folder where it is inside."""

    type: Literal["checkpoint_saved"] = "checkpoint_saved"
    path: str
    step: int
    best: bool = False
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artifact(EventBase):
    """Something usable is complete on disk (kind draft, hidden_states, trace); `path` as in `CheckpointSaved`."""

    type: Literal["artifact"] = "artifact"
    kind: str
    path: str
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Text(EventBase):
    """A piece of an answer, as it appears.

    Attributes:
        prompt: index of the prompt that is answered.
        text: what is new; the pieces of a prompt joined are its answer.
    """

    type: Literal["text"] = "text"
    prompt: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Result(EventBase):
    """What the run was for, as one JSON object; the same is in `result.json`."""

    type: Literal["result"] = "result"
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunEnded(EventBase):
    """The attempt has ended in this state. The worker writes it; the supervisor writes it for a worker that could not,
    and for several workers, with the name of the one that failed as `worker`. The supervisor also names the attempt,
    because the worker may not have begun it; 0 = the attempt that began last.
    """

    type: Literal["run_ended"] = "run_ended"
    state: EndState
    error: ErrorInfo | None = None
    attempt: int = 0


@dataclass(frozen=True, kw_only=True)
class Submitted(EventBase):
    """The desk has made the run folder; relative paths in the spec begin at `folder`.

    Attributes:
        after: runs that must succeed before this one starts.
    """

    type: Literal["submitted"] = "submitted"
    host: str = ""
    folder: str = ""
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Launched(EventBase):
    """The supervisor of this attempt, which is the process named here, has taken the run."""

    type: Literal["launched"] = "launched"
    attempt: int
    pid: int
    host: str
    birth: str


@dataclass(frozen=True, kw_only=True)
class CancelAsked(EventBase):
    """The run was asked to stop; `forced` = killed without waiting for a safe point, else after `grace_s`."""

    type: Literal["cancel_asked"] = "cancel_asked"
    attempt: int
    forced: bool = False
    grace_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerEnded(EventBase):
    """The supervisor saw the worker `name` of this attempt end; a negative `exit_status` is a signal."""

    type: Literal["worker_ended"] = "worker_ended"
    attempt: int
    name: str
    exit_status: int


@dataclass(frozen=True, kw_only=True)
class DependencyFailed(EventBase):
    """This attempt was ended because the run `run_id`, for which it waited, did not succeed; its end is in
    `events.jsonl`. Journals have the event under its older name.
    """

    type: Literal["waited_in_vain"] = "waited_in_vain"
    attempt: int
    run_id: str


@dataclass(frozen=True, kw_only=True)
class FoundLost(EventBase):
    """The supervisor of this attempt exited without an end event; `exit_status` is None where it was not seen, and
    negative for a signal.
    """

    type: Literal["found_lost"] = "found_lost"
    attempt: int
    exit_status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Marked(EventBase):
    """The run was labelled; what is None stays as it is, and an empty note takes the note away."""

    type: Literal["marked"] = "marked"
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    note: str | None = None
    starred: bool | None = None
    archived: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Moved(EventBase):
    """The run folder is about to be moved into the trash, or back among the runs."""

    type: Literal["moved"] = "moved"
    to: Literal["trash", "runs"]


@dataclass(frozen=True, kw_only=True)
class Unknown(EventBase):
    """A complete line that this version cannot read: a type of a newer version, or bytes torn by a crash (type "")."""

    type: str = ""
    data: dict[str, Any] = field(default_factory=dict)


KnownEvent = (
    RunStarted
    | Progress
    | Metric
    | Log
    | CheckpointSaved
    | Artifact
    | Text
    | Result
    | RunEnded
    | Submitted
    | Launched
    | CancelAsked
    | WorkerEnded
    | DependencyFailed
    | FoundLost
    | Marked
    | Moved
)
Event = KnownEvent | Unknown
