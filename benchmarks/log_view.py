"""The log view: opening a long log, scrolling in it, filtering it, and following one that is written fast.

    python -m benchmarks.log_view [--lines N]

The aims: a log of 1,000,000 lines opens under 1 s and scrolls under 30 ms; 50,000 lines a second never block the event
loop for more than 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from textual.app import App, ComposeResult

from benchmarks.loop_watch import LoopWatch
from hetspec_core.service.logs import LogFile, LogState
from hetspec_tui.widgets.log_lines import LineFilter
from hetspec_tui.widgets.log_view import LogView, Search

RATE = 50_000
FLOOD_S = 4.0
LINE = b"2026-11-24 12:00:00 INFO  step %07d loss=0.12345 tokens/s=12345.6 lr=0.0001 grad_norm=0.532 memory=12.3 GiB\n"


class LogApp(App[None]):
    """A log view and nothing else."""

    def compose(self) -> ComposeResult:
        yield LogView()


class FileSource:
    """A log file, read in a thread, as the dashboard does."""

    def __init__(self, path: Path) -> None:
        self.file = LogFile(path)

    async def look(self) -> LogState:
        """See `LineSource`."""
        return await asyncio.to_thread(self.file.advance)

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        """See `LineSource`."""
        return await asyncio.to_thread(self.file.pick, numbers)

    async def tail(self, most: int) -> list[str]:
        """See `LineSource`."""
        return await asyncio.to_thread(self.file.tail, most)

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        """See `LineSource`."""
        return await asyncio.to_thread(lambda: self.file.find(search, start, inverse=inverse))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.log_view", description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the long log")
    options = parser.parse_args()
    print(f"load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="hetspec-log-") as name:
        path = Path(name) / "long.log"
        with path.open("wb") as file:
            for start in range(0, options.lines, 10_000):
                stop = min(start + 10_000, options.lines)
                file.write(b"".join(LINE % number for number in range(start, stop)))
        asyncio.run(measure_long(path, options.lines))
        asyncio.run(measure_flood(Path(name) / "flood.log"))
    return 0


async def measure_long(path: Path, lines: int) -> None:
    app = LogApp()
    async with app.run_test(size=(120, 40)) as pilot, LoopWatch() as watch:
        view = app.query_one(LogView)
        started = time.perf_counter()
        view.set_source(FileSource(path))
        while view.lines.line(view._state.count - 1) is None:
            await asyncio.sleep(0.002)
        first = time.perf_counter() - started
        while view._state.count < lines or not view._state.complete:
            await asyncio.sleep(0.002)
        whole = time.perf_counter() - started
        print(f"{lines:,} lines ({path.stat().st_size / 2**20:.0f} MiB), 120x40")
        print(f"  the end is seen after {first * 1e3:.0f} ms, all lines are known after {whole * 1e3:.0f} ms")
        moves: list[tuple[str, list[float]]] = []
        for name, targets in (
            ("jump to a place never seen", [lines * part // 31 for part in range(1, 30)]),
            ("one line down", [lines // 2 + step for step in range(30)]),
        ):
            times = []
            for target in targets:
                started = time.perf_counter()
                view.lines.following = False
                view.lines._to(target)
                view.lines.layout_rows()
                while any(view.lines.line(row) is None for row in range(target, target + 30)):
                    await asyncio.sleep(0)
                for y in range(view.lines.size.height):
                    view.lines.render_line(y)
                times.append(time.perf_counter() - started)
            moves.append((name, times))
        for name, times in moves:
            print(f"  {name}: median {statistics.median(times) * 1e3:.1f} ms, worst {max(times) * 1e3:.1f} ms")
        started = time.perf_counter()
        view.set_filter(LineFilter.parse(r"step \d*999 "))
        while view._searched < lines:
            await asyncio.sleep(0.002)
        print(f"  filter with {len(view.matches):,} matches: {time.perf_counter() - started:.2f} s")
        print(f"  loop blocked at most {watch.worst_s * 1e3:.0f} ms")
        await pilot.pause()


async def measure_flood(path: Path) -> None:
    path.touch()
    app = LogApp()
    async with app.run_test(size=(120, 40)) as pilot:
        view = app.query_one(LogView)
        view.set_source(FileSource(path))
        await pilot.pause()
        stop = threading.Event()
        thread = threading.Thread(target=flood, args=(path, stop), daemon=True)
        cpu = time.process_time()
        async with LoopWatch() as watch:
            thread.start()
            await asyncio.sleep(FLOOD_S)
            stop.set()
            thread.join()
        cpu = time.process_time() - cpu
        await asyncio.sleep(0.3)
        print(f"{RATE:,} lines a second for {FLOOD_S:.0f} s, the writer in the same process")
        print(
            f"  {view._state.count:,} lines seen; loop blocked at most {watch.worst_s * 1e3:.0f} ms; "
            f"{cpu / FLOOD_S:.0%} of a core with the writer"
        )


def flood(path: Path, stop: threading.Event) -> None:
    started, written = time.monotonic(), 0
    with path.open("ab", buffering=0) as file:
        while not stop.is_set():
            due = int((time.monotonic() - started) * RATE)
            file.write(b"".join(LINE % number for number in range(written, due)))
            written = due
            time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
