"""What do 20 draft trees a second cost? Processor time of the widget, over the steps of the shipped answer.

python -m benchmarks.draft_tree
"""

from __future__ import annotations

import asyncio
import time

from textual.app import App, ComposeResult

from benchmarks import machine
from hetspec_core.service.traces import load_trace
from hetspec_tui.chatting.player import Player
from hetspec_tui.widgets.draft_tree import DraftTree

SECONDS = 10
PER_S = 20


class Alone(App[None]):
    """The widget and nothing else."""

    def compose(self) -> ComposeResult:
        yield DraftTree()


async def measure() -> tuple[float, float]:
    player = Player()
    player.load(load_trace("shipped:smollm2"))
    player.speed = 1e6
    player.advance(1.0)
    app = Alone()
    async with app.run_test(size=(120, 70)) as pilot:
        tree = app.query_one(DraftTree)
        await pilot.pause()
        cpu, wall, shown = time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - wall < SECONDS:
            tree.show(player.steps[shown % len(player.steps)])
            shown += 1
            await asyncio.sleep(max(0.0, wall + shown / PER_S - time.perf_counter()))
        spent = time.process_time() - cpu
    return spent / shown * 1000, spent / (time.perf_counter() - wall)


def main() -> None:
    print(machine.table())
    each, share = asyncio.run(measure())
    print(f"\n{each:.1f} ms of processor for a tree; {share:.1%} of a core at {PER_S} a second")


if __name__ == "__main__":
    main()
