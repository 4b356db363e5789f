"""What decoding gives back: completions, and the record of every verify step. Plain data, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from hetspec_core.acceptance import StepCount

StopReason = Literal["stop", "length", "context"]
Clock = Callable[[str], AbstractContextManager[None]]  # names a phase: propose, verify, commit


@dataclass(frozen=True)
class VerifyStep:
    """One verify step of one row, with its whole tree.

    Attributes:
        row: index of the prompt in the batch.
        index: number of the step, from 0.
        tokens: [N+1] the root, then the draft tokens in level order.
        parents: [N+1] index of the parent; the root's is 0.
        draft_log_probs: [N+1] log q given the parent; 0 for the root.
        base_log_probs: [N+1] log p given the parent, temperature 1; 0 for the root.
        base_ranks: [N+1] place of the token in the base's distribution at the parent, from 0 (= the likeliest).
        path: indices of the accepted nodes, without the root.
        committed: tokens that this step added to the answer: the accepted ones and the bonus token, cut at a stop token
            or the limit.
        bonus: the base's own choice behind the last accepted node.
        bonus_log_prob: log p of it, temperature 1.
        kv_tokens: committed tokens in the base's cache before the step.
    """

    row: int
    index: int
    tokens: list[int]
    parents: list[int]
    draft_log_probs: list[float]
    base_log_probs: list[float]
    base_ranks: list[int]
    path: list[int]
    committed: list[int]
    bonus: int
    bonus_log_prob: float
    kv_tokens: int


@dataclass
class Completion:
    """One answer.

    Attributes:
        prompt_tokens: tokens of the prompt.
        tokens: the answer, its stop token included; the first one comes from prefill.
        stop_reason: a stop token, the token limit, or the context length.
        steps: one per verify step (speculative decoding); the sum of `committed` is len(tokens) - 1.
        first_token_s: seconds from the start to the first token (prefill).
        total_s: seconds from the start to the last token.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason = "length"
    steps: list[StepCount] = field(default_factory=list)
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def decode_s(self) -> float:
        """Seconds after the first token."""
        return self.total_s - self.first_token_s


class GrowingAnswer:
    """An answer being written: takes tokens until a stop token or the limit.

    Args:
        completion: what is filled.
        limit: most tokens.
        limit_reason: why there is that limit.
        stop_ids: tokens that end the answer (and belong to it); empty = none.
    """

    def __init__(self, completion: Completion, limit: int, limit_reason: StopReason, stop_ids: frozenset[int]) -> None:
        self.completion = completion
        self.done = False
        self._limit = limit
        self._limit_reason: StopReason = limit_reason
        self._stop_ids = stop_ids

    def take(self, tokens: list[int]) -> list[int]:
        """Append tokens up to the stop token or the limit; returns those that were taken."""
        taken: list[int] = []
        for token in tokens:
            if self.done:
                break
            taken.append(token)
            self.completion.tokens.append(token)
            if token in self._stop_ids:
                self.done, self.completion.stop_reason = True, "stop"
            elif len(self.completion.tokens) >= self._limit:
                self.done, self.completion.stop_reason = True, self._limit_reason
        return taken


@contextmanager
def no_clock(_: str) -> Iterator[None]:
    """A clock that measures nothing."""
    yield
