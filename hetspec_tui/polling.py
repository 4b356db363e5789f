"""Live data for the screens: questions to the desk, asked again and again, whose answers are shown when they are new.

One feed asks for the overview of all runs, once a second; a page may have feeds of its own, which rest while it is not
on top. A feed has at most one question under way, however slow the answer; answers that equal the last are not shown.
It knows no particular screen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from hetspec_core.errors import HetSpecError

if TYPE_CHECKING:
    from textual.dom import DOMNode
    from textual.worker import Worker

    from hetspec_core.service.workbench import Workbench

Answer = TypeVar("Answer")
FASTEST_S = 0.1
"""No feed asks more often, so that the screen is drawn ten times a second at most."""


def is_whole(node: DOMNode) -> bool:
    """False as soon as a screen, or the app, begins to close: its widgets are removed one after another, while earlier
    questions are still answered.
    """
    return node.is_running and node.app.is_running


class Feed(Generic[Answer]):
    """One question, asked again and again.

    Args:
        ask: asks the desk.
        question: what is asked.
        show: is given every answer that differs from the one before, on the event loop.
        fail: is given an error when it is another than the last one.
        period_s: between an answer and the next question.
        node: whose worker asks; an answer that cannot be shown ends the app as any other fault does. One that comes
            when the node, or the app, is being closed is not shown.
    """

    def __init__(
        self,
        ask: Callable[[Callable[[Workbench], Answer]], Awaitable[Answer]],
        question: Callable[[Workbench], Answer],
        show: Callable[[Answer], None],
        *,
        fail: Callable[[HetSpecError], None],
        node: DOMNode,
        period_s: float = 1.0,
    ) -> None:
        self.period_s = max(period_s, FASTEST_S)
        self._ask, self._question, self._show, self._fail = ask, question, show, fail
        self._node = node
        self._worker: Worker[None] | None = None
        self._now = asyncio.Event()
        self._last: Answer | None = None
        self._trouble = ""

    def start(self) -> None:
        """Begin to ask, or go on after `stop`."""
        if self._worker is None or self._worker.is_finished:
            self._worker = self._node.run_worker(self._run(), group="feed")

    def stop(self) -> None:
        """Rest."""
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None

    def hurry(self) -> None:
        """Ask at once: something has happened that the answer will tell."""
        self._now.set()

    async def _run(self) -> None:
        while True:
            self._now.clear()
            try:
                answer = await self._ask(self._question)
            except HetSpecError as error:
                if is_whole(self._node) and str(error) != self._trouble:
                    self._trouble = str(error)
                    self._fail(error)
            else:
                self._trouble = ""
                if is_whole(self._node) and answer != self._last:
                    self._last = answer
                    self._show(answer)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.period_s):
                    await self._now.wait()
