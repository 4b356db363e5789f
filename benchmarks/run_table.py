"""The table of very many runs: opening, scrolling, filtering and ordering, and how long the event loop is blocked.

    python -m benchmarks.run_table [--runs N]

Builds a home of its own; its run folders share the files of one run, so that 100,000 of them take a minute. The aims:
a key answered in 30 ms, and the event loop never blocked for more than 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.loop_watch import LoopWatch
from benchmarks.registry import WORDS, make_run
from hetspec_core.paths import RunPaths
from hetspec_core.runs import Registry
from hetspec_core.runs.tables import put_row, put_texts
from hetspec_core.service.pages import Pages
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk
from hetspec_tui.screens.runs import RunsScreen

STATES = ("succeeded", "succeeded", "failed", "cancelled")
AGAIN = 7
LINKS = 30_000  # file systems let a file have about twice as many names


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.run_table", description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="how many runs")
    options = parser.parse_args()
    print(f"load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="hetspec-table-") as name:
        home = Path(name)
        started = time.perf_counter()
        fill(home, options.runs)
        print(f"{options.runs:,} runs made in {time.perf_counter() - started:.0f} s")
        measure_service(home)
        asyncio.run(measure_screen(home))
    return 0


def fill(home: Path, runs: int) -> None:
    """Run folders that share the files of the first, and their rows."""
    chance = random.Random(1)
    first = make_run(home, "run-000000", 5, chance)
    with Registry(home / "registry.db", home / "runs") as registry:
        row = registry.sync(first.run_id)
        assert row is not None
        config = registry.config(first.run_id)
        with registry._transaction():
            for number in range(1, runs):
                paths = RunPaths(home / "runs" / f"run-{number:06}")
                paths.folder.mkdir()
                for file in (first.spec, first.events, first.desk):
                    if number % LINKS:
                        os.link(file, paths.folder / file.name)
                    else:
                        shutil.copy2(file, paths.folder / file.name)
                first = first if number % LINKS else paths
                some = replace(
                    row,
                    run_id=paths.run_id,
                    name=f"{chance.choice(WORDS)} {number}",
                    created=row.created + number,
                    state=chance.choice(STATES),
                    accept_length=chance.uniform(1, 4),
                    tags=(chance.choice(WORDS),),
                )
                put_row(registry._db.conn, some)
                put_texts(registry._db.conn, some, config)


def measure_service(home: Path) -> None:
    with Workbench(home) as workbench:
        pages = Pages(workbench)
        clock("look for what is new", workbench.registry.sync_all)
        everything = pages.listing(sync=False)
        clock("ids of all, newest first", lambda: pages.listing(sync=False))
        clock("ids, state:failed", lambda: pages.listing(["state:failed"], sync=False))
        clock("ids, accept_length>3.9", lambda: pages.listing(["accept_length>3.9"], sync=False))
        clock("ids, two words", lambda: pages.listing(["amber", "777"], sync=False))
        clock("ids by name", lambda: pages.listing(sort="name", sync=False))
        clock("ids by a metric", lambda: pages.listing(sort="loss", sync=False))
        clock("60 rows", lambda: pages.lines(everything.run_ids[500:560]))


async def measure_screen(home: Path) -> None:
    app = HetSpecApp(Desk(home))
    async with app.run_test(size=(120, 40)) as pilot, LoopWatch() as watch:
        await pilot.pause()
        started = time.perf_counter()
        await app.go_to("runs")
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        table = screen.table
        while not table.keys or set(table.near()) & set(table.missing()):
            await asyncio.sleep(0.002)
        print(f"{'open, until rows are seen':<34}{(time.perf_counter() - started) * 1e3:8.1f} ms")
        for name, key, times in (
            ("a line down", "down", 60),
            ("a page down", "pagedown", 60),
            ("to the end", "end", 1),
        ):
            walls, works = [], []
            for _ in range(times):
                wall, work = time.perf_counter(), time.process_time()
                await pilot.press(key)
                for y in range(table.view.height):
                    table.render_line(y)
                walls.append((time.perf_counter() - wall) * 1e3)
                works.append((time.process_time() - work) * 1e3)
            print(
                f"{name:<34}{statistics.median(walls):8.1f} ms by the clock, {statistics.median(works):6.1f} ms work, "
                f"{max(walls):6.1f} ms slowest"
            )
        started = time.perf_counter()
        screen.load("state:failed amber")
        while screen.filter != "state:failed amber":
            await asyncio.sleep(0.002)
        print(f"{'filter, from key to rows':<34}{(time.perf_counter() - started) * 1e3:8.1f} ms, 120 of them waiting")
        print(f"{'loop blocked at most':<34}{watch.worst_s * 1e3:8.1f} ms")


def clock(what: str, act: object) -> None:
    assert callable(act)
    times = []
    for _ in range(AGAIN):
        started = time.perf_counter()
        act()
        times.append((time.perf_counter() - started) * 1e3)
    print(f"{what:<34}{statistics.median(times):8.1f} ms median, {max(times):8.1f} ms slowest")


if __name__ == "__main__":
    sys.exit(main())
