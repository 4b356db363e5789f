"""Homes with run folders in every state, written as the desk and the engine write them; nothing is started."""

from __future__ import annotations

import math
import socket
from pathlib import Path

from hetspec_core.config import resolve
from hetspec_core.events import (
    ErrorInfo,
    EventBase,
    Launched,
    Marked,
    Metric,
    Progress,
    Result,
    RunEnded,
    RunStarted,
    Submitted,
)
from hetspec_core.files import take_lock
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.folders import origins_text
from hetspec_core.spec import Stage
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec

NOW = 1_800_000_000.0
HERE = "this.host"
_held: list[int | None] = []  # locks of runs at which this process works, as their supervisor would hold them


def write_run(home: Path, run_id: str, name: str, events: list[EventBase], stage: Stage = "train") -> RunPaths:
    """A run folder whose events are these; those that the desk says go into its journal."""
    paths = RunPaths(home / "runs" / run_id)
    paths.folder.mkdir(parents=True)
    paths.logs.mkdir()
    paths.spec.write_text(to_toml(small_spec(name, stage)))
    for path, mine in ((paths.desk, True), (paths.events, False)):
        lines = [event for event in events if isinstance(event, Submitted | Launched | Marked) == mine]
        path.write_text("".join(event.to_line().decode() + "\n" for event in lines))
    if _says_that_this_process_works(events):
        _held.append(take_lock(paths.supervisor_lock))
    return paths


def _says_that_this_process_works(events: list[EventBase]) -> bool:
    me = ProcessIdentity.of().pid
    launched = any(isinstance(event, Launched) and event.pid == me for event in events)
    return launched and not any(isinstance(event, RunEnded) for event in events)


def explained_run(home: Path, run_id: str) -> RunPaths:
    """A dataset that waits, made from a recipe, so that it says where each of its values came from."""
    paths = write_run(home, run_id, "", [Submitted(time=NOW - 200)], "dataset")
    asked = resolve("quick-demo", stage="dataset", overrides=["dataset.limit=40", "name=explained"])
    paths.spec.write_text(to_toml(asked.spec))
    paths.origins.write_text(origins_text(asked.spec, asked.origins))
    return paths


def begun(now: float, age_s: float, *, alive: bool, stage: Stage = "train") -> list[EventBase]:
    """Submitted and started so long ago, by this very process (alive) or by one that is gone."""
    if alive:
        me = ProcessIdentity.of()
        pid, birth, host = me.pid, me.birth, me.host
    else:
        pid, birth, host = 999_999, "long-gone", socket.gethostname()
    return [
        Submitted(time=now - age_s - 2, host=HERE),
        Launched(time=now - age_s - 1, attempt=1, pid=pid, host=host, birth=birth),
        RunStarted(time=now - age_s, stage=stage, pid=pid, host=host, birth=birth),
    ]


def lively_home(home: Path, now: float = NOW) -> Path:
    """Two runs at work, one waiting, two results, one failed, one lost, one cancelled."""
    curve: list[EventBase] = [
        Metric(time=now - 900 + step, step=step * 10, values={"loss": 2 + 3 * math.exp(-step / 40)}, tokens=step * 4096)
        for step in range(120)
    ]
    curve += [
        Metric(time=now - 300 + step, step=step * 100, values={"eval/accept_length": 2.6 - 1.4 * math.exp(-step / 4)})
        for step in range(12)
    ]
    write_run(
        home,
        "20270115-071500-train-aaaa",
        "smollm2-llama-eagle",
        [
            *begun(now, 930, alive=True),
            *curve,
            Progress(time=now - 1, task="train", done=1190, total=4000, unit="steps"),
        ],
    )
    write_run(
        home,
        "20270115-073000-dataset-bbbb",
        "ultrachat-hidden-states",
        [*begun(now, 240, alive=True, stage="dataset"), Progress(time=now - 1, task="forward", done=412, total=1000)],
        "dataset",
    )
    write_run(home, "20270115-074000-bench-cccc", "bench-after-it", [Submitted(time=now - 200)], "bench")
    results: dict[str, float] = {"accept_length": 2.41, "speedup": 1.62}
    write_run(
        home,
        "20270115-050000-bench-dddd",
        "mt-bench-eagle",
        [
            *begun(now, 8000, alive=False, stage="bench"),
            Metric(time=now - 7300, step=0, values=dict(results)),
            Result(time=now - 7300, kind="bench", data=dict(results)),
            RunEnded(time=now - 7200, state="succeeded"),
        ],
        "bench",
    )
    write_run(
        home,
        "20270115-040000-train-eeee",
        "a [b]try[/b]",
        [
            *begun(now, 20000, alive=False),
            Metric(time=now - 11000, step=4000, values={"eval/accept_length": 2.18, "loss": 2.1}),
            RunEnded(time=now - 10800, state="succeeded"),
        ],
    )
    write_run(
        home,
        "20270115-060000-train-ffff",
        "too-large-a-batch",
        [
            *begun(now, 4000, alive=False),
            RunEnded(
                time=now - 3600,
                state="failed",
                error=ErrorInfo(kind="ResourceError", message="out of memory at step 12: 1.5 GiB more were asked for"),
            ),
        ],
    )
    write_run(home, "20270115-061000-train-gggg", "machine-went-down", begun(now, 3000, alive=False))
    write_run(
        home,
        "20270115-030000-dataset-hhhh",
        "never-mind",
        [*begun(now, 30000, alive=False, stage="dataset"), RunEnded(time=now - 29000, state="cancelled")],
        "dataset",
    )
    return home
