"""An answer of SGLang while it is written: tokens from the server's stream, and records from the tree plugin beside it.

`AnswerStream` joins the two and reports tokens and verify steps to a watcher. `TreeFeed` is the viewer's end of the
plugin's socket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.backends.backend import Watcher, Written
from hetspec_core.errors import DataError
from hetspec_core.events.chat import Step, StopReason
from hetspec_core.events.steps import TreeStep
from hetspec_core.sglang.client import Chunk
from hetspec_core.sglang.plugin import RECORD_VERSION

_SURPLUS = 64
"""Verify steps that a server may count beyond the tokens of an answer. Each step commits at least one token."""


def step_counts(meta: Mapping[str, Any], completion_tokens: int, depth: int) -> list[StepCount]:
    """The verify steps of one answer from the figures of its last message; [] without speculation.

    SGLang counts how many steps accepted how many draft tokens, not in which order. What a stop token or the limit cut
    off is subtracted from the longest of them, so that the sum of `committed` is the number of tokens after the first.

    Args:
        meta: `meta_info` of the last message.
        completion_tokens: tokens of the answer; the first one comes from prefill.
        depth: levels of the tree. SGLang does not say whether the last accepted node had children; `offered` assumes
            that it had, up to this depth.

    Raises:
        DataError: the figures are no numbers, or count more steps than such an answer can have.
    """
    try:
        steps, histogram = int(meta.get("spec_verify_ct") or 0), histogram_of(meta)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the server's count of verify steps is no number: {error}") from error
    if not steps:
        return []
    if not 0 < steps <= 2 * completion_tokens + _SURPLUS or any(count < 0 for count in histogram):
        raise DataError(f"the server counts {steps:,} verify steps for an answer of {completion_tokens:,} tokens")
    if sum(histogram) == steps:
        accepted = [length for length, count in enumerate(histogram) for _ in range(count)]
    else:
        accepted = _spread(completion_tokens - 1 - steps, steps)
    surplus = sum(accepted) + steps - (completion_tokens - 1)
    counts: list[StepCount] = []
    for value in reversed(accepted):  # the longest runs are the likeliest to have been cut
        cut = max(0, min(surplus, value)) if surplus > 0 else 0
        surplus -= cut
        counts.append(StepCount(committed=value + 1 - cut, accepted=value, offered=max(value, min(value + 1, depth))))
    return counts[::-1]


def histogram_of(meta: Mapping[str, Any]) -> list[int]:
    """How many verify steps accepted 0, 1, 2... draft tokens, under the newer or the older name; [] under neither."""
    found = meta.get("spec_correct_drafts_histogram") or meta.get("spec_accept_histogram")
    return [int(count) for count in found] if isinstance(found, Sequence) else []


def growth_count(committed: int, depth: int) -> StepCount:
    """One verify step of which only the committed tokens are known."""
    accepted = max(0, committed - 1)
    return StepCount(committed=committed, accepted=accepted, offered=max(accepted, min(accepted + 1, depth)))


def sglang_accept_length(completion_tokens: int, verify_steps: int) -> float | None:
    """The quotient of SGLang's own bench script: all tokens, the first from prefill included, by verify steps."""
    return completion_tokens / verify_steps if verify_steps else None


def _spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by at most one, for servers without a histogram."""
    total = max(0, total)
    return [total // parts + (number < total % parts) for number in range(parts)]


def committed_tokens(record: dict[str, Any]) -> list[int]:
    """The tokens that the step of a record committed: accepted tokens and the bonus token, before any cut."""
    return [*(record["tokens"][node] for node in record["path"]), record["bonus"]]


def step_count(record: dict[str, Any], committed: int) -> StepCount:
    """The counts of the step of a record. `offered` is exact, because the tree says which nodes had children."""
    path = record["path"]
    last = path[-1] if path else 0
    more = any(parent == last for parent in record["parents"][1:])
    return StepCount(committed=committed, accepted=len(path), offered=len(path) + more)


def tree_step(record: dict[str, Any], index: int, committed: list[int], text: Callable[[int], str]) -> TreeStep:
    """A record as the step that a viewer draws.

    SGLang keeps the draft's probabilities of a node multiplied up from the root; q given the parent is the quotient. It
    keeps none for a chain, where q is 0.
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


_RECORD_S = 0.25  # how long a step waits for its tree
_LONGEST_FRAME = 8 << 20
_MOST_REQUESTS = 64  # whose records are kept; the oldest are dropped first
_MOST_RECORDS = 4096
_CONNECT_S = 5.0


class TreeFeed:
    """Records of one server, read by a thread."""

    def __init__(self, path: str) -> None:
        self.dropped = 0
        self.alive = False
        self._path = path
        self._records: dict[str, deque[dict[str, Any]]] = {}
        self._news = threading.Condition()
        self._socket: socket.socket | None = None
        self._greeted = threading.Event()

    def open(self, timeout_s: float = _CONNECT_S) -> bool:
        """Connect; False when there is no plugin at the other end. An answer needs no trees, so nothing is raised."""
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
        """Put a record back in front, because it belongs to a later step."""
        with self._news:
            self._records.setdefault(request_id, deque(maxlen=_MOST_RECORDS)).appendleft(record)

    def forget(self, request_id: str) -> None:
        """Drop the remaining records of a request."""
        with self._news:
            self._records.pop(request_id, None)

    def close(self) -> None:
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
            pass  # the server ended, or sent something else: no more trees come
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


class AnswerStream:
    """Takes the pieces of one answer and reports tokens and steps to a watcher."""

    def __init__(
        self,
        text: Callable[[int], str],
        watcher: Watcher,
        prompt_tokens: int,
        depth: int,
        feed: TreeFeed | None,
        request_id: str,
    ) -> None:
        self.written = Written()
        self._text, self._watcher, self._depth = text, watcher, depth
        self._prompt_tokens, self._feed, self._request_id = prompt_tokens, feed, request_id
        self._index = 0
        self._last_s = 0.0
        self.meta: dict[str, Any] = {}
        self.written.stop_reason = "stopped"  # until the server says why it ended

    def take(self, chunk: Chunk, speculates: bool) -> None:
        """Take a piece. The first token of an answer is prefill's; the others are of one verify step or of several."""
        new = list(chunk.tokens)
        if new and not self.written.tokens:
            self.written.first_token_s = self._last_s = chunk.at_s
            self._report([new.pop(0)])
        if new and not speculates:
            self._report(new)
        elif new:
            self._steps(new, chunk.at_s)
        self._last_s = chunk.at_s
        self.written.decode_s = chunk.at_s - self.written.first_token_s
        if chunk.finish:
            self.written.stop_reason, self.meta = stop_reason(chunk.finish), chunk.meta
            if speculates:
                self.written.counts = step_counts(chunk.meta, len(self.written.tokens), self._depth)

    def _report(self, tokens: list[int]) -> None:
        self.written.tokens.extend(tokens)
        self._watcher.on_tokens(tokens)

    def _steps(self, new: list[int], at_s: float) -> None:
        spent = max(0.0, at_s - self._last_s)
        first = True
        while new:
            record = self._record(new)
            committed = new if record is None else new[: len(committed_tokens(record))]
            kv_tokens = self._prompt_tokens + len(self.written.tokens) - 1
            tree = None
            if record is None:
                count = growth_count(len(committed), self._depth)
            else:
                count = step_count(record, len(committed))
                tree = tree_step(record, self._index, committed, self._text)
            self.written.tokens.extend(committed)
            self._watcher.on_step(
                Step(
                    index=self._index,
                    committed=list(committed),
                    accepted=count.accepted,
                    offered=count.offered,
                    kv_tokens=kv_tokens,
                    other_s=spent if first else 0.0,
                    tree=tree,
                )
            )
            self._index += 1
            first, new = False, new[len(committed) :]

    def _record(self, new: list[int]) -> dict[str, Any] | None:
        """The record of the step that committed these tokens, or the first of them; None when there is none.

        Records may be missing, because a full queue drops some. A record of an earlier step is skipped; one of a later
        step is kept for that step.
        """
        if self._feed is None:
            return None
        here = self._prompt_tokens + len(self.written.tokens) - 1
        while (record := self._feed.take(self._request_id, _RECORD_S)) is not None:
            told = committed_tokens(record)[: len(new)]
            if record["tokens"][0] == self.written.tokens[-1] and told == new[: len(told)]:
                return record
            if record["kv_tokens"] > here:
                self._feed.give_back(self._request_id, record)
                return None
        return None


def stop_reason(finish: str) -> StopReason:
    """HetSpec's word for SGLang's reason to end an answer."""
    return "stop" if finish == "stop" else "length" if finish == "length" else "stopped"
