"""A trace: one answer, kept as a header and the worker's replies, one JSON object a line.

It is written while the answer appears; a reader leaves a torn last line out. It has no path of any machine: a draft is
recorded by its name.
"""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetspec_core.errors import CorruptFileError, NotFoundError, ResourceError
from hetspec_core.events.chat import (
    Answered,
    BaseFacts,
    Failed,
    Garbage,
    Refused,
    Reply,
    Step,
    WorkerDied,
    decode_reply,
    encode,
)
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.files import private
from hetspec_core.paths import make_folders

TRACE_VERSION = 2  # 1 had the settings of decoding beside each other
SUFFIX = ".jsonl"


class TraceHeader(BaseModel):
    """The first line of a trace.

    Attributes:
        version: of the format; a reader refuses newer ones.
        created: unix seconds.
        name: what it is called in lists.
        messages: the conversation that was answered, the system prompt apart (it is in the settings).
        settings: how; `draft` is a name here.
        base: the base and the machine.
        every_position: each step commits one token, so there is a tree at every position (best for the simulator).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    type: Literal["trace"] = "trace"
    version: int = TRACE_VERSION
    created: float = Field(default_factory=clock.time)
    name: str = ""
    messages: list[ChatMessage]
    settings: ChatSettings
    base: BaseFacts | None = None
    every_position: bool = False


class Trace(BaseModel):
    """A trace that was read.

    Attributes:
        header: the first line.
        replies: the rest, in order.
        damaged_lines: complete lines that are no message.
    """

    model_config = ConfigDict(frozen=True)

    header: TraceHeader
    replies: list[Reply]
    damaged_lines: int = 0

    @property
    def steps(self) -> list[Step]:
        """The verify steps, in order."""
        return [reply for reply in self.replies if isinstance(reply, Step)]

    @property
    def end(self) -> Answered | None:
        """The last reply, if the answer was completed."""
        return next((reply for reply in reversed(self.replies) if isinstance(reply, Answered)), None)


class TraceWriter:
    """Writes one trace as its answer appears; a file that exists already is never touched.

    Args:
        path: the new file; its folder is made.
        header: what is answered. The draft's directory is replaced by its name.

    Raises:
        ResourceError: the file cannot be made.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self.path = path
        settings = header.settings
        if settings.draft:
            settings = settings.model_copy(update={"draft": settings.draft_name or "draft"})
        try:
            make_folders(path.parent)
            handle = private(str(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)  # prompts and answers
            self._file: IO[bytes] | None = os.fdopen(handle, "wb")
        except OSError as error:
            reason = error.strerror or str(error)
            raise ResourceError(f"the trace {path} cannot be written: {reason}", hint="choose another name") from error
        self._write(encode(header.model_copy(update={"settings": settings})))

    def add(self, event: Reply | Garbage | WorkerDied) -> None:
        """Write one reply. `Garbage` and `WorkerDied` are not part of a trace. The last reply closes the file.

        Raises:
            OSError: the file cannot be written, e.g. the disk is full.
        """
        if self._file is None or isinstance(event, Garbage | WorkerDied):
            return
        self._write(encode(event))
        if isinstance(event, Answered | Refused | Failed):
            self.close()

    def close(self) -> None:
        """Close the file; a trace whose worker died ends where it was."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: bytes) -> None:
        if self._file is not None:
            self._file.write(line)
            self._file.flush()


def read_trace(path: Path) -> Trace:
    """Read a trace, whole or cut off.

    Raises:
        NotFoundError: there is no such file.
        CorruptFileError: it is no trace, or one of a newer version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no trace {path}", hint="`hetspec-core trace list` shows those there are"
        ) from None
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = data.split(b"\n")
    return parse_trace(lines[:-1], name=str(path))  # what follows the last newline is torn


def parse_trace(lines: Iterable[bytes], *, name: str) -> Trace:
    """A trace from its complete lines.

    Raises:
        CorruptFileError: they are none, or of a newer version.
    """
    rest = iter(lines)
    try:
        header = TraceHeader.model_validate_json(next(rest, b""))
    except ValidationError:
        raise CorruptFileError(f"{name} is no trace: its first line is no trace header") from None
    if header.version > TRACE_VERSION:
        raise CorruptFileError(
            f"{name} is of trace version {header.version}; this program reads up to {TRACE_VERSION}",
            hint="update HetSpec",
        )
    replies: list[Reply] = []
    damaged = 0
    for line in rest:
        if not line.strip():
            continue
        reply = decode_reply(line)
        if isinstance(reply, Garbage):
            damaged += 1
        else:
            replies.append(reply)
    return Trace(header=header, replies=replies, damaged_lines=damaged)
