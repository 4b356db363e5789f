"""The publisher of records: a local socket, a bounded queue and a thread. The caller never waits and never fails.

A frame is four bytes of length (big endian) and one record in msgpack. When the queue is full, a batch is dropped and
counted; a viewer that is too slow is disconnected.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

QUEUE_BATCHES = 256
_BUFFER_BYTES = 1 << 20
_LOOK_S = 0.2

HELLO = {"hello": True}
"""The first record that a viewer gets."""

Batch = Callable[[], Iterable[dict[str, Any]]]
"""Returns the records of a batch; called in the publisher's thread, where it may wait for a copy."""


def encode(record: dict[str, Any]) -> bytes:
    """A record as a frame. SGLang installs msgspec, HetSpec msgpack; they write the same bytes."""
    try:
        import msgspec  # pyright: ignore[reportMissingImports]

        body = msgspec.msgpack.encode(record)
    except ImportError:
        import msgpack

        body = msgpack.packb(record)
    assert isinstance(body, bytes)
    return struct.pack(">I", len(body)) + body


class Publisher:
    """A listening socket at a path, and the thread that serves it.

    Args:
        path: of the socket; an existing file is replaced, because a crashed server leaves its socket.

    Raises:
        OSError: the socket cannot be created.
    """

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self.failed = 0
        self.has_viewers = False
        self._queue: queue.Queue[Batch] = queue.Queue(QUEUE_BATCHES)
        self._viewers: list[socket.socket] = []
        self._path = path
        Path(path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chmod(path, 0o600)
        self._listener.listen(4)
        self._listener.setblocking(False)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="hetspec-trees", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Queue a batch; it is dropped and counted when the queue is full."""
        try:
            self._queue.put_nowait(batch)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)
        with contextlib.suppress(OSError):
            self._listener.close()
        Path(self._path).unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self._look()
                batch = self._queue.get(timeout=0.02 if self._viewers else _LOOK_S)
            except queue.Empty:
                continue
            except OSError:
                return
            try:
                frames = [encode(record) for record in batch()] if self._viewers else []
            except Exception:  # the next step may be good, and serving must go on
                self.failed += 1
                continue
            for frame in frames:
                self._send(frame)

    def _look(self) -> None:
        """Accept new viewers, and drop those that disconnected."""
        with contextlib.suppress(BlockingIOError):
            viewer, _ = self._listener.accept()
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            viewer.settimeout(_LOOK_S)
            self._viewers.append(viewer)
            self.has_viewers = True
            self._send(encode(HELLO), viewer)  # from now on the viewer gets every record
        if self._viewers:
            closed, _, _ = select.select(self._viewers, [], [], 0)  # viewers send nothing: readable means closed
            for viewer in closed:
                self._drop(viewer)
        self.has_viewers = bool(self._viewers)

    def _send(self, frame: bytes, *viewers: socket.socket) -> None:
        for viewer in viewers or tuple(self._viewers):
            try:
                viewer.sendall(frame)
            except OSError:  # disconnected, or so slow that only half a frame was sent
                self._drop(viewer)

    def _drop(self, viewer: socket.socket) -> None:
        self._viewers.remove(viewer)
        self.has_viewers = bool(self._viewers)
        with contextlib.suppress(OSError):
            viewer.close()
