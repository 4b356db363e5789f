"""Speculative decoding of a batch: prefill, then propose, verify, commit until every answer is complete.

The readable reference: a faster path is tested against this one. One transfer to the host per cycle says what was
committed; everything else stays on the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.decoding.completion import SILENT, Completion, GrowingAnswer, Listener, synchronize
from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache
from hetspec_core.engine.decoding.plain import decode_plain
from hetspec_core.engine.decoding.prefill import answer_limit, pad_prompts
from hetspec_core.engine.decoding.propose import propose, tree_slots
from hetspec_core.engine.decoding.sampling import Sampler
from hetspec_core.engine.decoding.tree import DraftTree
from hetspec_core.engine.decoding.verify import Verdict, verify
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.chat import Step
from hetspec_core.events.steps import TreeStep
from hetspec_core.spec import DecodingSpec


def generate(
    base: BaseLM,
    draft: DraftLM | None,
    prompts: list[list[int]],
    decoding: DecodingSpec,
    *,
    listener: Listener = SILENT,
    most_per_step: int | None = None,
) -> list[Completion]:
    """Answer a batch of prompts.

    With greedy decoding in float32 the answers equal plain decoding's token by token; when sampling, they equal plain
    sampling with the same seed up to rounding, and have the base's distribution.

    Args:
        base: the model that decides.
        draft: proposes; None (or `decoding.plain`) = plain decoding.
        prompts: token ids of each prompt.
        decoding: tree shape, sampling and limits.
        listener: told of tokens and steps as they come; its clock times prefill, propose, verify and commit.
        most_per_step: a verify step commits no more tokens than this, whatever was accepted; 1 shows the tree at every
            position of the answer. The answer is the same; the accept length is not.

    Raises:
        DataError: a prompt is empty or longer than the context.
    """
    if not prompts:
        return []
    if draft is None or decoding.plain:
        return decode_plain(base, prompts, decoding, listener)
    return _Speculation(base, draft, prompts, decoding, listener, most_per_step).run()


class _Speculation:
    """State of one batch: caches, the root of every row, and the answers so far."""

    def __init__(
        self,
        base: BaseLM,
        draft: DraftLM,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        listener: Listener,
        most_per_step: int | None,
    ) -> None:
        self.base, self.draft, self.prompts, self.listener = base, draft, prompts, listener
        self.shape, self.most_per_step = decoding.tree, most_per_step
        limits = [answer_limit(base, prompt, decoding.max_new_tokens) for prompt in prompts]
        stop_ids: frozenset[int] = frozenset() if decoding.ignore_eos else base.stop_ids
        self.answers = [
            GrowingAnswer(Completion(len(prompt)), limit, reason, stop_ids)
            for prompt, (limit, reason) in zip(prompts, limits, strict=True)
        ]
        committed = max(len(prompt) + limit for prompt, (limit, _) in zip(prompts, limits, strict=True))
        # The last commit may overshoot the limit by a whole path before it is cut.
        committed += self.shape.depth + 1
        self.base_cache = self._cache(committed + self.shape.num_nodes + 1)
        self.draft_cache = self._cache(committed + max(tree_slots(self.shape), self.shape.depth + 1))
        self.sampler = Sampler(decoding.sampling, list(range(len(prompts))), committed + 1, base.device)
        self.age = torch.zeros(len(prompts), dtype=torch.int64, device=base.device)  # [B] tokens of the answer so far
        self.active = torch.ones(len(prompts), dtype=torch.bool, device=base.device)
        self.root = torch.zeros(len(prompts), dtype=torch.int64, device=base.device)
        self.state = torch.empty(0, device=base.device)  # [B, S] the draft's, after it has read the root
        self.now = 0.0  # seconds from the start to the last record

    def _cache(self, capacity: int) -> SlotCache:
        return SlotCache(len(self.prompts), -(-capacity // SLOT_STEP) * SLOT_STEP, self.base.device)

    @torch.inference_mode()
    def run(self) -> list[Completion]:
        phase, started = self.listener.phase, time.perf_counter()
        with phase("prefill"):
            self.prefill()
        first_tokens = self.root.tolist()
        self.now = time.perf_counter() - started
        for row, (answer, token) in enumerate(zip(self.answers, first_tokens, strict=True)):
            answer.take([token])
            answer.completion.first_token_s = answer.completion.total_s = self.now
            self.listener.on_tokens(row, [token])
        while not all(answer.done for answer in self.answers):
            if self.listener.stop_asked():
                for answer in self.answers:
                    if not answer.done:
                        answer.end("stopped")
                break
            self.active = torch.tensor([not answer.done for answer in self.answers], device=self.base.device)
            with phase("propose"):
                tree = propose(self.draft, self.root, self.state, self.draft_cache, self.shape)
            with phase("verify"):
                verdict, features, logits = self.verify(tree)
                if self.most_per_step is not None:
                    verdict = verdict.cut(self.most_per_step - 1)
            with phase("commit"):
                counts = self.commit(tree, verdict, features)
            synchronize(self.base.device)
            self.record(tree, verdict, logits, counts, time.perf_counter() - started)
        return [answer.completion for answer in self.answers]

    def prefill(self) -> None:
        """Read the prompts with both models; the base chooses the first token of every answer."""
        ids, lengths = pad_prompts(self.prompts, self.base.device)
        host_lengths = [len(prompt) for prompt in self.prompts]
        rows = torch.arange(ids.shape[0], device=ids.device)
        slots = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        self.base_cache.stage(slots, visible=0)
        output = self.base.forward(ids, cache=self.base_cache, layers=self.draft.captured_layers)
        logits = self.base.logits(output.hidden[rows, lengths - 1])
        self.root = self.sampler.choose(logits[:, None], self.age[:, None])[:, 0]
        self.age = self.age + 1
        # The draft reads pairs (x_{t+1}, f_t): the prompt moved by one, the root last.
        tokens = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
        tokens[rows, lengths - 1] = self.root
        self.draft_cache.stage(slots, visible=0)
        start = self.draft.first_state(self.draft.base_features(output))
        self.state = self.draft(tokens, start, cache=self.draft_cache)[rows, lengths - 1]
        self.base_cache.advance(lengths, host_lengths)
        self.draft_cache.advance(lengths, host_lengths)

    def verify(self, tree: DraftTree) -> tuple[Verdict, Tensor, Tensor]:
        """Forward root and nodes through the base at once; features [B, N+1, F] and logits [B, N+1, V] come along."""
        cache, width = self.base_cache, tree.tokens.shape[1]
        visible = cache.visible_for(width)
        offsets = torch.arange(width, device=tree.tokens.device)
        slots = cache.lengths[:, None] + offsets
        mask = cache.prefix_mask(visible)[:, None].repeat(1, width, 1)  # [B, N+1, visible]: everyone sees the prefix
        mask.scatter_(2, slots[:, None].expand(-1, width, -1), tree.ancestors)  # ... and its own line
        depths = tree.depths
        # Nodes beyond the context can never be committed; they only need a position that exists.
        positions = (cache.lengths[:, None] + depths).clamp(max=self.base.max_length - 1)
        cache.stage(slots, visible=visible)
        output = self.base.forward(
            tree.tokens, positions=positions, mask=mask[:, None], cache=cache, layers=self.draft.captured_layers
        )
        logits = self.base.logits(output.hidden)
        choices = self.sampler.choose(logits, self.age[:, None] + depths)
        return verify(tree, choices, self.shape.depth), self.draft.base_features(output), logits

    def commit(self, tree: DraftTree, verdict: Verdict, features: Tensor) -> list[list[int]]:
        """Keep the accepted path in both caches; the draft re-reads it with the base's true features.

        Returns:
            Per row on the host: accepted draft tokens, whether the last accepted node had children, D+1 tokens.
        """
        last = verdict.path.gather(1, verdict.num_accepted[:, None])  # [B, 1]
        had_children = (tree.parents[:, 1:] == last).any(-1)
        counts = torch.where(self.active, verdict.num_accepted + 1, 0)
        # The one transfer of the cycle.
        packed = torch.cat(
            [counts[:, None], verdict.num_accepted[:, None], had_children[:, None], verdict.tokens], dim=1
        )
        host = packed.tolist()
        host_counts = [row[0] for row in host]
        self.base_cache.keep(verdict.path, counts, host_counts)

        cache, width = self.draft_cache, verdict.path.shape[1]
        kept = features.gather(1, verdict.path[:, :, None].expand(-1, -1, features.shape[-1]))  # [B, D+1, F]
        order = torch.arange(width, device=kept.device)
        slots = cache.lengths[:, None] + order
        visible = cache.visible_for(width)
        mask = torch.arange(visible, device=kept.device) <= slots[:, :, None]  # [B, D+1, visible] causal
        cache.stage(slots, visible=visible)
        start = self.draft.first_state(kept)
        state = self.draft(verdict.tokens, start, positions=slots, mask=mask[:, None], cache=cache)
        rows = torch.arange(state.shape[0], device=state.device)
        self.state = state[rows, verdict.num_accepted]
        self.root = verdict.tokens[rows, verdict.num_accepted]
        cache.advance(counts, host_counts)
        self.age = self.age + counts
        return [row[1:] for row in host]

    def record(
        self, tree: DraftTree, verdict: Verdict, logits: Tensor, host: list[list[int]], elapsed_s: float
    ) -> None:
        """Hand the committed tokens to the answers, and the step to the listener."""
        listener, before = self.listener, self.now
        self.now = elapsed_s
        trees = _TreesOnHost(tree, verdict, logits) if listener.trees else None
        seconds: dict[str, float] = {}
        if (clock := listener.clock) is not None:
            seconds = {"propose_s": clock.lap("propose"), "verify_s": clock.lap("verify")}
            seconds["other_s"] = max(0.0, elapsed_s - before - sum(seconds.values()))
        for row, answer in enumerate(self.answers):
            if answer.done:
                continue
            accepted, had_children, *tokens = host[row]
            taken = answer.take(tokens[: accepted + 1])
            steps = answer.completion.steps
            answer.completion.total_s = elapsed_s
            steps.append(StepCount(len(taken), accepted, accepted + had_children))
            if listener is SILENT:
                continue
            known = {"index": len(steps) - 1, "committed": taken, **seconds}
            known["kv_tokens"] = self.base_cache.host_lengths[row] - accepted - 1  # before this step
            drawn = None if trees is None else trees.step(row, accepted, listener.token_text, known)
            counted = {"accepted": accepted, "offered": accepted + had_children, "elapsed_s": elapsed_s}
            listener.on_step(row, Step(**known, **counted, tree=drawn))


class _TreesOnHost:
    """A batch of trees as Python lists, for viewers: computed on the device, one transfer.

    Args:
        tree: B trees of N nodes.
        verdict: what was accepted.
        logits: [B, N+1, V] of the base.
    """

    def __init__(self, tree: DraftTree, verdict: Verdict, logits: Tensor) -> None:
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
        self._widths = [part.shape[1] for part in parts]
        self._rows: list[list[float]] = torch.cat([part.double() for part in parts], dim=1).tolist()  # ids stay exact

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
