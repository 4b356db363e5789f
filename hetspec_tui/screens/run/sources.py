"""Log files for the log view, read by the desk's threads. It knows the service, not the screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hetspec_core.service import LogFile, LogState
from hetspec_tui.desk import Desk
from hetspec_tui.widgets.log_view import Search


class FileSource:
    """One log file.

    Args:
        desk: whose threads read it.
        path: the file; it need not be there yet.
    """

    def __init__(self, desk: Desk, path: Path) -> None:
        self.desk = desk
        self.file = LogFile(path)

    async def look(self) -> LogState:
        """See `LineSource`."""
        return await self.desk.ask(lambda _: self.file.advance())

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        """See `LineSource`."""
        return await self.desk.ask(lambda _: self.file.pick(numbers))

    async def tail(self, most: int) -> list[str]:
        """See `LineSource`."""
        return await self.desk.ask(lambda _: self.file.tail(most))

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        """See `LineSource`."""
        return await self.desk.ask(lambda _: self.file.find(search, start, inverse=inverse))
