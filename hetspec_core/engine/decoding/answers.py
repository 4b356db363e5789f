"""The answers of a batch on the host: limits, stop tokens, and what a listener is told of every cycle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener
from hetspec_core.engine.decoding.kv_cache import SlotCache
from hetspec_core.engine.decoding.tree import DraftTree, Verdict
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError
from hetspec_core.events.chat import Step, StopReason
from hetspec_core.events.steps import TreeStep
from hetspec_core.spec import DecodingSpec


def answer_limit(base: BaseLM, prompt: list[int], max_new_tokens: int) -> tuple[int, StopReason]:
    """Tokens that an answer to this prompt may have, and why not more.

    Raises:
        DataError: the prompt is empty, leaves no room in the base's context, or has a token that the base's embedding
            has no row for.
    """
    if not prompt:
        raise DataError("the prompt has no token", hint="give it some text")
    rows = base.ends.embedding_rows
    if not 0 <= min(prompt) <= max(prompt) < rows:
        wrong = next(token for token in prompt if not 0 <= token < rows)
        raise DataError(
            f"the prompt has token id {wrong}; the embedding of {base.name} has {rows} rows",
            hint="the tokenizer has tokens that the base was not made with: use the tokenizer that belongs to the base",
        )
    room = base.max_length - len(prompt)
    if room < 1:
        raise DataError(
            f"the prompt has {len(prompt)} tokens; the context of {base.name} is {base.max_length}, answer included",
            hint=f"shorten it by {1 - room} tokens or more",
        )
    return (max_new_tokens, "length") if max_new_tokens <= room else (room, "context")


class GrowingAnswer:
    """An answer that takes tokens until a stop token or the limit.

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
                self.end("stop")
            elif len(self.completion.tokens) >= self._limit:
                self.end(self._limit_reason)
        return taken

    def end(self, reason: StopReason) -> None:
        """Take no more tokens."""
        self.done, self.completion.stop_reason = True, reason


class BatchAnswers:
    """The answers of a batch that advances together.

    Args:
        base: the model.
        prompts: token ids of each prompt.
        decoding: limits and stop tokens.
        listener: told of tokens and steps.

    Attributes:
        rows: one per prompt.
        length: most tokens of prompt and answer of any row.

    Raises:
        DataError: as `answer_limit`.
    """

    def __init__(self, base: BaseLM, prompts: list[list[int]], decoding: DecodingSpec, listener: Listener) -> None:
        limits = [answer_limit(base, prompt, decoding.max_new_tokens) for prompt in prompts]
        stop_ids: frozenset[int] = frozenset() if decoding.ignore_eos else base.stop_ids
        self.rows = [
            GrowingAnswer(Completion(len(prompt)), limit, reason, stop_ids)
            for prompt, (limit, reason) in zip(prompts, limits, strict=True)
        ]
        self.length = max(len(prompt) + limit for prompt, (limit, _) in zip(prompts, limits, strict=True))
        self._listener = listener
        self._last_s = 0.0

    @property
    def done(self) -> bool:
        """Whether every answer has ended."""
        return all(row.done for row in self.rows)

    @property
    def active(self) -> list[bool]:
        """Which rows still take tokens."""
        return [not row.done for row in self.rows]

    @property
    def completions(self) -> list[Completion]:
        """The answers."""
        return [row.completion for row in self.rows]

    def take_held(self, prompts: list[list[int]], *caches: SlotCache) -> list[int] | None:
        """Tokens at the start of each prompt that all caches hold, for a prefill; None = no tokens."""
        held = [min(counts) for counts in zip(*(cache.take_held(prompts) for cache in caches), strict=True)]
        for row, count in zip(self.rows, held, strict=True):
            row.completion.kept_tokens = count
        return held if any(held) else None

    def hold(self, prompts: list[list[int]], *caches: SlotCache) -> None:
        """Say for the next prompts what caches hold behind these ones and their answers."""
        rows = [prompt + row.completion.tokens for prompt, row in zip(prompts, self.rows, strict=True)]
        for cache in caches:
            cache.hold(rows)

    def stop(self) -> bool:
        """End all answers if the listener asks for it; returns whether it does."""
        if not self._listener.stop_asked():
            return False
        for row in self.rows:
            if not row.done:
                row.end("stopped")
        return True

    def take_first(self, tokens: list[int], elapsed_s: float) -> None:
        """The first token of every row, from prefill."""
        self._last_s = elapsed_s
        for row, token in enumerate(tokens):
            self.rows[row].completion.first_token_s = elapsed_s
            self.take_token(row, token, elapsed_s)

    def take_token(self, row: int, token: int, elapsed_s: float) -> None:
        """A token that no draft proposed."""
        answer = self.rows[row]
        if answer.done:
            return
        answer.take([token])
        answer.completion.total_s = elapsed_s
        self._listener.on_tokens(row, [token])

    def take_cycle(
        self,
        packed: list[list[int]],
        elapsed_s: float,
        phases: Mapping[str, float],
        trees: TreesOnHost | None = None,
    ) -> None:
        """What a cycle of speculative decoding did.

        Args:
            packed: per row as `SpeculativeRows.packed`.
            elapsed_s: seconds since the start.
            phases: seconds of the cycle's phases, as `Listener.lap` gives them.
            trees: of the cycle, if the listener wants them.
        """
        listener, seconds = self._listener, {}
        if phases:
            seconds = {"propose_s": phases["propose"], "verify_s": phases["verify"]}
            seconds["other_s"] = max(0.0, elapsed_s - self._last_s - sum(seconds.values()))
        self._last_s = elapsed_s
        for row, answer in enumerate(self.rows):
            if answer.done:
                continue
            _, accepted, children, *others = packed[row]
            depth = len(others) // 2
            ranks, tokens = tuple(others[:accepted]), others[depth:]
            kv_tokens = answer.completion.prompt_tokens + len(answer.completion.tokens) - 1
            taken = answer.take(tokens[: accepted + 1])
            steps, offered = answer.completion.steps, accepted + (children > 0)
            answer.completion.total_s = elapsed_s
            steps.append(StepCount(len(taken), accepted, offered, ranks, children))
            if listener is SILENT:
                continue
            known = {"index": len(steps) - 1, "committed": taken, "kv_tokens": kv_tokens, **seconds}
            tree = None if trees is None else trees.step(row, accepted, listener.token_text, known)
            listener.on_step(row, Step(**known, accepted=accepted, offered=offered, elapsed_s=elapsed_s, tree=tree))


def packed_trees(tree: DraftTree, verdict: Verdict, logits: Tensor) -> Tensor:
    """What a viewer is shown of a batch of trees, in one tensor, so that it travels at once.

    Args:
        tree: B trees of N nodes.
        verdict: what was accepted.
        logits: [B, N+1, V] of the base.

    Returns:
        [B, 5 (N+1) + (D+1) + 2] float64, in which ids stay exact: tokens, parents, ranks of the tokens for the base,
        log-probabilities of draft and base, the accepted path, the bonus token and its log-probability.
    """
    base = torch.log_softmax(logits.float(), dim=-1)
    above = base.gather(1, tree.parents[:, :, None].expand(-1, -1, base.shape[-1]))
    own = above.gather(2, tree.tokens[:, :, None])  # [B, N+1, 1]
    ranks = (above > own).sum(-1)
    own = own[:, :, 0]
    own[:, 0], ranks[:, 0] = 0.0, 0
    end = verdict.num_accepted[:, None]
    bonus, last = verdict.tokens.gather(1, end), verdict.path.gather(1, end)  # [B, 1]
    rows = torch.arange(bonus.shape[0], device=bonus.device)[:, None]
    parts = (tree.tokens, tree.parents, ranks, tree.log_probs, own, verdict.path, bonus, base[rows, last, bonus])
    return torch.cat([part.double() for part in parts], dim=1)


class TreesOnHost:
    """A batch of trees as Python lists, for viewers.

    Args:
        rows: of `packed_trees`.
        depth: D.
    """

    def __init__(self, rows: list[list[float]], depth: int) -> None:
        self._rows = rows
        nodes = (len(rows[0]) - (depth + 1) - 2) // 5  # the root included
        self._widths = [*[nodes] * 5, depth + 1, 1, 1]

    def step(self, row: int, accepted: int, text: Callable[[int], str], known: dict[str, Any]) -> TreeStep:
        """The tree of one row.

        Args:
            row: of the batch.
            accepted: draft tokens that were accepted.
            text: says what a token says.
            known: fields of `TreeStep` that a `Step` has as well.
        """
        values = iter(self._rows[row])
        tokens, parents, ranks, draft_log_probs, base_log_probs, path, (bonus,), (bonus_log_prob,) = (
            list(islice(values, width)) for width in self._widths
        )
        ids = [int(token) for token in tokens]
        return TreeStep(
            **known,
            tokens=ids,
            texts=[text(token) for token in ids],
            parents=[int(parent) for parent in parents],
            draft_probs=[_probability(value) for value in draft_log_probs],
            base_probs=[_probability(value) for value in base_log_probs],
            base_ranks=[int(rank) for rank in ranks],
            path=[int(node) for node in path[1 : accepted + 1]],
            bonus=int(bonus),
            bonus_text=text(int(bonus)),
            bonus_prob=_probability(bonus_log_prob),
        )


def _probability(log_prob: float) -> float:
    """Exp to seven significant digits: what float32 holds, and a line of JSON stays short."""
    return float(f"{math.exp(log_prob):.7g}")
