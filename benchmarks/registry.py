"""The registry: how fast journals are taken in, and how fast runs are found when there are many.

    python -m benchmarks.registry [--runs N] [--points N] [--events N] [--home FOLDER]

Builds a home of its own with N runs and N points in all; one of the runs is long and has a hundredth of the points.
The full size is 10,000 runs and 10,000,000 points, which takes a few minutes to build and 2 GB of disk; by default it
is a twentieth of that. A home that is named is kept, and used again when it is there. The aims: 50,000 events per
second taken in on one core; list, filter, search and one thinned curve in 50 ms each at the full size.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hetspec_core.events import EventBase, Journal, Launched, Marked, Metric, RunEnded, RunStarted, Submitted
from hetspec_core.paths import RunPaths
from hetspec_core.runs import Registry
from hetspec_core.service.library import Library
from hetspec_core.service.pages import Pages
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import Architecture, BaseSpec, PathSource, RunSpec
from hetspec_core.spec.run import to_toml

METRICS = ("loss", "eval/accept_length")
WORDS = ("amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath", "inlet", "juniper")
RUN_AGAIN = 15


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.registry", description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="how many runs")
    parser.add_argument("--points", type=int, default=500_000, help="how many metric points in all")
    parser.add_argument("--events", type=int, default=100_000, help="how many events to take in for the rate")
    parser.add_argument("--home", type=Path, help="build it here, or use what is here, and keep it")
    options = parser.parse_args()
    say_load("before")
    with tempfile.TemporaryDirectory(prefix="hetspec-registry-") as name:
        measure_ingest(Path(name) / "ingest", options.events)
        measure_queries(options.home or Path(name) / "many", options.runs, options.points)
    say_load("after")
    return 0


def say_load(when: str) -> None:
    print(f"load {when}: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")


def some_spec(name: str) -> RunSpec:
    architecture = Architecture(
        model_type="llama",
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=32,
        max_position_embeddings=64,
    )
    base = BaseSpec(name="tiny", source=PathSource(path="/nowhere"), architecture=architecture)
    return RunSpec(stage="train", name=name, base=base)


def make_run(home: Path, run_id: str, steps: int, chance: random.Random) -> RunPaths:
    """A run folder whose journal has two metrics at each of `steps` steps."""
    paths = RunPaths(home / "runs" / run_id)
    paths.folder.mkdir(parents=True)
    paths.spec.write_text(to_toml(some_spec(f"{chance.choice(WORDS)} {chance.randrange(1000)}")))
    created = 1.7e9 + chance.randrange(10**7)
    ended = RunEnded(time=created + steps, state=chance.choice(("succeeded", "failed")))
    process = {"pid": 1, "host": "elsewhere.example", "birth": "b"}
    paths.desk.write_text(
        line(Submitted(time=created))
        + line(Launched(time=created, attempt=1, **process))
        + line(Marked(time=created, add_tags=(chance.choice(WORDS),), note=f"see {chance.choice(WORDS)}"))
    )
    with paths.events.open("w") as file:  # in one go: the journal's own pace is not what is measured
        file.write(line(RunStarted(time=created, stage="train", **process)))
        for step in range(steps):
            values = ",".join(f'"{name}":{chance.uniform(1.0, 4.0)!r}' for name in METRICS)
            file.write(
                f'{{"time":{created + step},"worker":"worker-0","type":"metric","step":{step},'
                f'"values":{{{values}}},"tokens":{step * 4096},"wall_s":{step / 3!r}}}\n'
            )
        file.write(line(ended))
    return paths


def line(event: EventBase) -> str:
    return event.to_line().decode() + "\n"


def measure_ingest(home: Path, events: int) -> None:
    make_run(home, "run", 0, random.Random(0))
    with Registry(home / "registry.db", home / "runs") as registry:
        registry.sync_all()
        with Journal(RunPaths(home / "runs" / "run").events, "worker-0") as journal:
            for step in range(events):
                journal.write(Metric(step=step, values={"loss": 1.0, "top1": 0.5}, tokens=step, wall_s=step / 3))
        started, busy = time.perf_counter(), time.process_time()
        registry.sync("run")
        took, busy = time.perf_counter() - started, time.process_time() - busy
    print(
        f"taken in: {events / took:,.0f} events/s by the clock, {events / busy:,.0f} by processor time (2 metrics each)"
    )


def measure_queries(home: Path, runs: int, points: int) -> None:
    steps = [points // 100 // len(METRICS), *[points * 99 // 100 // max(1, runs - 1) // len(METRICS)] * (runs - 1)]
    build(home, steps)
    total = sum(steps) * len(METRICS)
    began = time.perf_counter()
    with Workbench(home) as workbench:
        registry, library, pages = workbench.registry, Library(workbench), Pages(workbench)
        registry.sync_all()
        print(f"{runs:,} runs with {total:,} points: taken in {time.perf_counter() - began:.0f} s")
        long, middle = run_name(0), run_name(runs // 2)

        def first_rows(*words: str, sort: str = "created") -> int:
            rows = iter(registry.find(words, sort=sort))
            return sum(1 for _ in zip(range(50), rows, strict=False))

        clock("look for what is new", registry.sync_all)
        clock("list, first 50", first_rows)
        clock("list by a metric", lambda: first_rows(sort="eval/accept_length"))
        clock("filter by state and figure", lambda: first_rows("state:failed", "accept_length>2.5"))
        clock("filter by tag", lambda: first_rows("tag:cedar"))
        clock("filter by a setting", lambda: first_rows("training.optimizer.lr>0.0001"))
        clock("search two words", lambda: first_rows("amber", "fjord"))
        clock("sort by a setting", lambda: first_rows(sort="training.optimizer.lr"))
        clock("what a name means", lambda: library.resolve([middle[:-2]]))
        clock("one curve in 200 points", lambda: pages.curves([middle], "loss", most=200))
        clock(f"one of {steps[0]:,} points", lambda: pages.curves([long], "loss", most=200))
        clock("the same along seconds", lambda: pages.curves([long], "loss", "wall_s", most=200))
        clock("runs list: look and first 50", lambda: workbench.summaries(limit=50))
    size = home.joinpath("registry.db").stat().st_size
    connection = sqlite3.connect(home / "registry.db")
    used = "SELECT SUM(pgsize) FROM dbstat WHERE name = 'points'"
    try:
        bytes_of_points = connection.execute(used).fetchone()[0]
        print(f"on disk: {bytes_of_points / total:.1f} bytes per point, {size / 1e6:,.1f} MB in all")
    except sqlite3.OperationalError:  # an SQLite without that table
        print(
            f"on disk: {size / total:.1f} bytes per point with everything else counted in, {size / 1e6:,.1f} MB in all"
        )
    finally:
        connection.close()


def run_name(number: int) -> str:
    return f"20260101-{number:06}-train-{'abcd'}"


def build(home: Path, steps: list[int]) -> None:
    """Make the run folders that are not there yet."""
    chance, began = random.Random(1), time.perf_counter()
    for number, count in enumerate(steps):
        if not (home / "runs" / run_name(number)).exists():
            make_run(home, run_name(number), count, chance)
    print(f"folders made in {time.perf_counter() - began:.0f} s")


def clock(what: str, act: Callable[[], object]) -> None:
    """Print the median and the slowest of several times, and the median of processor time, in milliseconds."""
    act()
    times: list[float] = []
    busy: list[float] = []
    for _ in range(RUN_AGAIN):
        started, worked = time.perf_counter(), time.process_time()
        act()
        times.append((time.perf_counter() - started) * 1e3)
        busy.append((time.process_time() - worked) * 1e3)
    print(
        f"{what:<28}{statistics.median(times):8.1f} ms median, {max(times):8.1f} ms slowest, "
        f"{statistics.median(busy):8.1f} ms of processor time"
    )


if __name__ == "__main__":
    sys.exit(main())
