"""The draft tree beside a streaming answer: CPU of twenty updates a second, of trees of sixty nodes.

    python -m benchmarks.draft_tree [--seconds S]

The aim: under 20 % of a core. What counts is CPU time of the process over wall time, with everything that an update
costs: the tree laid out and drawn, the text, the meters, and the terminal's bytes put together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time

from textual.app import App, ComposeResult
from textual.containers import Horizontal, Vertical

from benchmarks.loop_watch import LoopWatch
from hetspec_core.events.chat import Step
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.meters import SessionTotals
from hetspec_core.service.traces.files import load_trace
from hetspec_tui.screens.chat.texts import Meters, answer_entry
from hetspec_tui.screens.chat.tree_pane import Playback, TreePane
from hetspec_tui.widgets.transcript import Transcript

RATE = 20
VIEWS = ("tree", "table", "compact")


class Pane(App[None]):
    """Text, tree and meters, as on the page of the chat."""

    def __init__(self) -> None:
        super().__init__()
        self.playback = Playback()

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield Transcript()
            with Vertical():
                yield TreePane(self.playback)
                yield Meters()


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.draft_tree", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    seconds = parser.parse_args().seconds
    print(f"load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    for view in VIEWS:
        asyncio.run(measure(view, seconds))
    return 0


async def measure(view: str, seconds: float) -> None:
    """Replay the shipped answer over and over at twenty steps a second."""
    trace = load_trace("shipped:smollm2")
    app = Pane()
    async with app.run_test(size=(120, 40)) as pilot:
        pane, talk, meter = app.query_one(TreePane), app.query_one(Transcript), app.query_one(Meters)
        pane.drawing.choose(view)  # type: ignore[arg-type]
        await pilot.pause()
        updates: list[float] = []
        async with LoopWatch() as watch:
            began, cpu, number = time.perf_counter(), time.process_time(), 0
            answer, replies = Answer.empty(trace), list(trace.replies)
            while time.perf_counter() - began < seconds:
                start = time.process_time()
                if not replies:
                    answer, replies = Answer.empty(trace), list(trace.replies)
                while replies:
                    reply = replies.pop(0)
                    answer.apply(reply)
                    if isinstance(reply, Step):
                        break
                app.playback.follow(answer)
                pane.draw()
                if number % 2 == 0:
                    talk.show([answer_entry("0", answer)])
                if number % 4 == 0:
                    meter.show(SessionTotals().figures(answer, answer.settings.label))
                updates.append((time.process_time() - start) * 1000)
                number += 1
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            share = (time.process_time() - cpu) / (time.perf_counter() - began)
    print(
        f"{view:<8} {number / seconds:.1f} updates/s: {share:.1%} of a core; "
        f"handing over {statistics.median(updates):.1f} ms, worst loop lag {watch.worst_s * 1000:.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
