"""The viewer's end of the tree plugin: records from its socket, by request, and a record as a `TreeStep`.

It knows frames and records, not SGLang.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from hetspec_core.acceptance import StepCount
from hetspec_core.events.steps import TreeStep
from hetspec_core.sglang.plugin import RECORD_VERSION

_LONGEST_FRAME = 8 << 20
_MOST_REQUESTS = 64  # whose records are kept; those of requests that nobody asks for are forgotten
_MOST_RECORDS = 4096
_CONNECT_S = 5.0


class TreeFeed:
    """Records of one server, read by a thread of its own.

    Args:
        path: socket of the plugin.
    """

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self.alive = False
        self._path = path
        self._records: dict[str, deque[dict[str, Any]]] = {}
        self._news = threading.Condition()
        self._socket: socket.socket | None = None
        self._greeted = threading.Event()

    def open(self, timeout_s: float = _CONNECT_S) -> bool:
        """Connect; False when there is no plugin at the other end. Trees are an extra, so nothing is raised."""
        limit = time.monotonic() + timeout_s
        while True:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(self._path)
            except OSError:
                link.close()
                if time.monotonic() >= limit:
                    return False
                time.sleep(0.1)
                continue
            self._socket, self.alive = link, True
            threading.Thread(target=self._read, args=(link,), name="sglang-trees", daemon=True).start()
            return self._greeted.wait(max(0.0, limit - time.monotonic()))

    def take(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        """The next record of a request; None when none comes in time."""
        limit = time.monotonic() + timeout_s
        with self._news:
            while not (waiting := self._records.get(request_id)):
                left = limit - time.monotonic()
                if left <= 0 or not self.alive:
                    return None
                self._news.wait(left)
            return waiting.popleft()

    def give_back(self, request_id: str, record: dict[str, Any]) -> None:
        """Put a record in front again that was taken too early."""
        with self._news:
            self._records.setdefault(request_id, deque(maxlen=_MOST_RECORDS)).appendleft(record)

    def forget(self, request_id: str) -> None:
        """Drop what is left of a request."""
        with self._news:
            self._records.pop(request_id, None)

    def close(self) -> None:
        """Hang up."""
        self.alive = False
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _read(self, link: socket.socket) -> None:
        import msgpack

        try:
            with link.makefile("rb") as stream:
                while len(head := stream.read(4)) == 4:
                    size = struct.unpack(">I", head)[0]
                    if size > _LONGEST_FRAME or len(body := stream.read(size)) < size:
                        break
                    record = msgpack.unpackb(body)
                    if isinstance(record, dict) and record.get("hello"):
                        self._greeted.set()
                    elif isinstance(record, dict) and record.get("v") == RECORD_VERSION:
                        self._keep(record)
        except (OSError, ValueError):
            pass  # it is gone, or speaks another language; either way no more trees come
        with self._news:
            self.alive = False
            self._news.notify_all()

    def _keep(self, record: dict[str, Any]) -> None:
        with self._news:
            self.dropped = int(record.get("dropped", 0))
            request_id = str(record.get("rid"))
            if request_id not in self._records:
                while len(self._records) >= _MOST_REQUESTS:
                    del self._records[next(iter(self._records))]
                self._records[request_id] = deque(maxlen=_MOST_RECORDS)
            self._records[request_id].append(record)
            self._news.notify_all()


def committed_tokens(record: dict[str, Any]) -> list[int]:
    """What the step of a record added to the answer: accepted tokens and the bonus token, before any cut."""
    return [*(record["tokens"][node] for node in record["path"]), record["bonus"]]


def step_count(record: dict[str, Any], committed: int) -> StepCount:
    """The numbers of the step: `offered` exactly, because the tree says who had children."""
    path = record["path"]
    last = path[-1] if path else 0
    more = any(parent == last for parent in record["parents"][1:])
    return StepCount(committed=committed, accepted=len(path), offered=len(path) + more)


def tree_step(record: dict[str, Any], index: int, committed: list[int], text: Callable[[int], str]) -> TreeStep:
    """A record as the step that a viewer draws.

    SGLang keeps the draft's probabilities of a node multiplied up from the root; q given the parent is the quotient. Of
    a chain it tells none, and q is 0 there.
    """
    tokens, parents, scores = record["tokens"], record["parents"], record["scores"]
    probs = [1.0]
    for node in range(1, len(tokens)):
        own, above = scores[node], 1.0 if parents[node] == 0 else scores[parents[node]]
        probs.append(min(1.0, own / above) if own is not None and above else 0.0)
    bonus = record["bonus"]
    return TreeStep(
        index=index,
        tokens=tokens,
        texts=[text(token) for token in tokens],
        parents=parents,
        draft_probs=[round(value, 6) for value in probs],
        base_probs=[round(value, 6) for value in record["base_probs"]],
        base_ranks=record["base_ranks"],
        path=record["path"],
        bonus=bonus,
        bonus_text=text(bonus),
        bonus_prob=round(record["bonus_prob"], 6),
        committed=committed,
        kv_tokens=record["kv_tokens"],
    )
