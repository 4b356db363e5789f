"""The rows of a batch on the device: one cycle of speculative decoding, one step of plain decoding.

A cycle is propose, verify, commit. Nothing here looks at a value on the host: what the host has to know comes packed in
one tensor per cycle. With fixed caches no shape changes either, so a cycle can be captured as a graph and replayed; the
reference calls the same methods one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache, SlotTables
from hetspec_core.engine.decoding.prompts import PromptPart, as_long, most_prefilled, prompt_parts
from hetspec_core.engine.decoding.propose import propose, tree_slots
from hetspec_core.engine.decoding.sampling import Sampler
from hetspec_core.engine.decoding.tree import DraftTree, Verdict, sibling_ranks, verify
from hetspec_core.engine.modeling.attention import key_bounds
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.fusion import is_fused
from hetspec_core.spec import SamplingSpec, TreeSpec


def base_slots(shape: TreeSpec) -> int:
    """Slots of the base's cache behind the committed tokens: the last path, which may overshoot, and the tree."""
    return shape.depth + shape.num_nodes + 2


def draft_slots(shape: TreeSpec) -> int:
    """Slots of the draft's cache behind the committed tokens: the last path, and what proposing writes."""
    return shape.depth + 1 + max(tree_slots(shape), shape.depth + 1)


class SpeculativeRows:
    """Rows that a base and a draft write together.

    Args:
        base: decides.
        draft: proposes.
        num_rows: B.
        length: most tokens of prompt and answer of a row.
        shape: of the tree.
        sampling: how the base's tokens are chosen.
        most_per_step: tokens that a cycle commits at most; None = all that are accepted.
        fixed, fused: as in `SlotCache`.
        tables: of the base's cache and of the draft's, as in `SlotCache`.

    Attributes:
        active: [B] bool, rows that still commit; set by the host.
        root: [B] last committed token of each row.
        most_prefilled: tokens of all rows that one forward of `prefill` reads at most.
        padded, read: as in `prompt_parts`, and what reads a part; a program replaces both.
        packed: [B, 2D+4] what a cycle did: tokens committed, draft tokens accepted, children of the last accepted node,
            then the D ranks of accepted nodes among their siblings, of which `accepted` count, and the D+1 tokens, of
            which `accepted + 1` count.
    """

    def __init__(
        self,
        base: BaseLM,
        draft: DraftLM,
        num_rows: int,
        length: int,
        shape: TreeSpec,
        sampling: SamplingSpec,
        *,
        most_per_step: int | None = None,
        fixed: bool = False,
        fused: bool = False,
        tables: tuple[SlotTables | None, SlotTables | None] = (None, None),
    ) -> None:
        self.base, self.draft, self.shape, self.most_per_step = base, draft, shape, most_per_step
        device = base.device
        self.base_cache = _cache(num_rows, length + base_slots(shape), device, fixed, fused, tables[0])
        self.draft_cache = _cache(num_rows, length + draft_slots(shape), device, fixed, tables=tables[1])
        self.sampler = Sampler(sampling, list(range(num_rows)), length + shape.depth + 2, device)
        self.age = torch.zeros(num_rows, dtype=torch.int64, device=device)  # [B] tokens of the answer so far
        self.active = torch.ones(num_rows, dtype=torch.bool, device=device)
        self.root = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.packed = torch.zeros(num_rows, 2 * shape.depth + 4, dtype=torch.int64, device=device)
        self.state = torch.empty(0, device=device)  # [B, S] the draft's, after it has read the root
        self.most_prefilled, self.padded = most_prefilled(base), as_long
        self.read: Callable[[PromptPart], object] = self.read_part

    def prefill(self, prompts: list[list[int]], kept: list[int] | None = None) -> None:
        """Read the prompts with both models, part by part; the base chooses the first token of every answer.

        Args:
            prompts: token ids of each row.
            kept: tokens at the start of each prompt that both caches hold already, below its length; the token behind
                them must be the old one too, because the draft has read it with the last of them. None = no tokens.
        """
        self.active.fill_(True)
        for part in prompt_parts(self.base, prompts, kept, self.most_prefilled, self.padded):
            self.read(part)
        self.age.fill_(1)
        for cache in (self.base_cache, self.draft_cache):
            cache.restart([len(prompt) for prompt in prompts])

    def read_part(self, part: PromptPart) -> None:
        """Read a part with both models; behind the last one stand the roots and the draft's states."""
        for cache in (self.base_cache, self.draft_cache):
            cache.stage(part.slots, visible=part.visible)
        output = self.base.forward(
            part.ids,
            positions=part.positions,
            mask=part.mask,
            cache=self.base_cache,
            layers=self.draft.captured_layers,
        )
        # The draft reads pairs (x_{t+1}, f_t): the prompt moved by one, the root last.
        rows, tokens = torch.arange(part.ids.shape[0], device=self.root.device), part.following
        if part.last:
            logits = self.base.logits(output.hidden[rows, part.ends])
            self.root.copy_(self.sampler.choose(logits[:, None], torch.zeros_like(self.age)[:, None])[:, 0])
            tokens = torch.where(part.behind, self.root[:, None], tokens)
        start = self.draft.first_state(self.draft.base_features(output))
        state = self.draft(tokens, start, positions=part.positions, mask=part.mask, cache=self.draft_cache)
        if part.last:
            self._continue_from(state[rows, part.ends])

    def propose(self) -> DraftTree:
        """Grow a tree below every root."""
        return propose(self.draft, self.root, self.state, self.draft_cache, self.shape)

    def verify(self, tree: DraftTree) -> tuple[Verdict, Tensor, Tensor]:
        """Forward root and nodes through the base at once; features [B, N+1, F] and logits [B, N+1, V] come along."""
        return self.judge(tree, self.forward(tree, *self.stage(tree)))

    def stage(self, tree: DraftTree) -> tuple[Tensor, Tensor, Tensor | None]:
        """Say where the base's cache takes the nodes; their positions [B, N+1], mask [B, 1, N+1, S], and its bounds."""
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
        mask = mask[:, None]
        return positions, mask, key_bounds(mask) if is_fused(mask) else None

    def forward(self, tree: DraftTree, positions: Tensor, mask: Tensor, bounds: Tensor | None) -> BaseOutput:
        """Root and nodes through the base.

        Args:
            tree: [B, N+1] nodes.
            positions: [B, N+1], of `stage`.
            mask: [B, 1, N+1, S], of `stage`.
            bounds: [B, 2], of `stage`.
        """
        return self.base.forward(
            tree.tokens,
            positions=positions,
            mask=mask,
            cache=self.base_cache,
            layers=self.draft.captured_layers,
            bounds=bounds,
        )

    def judge(self, tree: DraftTree, output: BaseOutput) -> tuple[Verdict, Tensor, Tensor]:
        """What `verify` returns, of the base's states."""
        logits = self.base.logits(output.hidden)
        choices = self.sampler.choose(logits, self.age[:, None] + tree.depths)
        verdict = verify(tree, choices, self.shape.depth)
        if self.most_per_step is not None:
            verdict = verdict.cut(self.most_per_step - 1)
        return verdict, self.draft.base_features(output), logits

    def commit(self, tree: DraftTree, verdict: Verdict, features: Tensor) -> None:
        """Pack what the cycle did; the draft re-reads the accepted path with the features [B, N+1, F] of the base.

        `keep` has to follow.
        """
        last = verdict.path.gather(1, verdict.num_accepted[:, None])  # [B, 1]
        children = (tree.parents[:, 1:] == last).sum(-1)
        ranks = sibling_ranks(tree.parents).gather(1, verdict.path[:, 1:])  # [B, D]
        counts = torch.where(self.active, verdict.num_accepted + 1, 0)
        columns = [counts[:, None], verdict.num_accepted[:, None], children[:, None], ranks, verdict.tokens]
        self.packed.copy_(torch.cat(columns, dim=1))
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
        self._continue_from(state[rows, verdict.num_accepted])
        self.root.copy_(verdict.tokens[rows, verdict.num_accepted])
        cache.advance(counts)
        self.age.add_(counts)

    def keep(self, verdict: Verdict) -> None:
        """Keep the accepted path in the base's cache."""
        self.base_cache.keep(verdict.path, self.packed[:, 0])

    def count(self, host_counts: list[int]) -> None:
        """Tell the caches on the host what a cycle committed."""
        self.base_cache.count(host_counts)
        self.draft_cache.count(host_counts)

    def _continue_from(self, state: Tensor) -> None:
        if self.state.shape != state.shape:
            self.state = torch.empty_like(state)
        self.state.copy_(state)


class PlainRows:
    """Rows of answers that the base writes alone; rows can be refilled with other prompts as they end.

    Args:
        base: the model.
        num_rows: rows at most.
        length: most tokens of prompt and answer of a row.
        sampling: how tokens are chosen.
        fixed: a cache of fixed shape; no row can be given up then.
        tables: as in `SlotCache`.

    Attributes:
        last: [B] last token of each row.
        most_prefilled: tokens of all rows that one forward of `admit` reads at most.
        padded, read: as in `SpeculativeRows`, for prompts of all rows.
    """

    def __init__(
        self,
        base: BaseLM,
        num_rows: int,
        length: int,
        sampling: SamplingSpec,
        *,
        fixed: bool = False,
        tables: SlotTables | None = None,
    ) -> None:
        self.base = base
        self.cache = _cache(num_rows, length, base.device, fixed, tables=tables)
        self.sampler = Sampler(sampling, [0] * num_rows, self.cache.capacity, base.device)
        self.last = torch.zeros(num_rows, dtype=torch.int64, device=base.device)
        self._age = torch.zeros(num_rows, dtype=torch.int64, device=base.device)  # [B] tokens of the answer so far
        self.most_prefilled, self.padded = most_prefilled(base), as_long
        self.read: Callable[[PromptPart], Tensor] = self.read_part

    def admit(
        self, rows: list[int], prompts: list[list[int]], seeds: list[int], kept: list[int] | None = None
    ) -> list[int]:
        """Prefill prompts into rows, part by part; returns the first token of each answer.

        Args:
            rows: that the prompts go to.
            prompts: token ids of each.
            seeds: randomness of each.
            kept: tokens at the start of each prompt that its row holds already, below its length; None = no tokens.
        """
        where = torch.tensor(rows, device=self.base.device)
        whole, logits = rows == list(range(self.cache.num_rows)), torch.empty(0)
        for part in prompt_parts(self.base, prompts, kept, self.most_prefilled, self.padded if whole else as_long):
            logits = self.read(part) if whole else self.read_part(part, where)
        for row, prompt, seed in zip(rows, prompts, seeds, strict=True):
            self.cache.reset_row(row, len(prompt))
            self.sampler.replace_row(row, seed)
        # The sampler chooses for all rows at once; the logits of rows that are not admitted are not looked at.
        every = logits.new_zeros(self.cache.num_rows, logits.shape[-1])
        every[where] = logits
        chosen = self.sampler.choose(every[:, None], torch.zeros_like(self._age)[:, None])[:, 0]
        self.last[where] = chosen[where]
        self._age[where] = 1
        return chosen[where].tolist()

    def read_part(self, part: PromptPart, where: Tensor | None = None) -> Tensor:
        """Read a part into rows; the logits [R, V] behind the last tokens, of the last part only.

        Args:
            part: of R prompts.
            where: [R] rows that they go to; None = all rows, in order.
        """
        self.cache.stage(part.slots, visible=part.visible, rows=where)
        output = self.base.forward(part.ids, positions=part.positions, mask=part.mask, cache=self.cache)
        if not part.last:
            return output.hidden[:, 0, :0]
        return self.base.logits(output.hidden[torch.arange(len(part.ends), device=part.ends.device), part.ends])

    def advance(self) -> None:
        """One more token for every row, in `last`; nothing is told to the host."""
        self.choose(self.forward(*self.stage()))

    def stage(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Say where the cache takes the last tokens; their positions [B, 1], mask [B, 1, 1, S], and its bounds."""
        cache = self.cache
        mask: Tensor | None = None
        if cache.num_rows == 1 and not cache.fixed:
            visible = cache.host_lengths[0] + 1  # exactly what there is: no mask needed
        else:
            visible = cache.visible_for(1)
            mask = (torch.arange(visible, device=self.last.device) <= cache.lengths[:, None])[:, None, None]
        # A row that has ended may be stepped beyond its room: it then overwrites its own last slot.
        slots = cache.lengths[:, None].clamp(max=cache.capacity - 1)
        positions = slots.clamp(max=self.base.max_length - 1)
        cache.stage(slots, visible=visible)
        return positions, mask, key_bounds(mask) if mask is not None and is_fused(mask) else None

    def forward(self, positions: Tensor, mask: Tensor | None, bounds: Tensor | None) -> Tensor:
        """The last tokens through the base, with positions [B, 1], mask [B, 1, 1, S] and bounds [B, 2]: [B, 1, H]."""
        tokens = self.last[:, None]
        return self.base.forward(tokens, positions=positions, mask=mask, cache=self.cache, bounds=bounds).hidden

    def choose(self, hidden: Tensor) -> None:
        """The next token of every row, of its hidden states [B, 1, H]."""
        cache = self.cache
        self.last.copy_(self.sampler.choose(self.base.logits(hidden), self._age[:, None])[:, 0])
        cache.advance(torch.ones_like(cache.lengths))
        self._age.add_(1)

    def step(self) -> list[int]:
        """One more token for every row, on the host."""
        self.advance()
        self.cache.count([1] * self.cache.num_rows)
        return self.last.tolist()

    def rest(self, row: int) -> None:
        """Row `row` has nothing to write for now. It goes on from an empty cache, so that it cannot outgrow it."""
        self.cache.reset_row(row, 0)

    def drop(self, row: int) -> None:
        """Give a row up; the last row takes its index."""
        last = self.cache.num_rows - 1
        self.cache.drop_row(row)
        self.sampler.move_row(last, row)
        for tensor in (self.last, self._age):
            tensor[row] = tensor[last]
        self.last, self._age = self.last[:last], self._age[:last]


def _cache(
    num_rows: int,
    capacity: int,
    device: torch.device,
    fixed: bool,
    fused: bool = False,
    tables: SlotTables | None = None,
) -> SlotCache:
    slots = -(-capacity // SLOT_STEP) * SLOT_STEP
    return SlotCache(num_rows, slots, device, fixed=fixed, fused=fused, tables=tables)
