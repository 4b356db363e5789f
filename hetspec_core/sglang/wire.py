"""HTTP with limits: an answer is bounded in bytes, and a request in time by a clock over the whole of it.

The timeout of a socket restarts with every byte, so a server that sends a byte now and then could hold a request for
ever. Here every read ends when the clock does. This file knows HTTP, JSON and event streams, not SGLang's API.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
from collections.abc import Iterator
from typing import Any

from hetspec_core.documents import MIB, DocumentError, parse_json
from hetspec_core.errors import DataError, ModelError, StageFailed

MOST_BYTES = 16 * MIB
"""Limit of an answer that is no stream."""
LONGEST_LINE = 64 * MIB
"""Limit of a line of a stream. SGLang may repeat the whole answer in each."""
_SHOWN = 200


class Clock:
    """The time limit of a request; a stream restarts it with every message."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done within {self.seconds:g} s")
        return left


class _TimedSocket(io.RawIOBase):
    """The reading side of a connected socket; a read ends when the clock does."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket, self._clock = sock, clock
        self._raw: Any = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._socket.settimeout(self._clock.left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose status line, headers and body are read within the limit of a clock."""

    def __init__(self, sock: socket.socket, *rest: Any, clock: Clock, **more: Any) -> None:
        super().__init__(sock, *rest, **more)
        plain: Any = self.fp
        self.fp: Any = io.BufferedReader(_TimedSocket(sock, clock))
        plain.close()


def connect(host: str, port: int, clock: Clock, *, secure: bool) -> http.client.HTTPConnection:
    """A connection for one request within the limit of a clock; nothing is sent yet."""
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=clock.left_s)
    connection.response_class = functools.partial(_TimedResponse, clock=clock)  # type: ignore[assignment]
    return connection


def read_whole(response: http.client.HTTPResponse, url: str) -> bytes:
    """The body of an answer that is no stream.

    Raises:
        DataError: it is longer than `MOST_BYTES`.
        OSError, http.client.HTTPException: the connection broke, or the clock ran out.
    """
    body = response.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise DataError(
            f"{url} sent an answer of more than {MOST_BYTES // MIB} MiB, the most that is read",
            hint="is it SGLang, and no other program at this address?",
        )
    return body


def read_table(body: bytes, url: str) -> dict[str, Any]:
    """The JSON object of an answer or of a message.

    Raises:
        DataError: it is no JSON, nested too deeply, or no object.
    """
    try:
        found = parse_json(body, limit_bytes=None)
    except DocumentError as error:
        why = str(error).removeprefix("is not JSON: ").removeprefix("is not read as JSON: ")
        text = shown(body[:_SHOWN].decode(errors="replace"))
        raise DataError(f"{url} sent text that is no JSON ({why}): {text}") from error
    if not isinstance(found, dict):
        raise DataError(f"{url} sent JSON that is no object but {type(found).__name__}")
    return found


def messages(response: http.client.HTTPResponse, url: str, clock: Clock) -> Iterator[dict[str, Any]]:
    """The messages of an event stream, up to `[DONE]` or its end. The clock limits the time between two messages.

    Raises:
        StageFailed: the stream broke off, or no message came in time.
        DataError: a line is too long, or a message is no JSON object.
        ModelError: a message refuses the request.
    """
    while True:
        try:
            line = response.readline(LONGEST_LINE)
        except TimeoutError as error:
            raise StageFailed(f"{url} stopped sending in the middle of an answer", hint="look into its log") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StageFailed(
                f"{url} broke off in the middle of an answer: {type(error).__name__}",
                hint="look into its log; it may have crashed",
            ) from error
        if not line:
            return
        if len(line) >= LONGEST_LINE:
            raise DataError(f"{url} sent a line of more than {LONGEST_LINE // MIB} MiB, the most that is read")
        line = line.strip()
        if not line.startswith(b"data:"):
            continue
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            return
        message = read_table(data, url)
        if "error" in message:
            about = message["error"]
            text = about.get("message", about) if isinstance(about, dict) else about
            raise ModelError(f"{url} refuses the request: {shown(text)}")
        clock.restart()
        yield message
        clock.restart()


def shown(value: object) -> str:
    """Text from a server in one line, cut to a few words."""
    try:
        text = str(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return "".join(char if char.isprintable() else " " for char in text[:_SHOWN])
