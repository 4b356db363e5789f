"""The event loop is never kept from its other work, whatever is written and however many points there are."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from pathlib import Path

from textual.app import App, ComposeResult

from benchmarks.log_view import FileSource
from benchmarks.loop_watch import LoopWatch
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series
from hetspec_tui.widgets.log_view import LogView

LINES_PER_S = 50_000
POINTS = 20_000
"""The most that a page asks for of one curve."""
LIMIT_S = 0.25
"""The aim is 0.1 s; tests share two cores with others."""
TRIES = 3


class BusyApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Chart()
        yield LogView()


class Writer(threading.Thread):
    """Writes lines at a rate until it is told to stop."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.lines, self.stopped = path, 0, False

    def run(self) -> None:
        line = b"2026-11-24 12:00:00 INFO step %07d loss=0.1234 tokens/s=12345 lr=0.0001 grad_norm=0.53 more words\n"
        started = time.monotonic()
        with self.path.open("ab", buffering=0) as file:
            while not self.stopped:
                due = int((time.monotonic() - started) * LINES_PER_S)
                file.write(b"".join(line % number for number in range(self.lines, due)))
                self.lines = due
                time.sleep(0.01)


def flood(path: Path) -> float:
    """Seconds that the loop was blocked at most while lines and points came in; every try must keep up with them."""
    path.touch()
    writer = Writer(path)

    async def session() -> tuple[float, int]:
        app = BusyApp()
        xs = [float(step) for step in range(POINTS + 100)]
        ys = [[(step * (key + 7) % 101) / 101 for step in range(POINTS + 100)] for key in range(5)]
        async with app.run_test(size=(120, 40)) as pilot:
            view, chart = app.query_one(LogView), app.query_one(Chart)
            view.set_source(FileSource(path))
            await pilot.pause()
            writer.start()
            async with LoopWatch() as watch:
                for update in range(4):
                    stop = POINTS + 20 * update
                    chart.set_series(
                        [Series(f"s{i}", f"s{i}", xs[:stop], values[:stop]) for i, values in enumerate(ys)]
                    )
                    await asyncio.sleep(0.3)
            writer.stopped = True
            return watch.worst_s, view._state.count

    worst, seen = asyncio.run(session())
    assert writer.lines > LINES_PER_S / 2
    assert seen > writer.lines / 2
    return worst


def test_a_flood_of_lines_and_points_blocks_nothing(tmp_path: Path) -> None:
    # Code that blocks does so in every try; a neighbour that takes the processor away for a moment does not.
    slack = 1 if os.getloadavg()[0] < (os.cpu_count() or 1) else 2
    worst: list[float] = []
    while len(worst) < TRIES and min(worst, default=math.inf) >= slack * LIMIT_S:
        worst.append(flood(tmp_path / f"flood-{len(worst)}.log"))
    assert min(worst) < slack * LIMIT_S, worst
