"""An answer of SGLang as it is written: pieces in, tokens and verify steps out to whoever watches.

A server's stream tells tokens; with the tree plugin a record of each step comes beside it. It joins the two and knows
no server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hetspec_core.engine.backends.backend import Watcher, Written
from hetspec_core.events.chat import Step, StopReason
from hetspec_core.sglang.client import Chunk
from hetspec_core.sglang.counts import growth_count, step_counts
from hetspec_core.sglang.trees import TreeFeed, committed_tokens, step_count, tree_step

_RECORD_S = 0.25  # how long a step waits for its tree


class Pen:
    """Takes the pieces of one answer and tells a watcher.

    Args:
        text: what one token says.
        watcher: who listens.
        prompt_tokens: tokens before the answer.
        depth: levels of the server's tree.
        feed: records of its tree plugin, or None.
        request_id: which of them are of this answer.
    """

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
        """A piece: the first token is prefill's; of the rest every growth is one verify step, or several at once."""
        new = list(chunk.tokens)
        if new and not self.written.tokens:
            self.written.first_token_s = self._last_s = chunk.at_s
            self._say([new.pop(0)])
        if new and not speculates:
            self._say(new)
        elif new:
            self._steps(new, chunk.at_s)
        self._last_s = chunk.at_s
        self.written.decode_s = chunk.at_s - self.written.first_token_s
        if chunk.finish:
            self.written.stop_reason, self.meta = stop_reason(chunk.finish), chunk.meta
            if speculates:
                self.written.counts = step_counts(chunk.meta, len(self.written.tokens), self._depth)

    def _say(self, tokens: list[int]) -> None:
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
        """The record of the step that committed these tokens, or the first of them; None when it was not told.

        Records may be missing, because a full queue drops some. One of an earlier step is passed over, one of a later
        step is kept for it.
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
    """SGLang's word for the end of an answer, in ours."""
    return "stop" if finish == "stop" else "length" if finish == "length" else "stopped"
