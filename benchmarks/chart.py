"""The chart: what an update of 5 series costs, and how long it keeps the event loop from other work.

    python -m benchmarks.chart [--points N ...]

The aim: 5 series x 20,000 points never block the loop for more than 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import time

from textual.app import App, ComposeResult

from benchmarks.loop_watch import LoopWatch
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.curves import Series

SERIES = 5
UPDATES = 20
GROWTH = 50


class ChartApp(App[None]):
    """A chart and nothing else."""

    def compose(self) -> ComposeResult:
        yield Chart()


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.chart", description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[200, 2_000, 20_000], help="points of each series")
    options = parser.parse_args()
    print(f"load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    print(f"{SERIES} series at 120x30, one core; median of {UPDATES} updates in which each grew by {GROWTH} points")
    for points in options.points:
        asyncio.run(measure(points))
    return 0


async def measure(points: int) -> None:
    numbers = random.Random(1)
    xs = [float(step) for step in range(points + GROWTH * UPDATES)]
    ys = [[math.exp(-4 * x / len(xs)) + numbers.random() / 5 + 0.01 for x in xs] for _ in range(SERIES)]
    app = ChartApp()
    async with app.run_test(size=(120, 30)) as pilot, LoopWatch() as watch:
        chart = app.query_one(Chart)
        for name, press in (("linear", ""), ("log y", "y"), ("log y, smoothed", "s")):
            started = time.perf_counter()
            if press:
                chart.focus()
                await pilot.press(press)
            show(chart, xs, ys, points)
            chart.drawing()
            first = time.perf_counter() - started
            times = []
            for update in range(UPDATES if not press else 3):
                started = time.process_time()
                show(chart, xs, ys, points + update * GROWTH)
                chart.drawing()
                times.append(time.process_time() - started)
                await pilot.pause()
            worst, watch.worst_s = watch.worst_s, 0.0
            print(
                f"{points:>8,} points, {name:<16} first {first * 1e3:6.1f} ms, "
                f"update {statistics.median(times) * 1e3:6.1f} ms CPU, worst {max(times) * 1e3:6.1f} ms; "
                f"loop blocked at most {worst * 1e3:5.1f} ms"
            )


def show(chart: Chart, xs: list[float], ys: list[list[float]], points: int) -> None:
    chart.set_series([Series(f"s{i}", f"series {i}", xs[:points], values[:points]) for i, values in enumerate(ys)])


if __name__ == "__main__":
    sys.exit(main())
