"""Writes a trace of every answer of a chat while it appears. It knows traces and where they go, not who answers."""

from __future__ import annotations

import time
from pathlib import Path

from hetspec_core.errors import ResourceError
from hetspec_core.events.chat import Ask, BaseFacts, ChatEvent
from hetspec_core.events.trace import SUFFIX, TraceHeader, TraceWriter


class Recorder:
    """The traces of one chat.

    Args:
        folder: where they go; None = nothing is recorded.

    Attributes:
        last: the newest trace.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.last: Path | None = None
        self._writer: TraceWriter | None = None

    def begin(self, request: Ask, base: BaseFacts | None) -> str:
        """An answer begins; returns why it cannot be recorded, or nothing."""
        self.finish()
        if self.folder is None:
            return ""
        header = TraceHeader(
            name=" ".join(request.messages[-1].content.split())[:60],
            messages=request.messages,
            settings=request.settings,
            base=base,
            every_position=request.every_position,
        )
        stamp, number = time.strftime("%Y%m%d-%H%M%S", time.gmtime()), request.ask
        while (path := self.folder / f"{stamp}-{number}{SUFFIX}").exists():
            number += 1
        try:
            self._writer = TraceWriter(path, header)
        except ResourceError as error:
            return error.message
        self.last = path
        return ""

    def add(self, event: ChatEvent) -> str:
        """Write one event of the answer; returns what went wrong, after which the trace ends there."""
        if self._writer is None:
            return ""
        try:
            self._writer.add(event)
        except OSError as error:
            self.finish()
            return f"the trace {self.last} was cut off: {error.strerror or error}"
        return ""

    def finish(self) -> None:
        """The answer has ended, whole or not."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
