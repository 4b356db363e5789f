"""Speculative decoding of a batch: prefill, then propose, verify, commit until every answer is complete.

The readable reference: a faster path is tested against this one. One transfer to the host per cycle says what was
committed; everything else stays on the device. Phases are timed from outside through a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from hetspec_core.engine.decoding.completion import Answer, Clock, Completion, StepCount, VerifyStep, no_clock
from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache
from hetspec_core.engine.decoding.plain import decode_plain
from hetspec_core.engine.decoding.prefill import answer_limit, pad_prompts, synchronize
from hetspec_core.engine.decoding.propose import propose, tree_slots
from hetspec_core.engine.decoding.sampling import Sampler
from hetspec_core.engine.decoding.tree import DraftTree
from hetspec_core.engine.decoding.verify import Verdict, verify
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import DecodingSpec

OnStep = Callable[[VerifyStep], None]


def generate(
    base: BaseLM,
    draft: DraftLM | None,
    prompts: list[list[int]],
    decoding: DecodingSpec,
    *,
    on_step: OnStep | None = None,
    on_token: Callable[[int, int], None] | None = None,
    clock: Clock = no_clock,
) -> list[Completion]:
    """Answer a batch of prompts.

    With greedy decoding in float32 the answers equal plain decoding's token by token; when sampling, they equal plain
    sampling with the same seed up to rounding, and have the base's distribution.

    Args:
        base: the model that decides.
        draft: proposes; None (or `decoding.plain`) = plain decoding.
        prompts: token ids of each prompt.
        decoding: tree shape, sampling and limits.
        on_step: called for every row and verify step with the whole tree (costs a transfer of the tree).
        on_token: called with (row, token) for every token of the answer, in order.
        clock: phases `prefill`, `propose`, `verify` and `commit` run inside `with clock(phase):`.

    Raises:
        DataError: a prompt is empty or longer than the context.
    """
    if not prompts:
        return []
    if draft is None or decoding.plain:
        return decode_plain(base, prompts, decoding, on_token)
    return _Speculation(base, draft, prompts, decoding, clock).run(on_step, on_token)


class _Speculation:
    """State of one batch: caches, the root of every row, and the answers so far."""

    def __init__(
        self, base: BaseLM, draft: DraftLM, prompts: list[list[int]], decoding: DecodingSpec, clock: Clock
    ) -> None:
        self.base, self.draft, self.prompts, self.clock = base, draft, prompts, clock
        self.shape = decoding.tree
        limits = [answer_limit(base, prompt, decoding.max_new_tokens) for prompt in prompts]
        stop_ids: frozenset[int] = frozenset() if decoding.ignore_eos else base.stop_ids
        self.answers = [
            Answer(Completion(len(prompt)), limit, reason, stop_ids)
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

    def _cache(self, capacity: int) -> SlotCache:
        return SlotCache(len(self.prompts), -(-capacity // SLOT_STEP) * SLOT_STEP, self.base.device)

    @torch.inference_mode()
    def run(self, on_step: OnStep | None, on_token: Callable[[int, int], None] | None) -> list[Completion]:
        started = time.perf_counter()
        with self.clock("prefill"):
            self.prefill()
        first_tokens = self.root.tolist()
        first = time.perf_counter() - started
        for row, (answer, token) in enumerate(zip(self.answers, first_tokens, strict=True)):
            answer.take([token])
            answer.completion.first_token_s = answer.completion.total_s = first
            if on_token is not None:
                on_token(row, token)
        while not all(answer.done for answer in self.answers):
            self.active = torch.tensor([not answer.done for answer in self.answers], device=self.base.device)
            with self.clock("propose"):
                tree = propose(self.draft, self.root, self.state, self.draft_cache, self.shape)
            with self.clock("verify"):
                verdict, features, logits = self.verify(tree)
            with self.clock("commit"):
                counts = self.commit(tree, verdict, features)
            synchronize(self.base.device)
            self.record(tree, verdict, logits, counts, time.perf_counter() - started, on_step, on_token)
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
        self,
        tree: DraftTree,
        verdict: Verdict,
        logits: Tensor,
        host: list[list[int]],
        now: float,
        on_step: OnStep | None,
        on_token: Callable[[int, int], None] | None,
    ) -> None:
        """Hand the committed tokens to the answers, and the step to whoever watches."""
        detail = _TreeOnHost(tree, verdict, logits) if on_step is not None else None
        for row, answer in enumerate(self.answers):
            if answer.done:
                continue
            accepted, had_children, *tokens = host[row]
            taken = answer.take(tokens[: accepted + 1])
            completion = answer.completion
            completion.total_s = now
            completion.steps.append(StepCount(len(taken), accepted, accepted + had_children))
            if on_token is not None:
                for token in taken:
                    on_token(row, token)
            if on_step is not None and detail is not None:
                on_step(detail.step(row, len(completion.steps) - 1, accepted, taken))


class _TreeOnHost:
    """A batch of trees as Python lists, for those who draw them."""

    def __init__(self, tree: DraftTree, verdict: Verdict, logits: Tensor) -> None:
        base = torch.log_softmax(logits.float(), dim=-1)
        above = base.gather(1, tree.parents[:, :, None].expand(-1, -1, base.shape[-1]))
        base_log_probs = above.gather(2, tree.tokens[:, :, None])[:, :, 0]
        base_log_probs[:, 0] = 0.0
        self._tokens, self._parents = tree.tokens.tolist(), tree.parents.tolist()
        self._draft, self._base = tree.log_probs.tolist(), base_log_probs.tolist()
        self._path = verdict.path.tolist()

    def step(self, row: int, index: int, accepted: int, committed: list[int]) -> VerifyStep:
        return VerifyStep(
            row=row,
            index=index,
            tokens=self._tokens[row],
            parents=self._parents[row],
            draft_log_probs=self._draft[row],
            base_log_probs=self._base[row],
            path=self._path[row][1 : accepted + 1],
            committed=committed,
        )
