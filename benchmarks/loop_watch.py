"""How long an event loop was kept from its other work: a task sleeps a little and sees how much longer it took."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

PERIOD_S = 0.005


class LoopWatch:
    """An async context manager; `worst_s` is the longest that the loop was blocked inside it."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def __aenter__(self) -> LoopWatch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(PERIOD_S)
            self.worst_s = max(self.worst_s, time.perf_counter() - started - PERIOD_S)
