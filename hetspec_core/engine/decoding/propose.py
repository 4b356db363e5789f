"""Propose: grow the EAGLE-2 dynamic tree (arXiv 2406.16858, section 4) with the draft.

Level by level the K best nodes are expanded into K children each; in the end the N best of all candidates are kept.
It knows the draft and its cache, not the base.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetspec_core.engine.decoding.kv_cache import SlotCache
from hetspec_core.engine.decoding.tree import DraftTree, best_first, build_tree
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.fusion import is_fused
from hetspec_core.spec import TreeSpec


def tree_slots(shape: TreeSpec) -> int:
    """Slots that proposing needs behind the committed ones in the draft's cache: the expanded nodes."""
    return (shape.depth - 1) * shape.top_k


def propose(draft: DraftLM, root: Tensor, state: Tensor, cache: SlotCache, shape: TreeSpec) -> DraftTree:
    """Grow a draft tree below the root.

    Args:
        draft: the draft.
        root: [B] last committed token x_n.
        state: [B, S] the draft's state after reading (x_n, f_{n-1}); its logits are the children of the root.
        cache: the draft's cache with the n committed pairs; slots behind them are overwritten.
        shape: depth D, top_k K, num_draft_tokens N.

    Returns:
        The tree, with min(N, K + (D-1) K^2) nodes.
    """
    width = min(shape.top_k, draft.vocab_size)
    rows, device = root.shape[0], root.device
    log_probs, tokens = _children(draft, state, width)  # [B, K]
    scores = log_probs
    all_tokens, all_log_probs, all_scores = [tokens], [log_probs], [scores]
    all_parents = [torch.full_like(tokens, -1)]

    above = state[:, None].expand(-1, width, -1)  # the state that each node of the frontier continues
    frontier_tokens, frontier_scores = tokens, scores
    frontier = torch.arange(width, device=device).expand(rows, -1)  # their indices among all candidates
    chain = torch.zeros(rows, width, 0, dtype=torch.bool, device=device)  # expanded nodes above each frontier node
    order = torch.arange(width, device=device)
    for level in range(1, shape.depth):
        chain = torch.cat([chain, (order[:, None] == order).expand(rows, -1, -1)], dim=2)  # and itself
        state = _expand(draft, frontier_tokens, above, cache, chain, level)  # [B, K, S]
        log_probs, tokens = _children(draft, state, width)  # [B, K, K]
        scores = frontier_scores[:, :, None] + log_probs
        first = sum(part.shape[1] for part in all_tokens)
        all_tokens.append(tokens.flatten(1))
        all_log_probs.append(log_probs.flatten(1))
        all_scores.append(scores.flatten(1))
        all_parents.append(frontier[:, :, None].expand(-1, -1, width).flatten(1))
        if level + 1 == shape.depth:
            break
        # The order of the last selection: ties must fall the same way for the set to stay closed.
        best = best_first(scores.flatten(1), width)
        parent = best // width  # which of the frontier they continue
        frontier = first + best
        frontier_tokens, frontier_scores = tokens.flatten(1).gather(1, best), scores.flatten(1).gather(1, best)
        above = state.gather(1, parent[:, :, None].expand(-1, -1, state.shape[-1]))
        chain = chain.gather(1, parent[:, :, None].expand(-1, -1, chain.shape[-1]))
    return build_tree(
        root,
        torch.cat(all_tokens, dim=1),
        torch.cat(all_parents, dim=1),
        torch.cat(all_log_probs, dim=1),
        torch.cat(all_scores, dim=1),
        num_nodes=shape.num_draft_tokens,
        max_depth=shape.depth,
    )


def _children(draft: DraftLM, state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` likeliest next tokens: log q [..., K] float32 and base token ids [..., K]."""
    values, ids, total = _top(draft.logits(state).float(), width)
    # Never above zero, whatever the rounding: a child must not score above its parent.
    return (values - total[..., None]).clamp(max=0.0), draft.to_base_ids(ids)


def _top(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of [..., V] logits: values [..., count], largest first; their ids; logsumexp [...] of all."""
    if is_fused(logits):
        from hetspec_core.engine.modeling.kernels import top_candidates

        return top_candidates(logits, count)
    top = logits.topk(count, dim=-1)
    return top.values, top.indices, logits.logsumexp(-1)


def _expand(draft: DraftLM, tokens: Tensor, above: Tensor, cache: SlotCache, chain: Tensor, level: int) -> Tensor:
    """Forward one level of the tree: [B, K] tokens with the states they continue -> [B, K, S]."""
    width = tokens.shape[1]
    offset = (level - 1) * width
    slots = cache.lengths[:, None] + offset + torch.arange(width, device=tokens.device)
    visible = cache.visible_for(offset + width)
    mask = cache.prefix_mask(visible)[:, None].repeat(1, width, 1)  # [B, K, visible]
    tree_slot = cache.lengths[:, None] + torch.arange(offset + width, device=tokens.device)
    mask.scatter_(2, tree_slot[:, None].expand(-1, width, -1), chain)
    cache.stage(slots, visible=visible)
    positions = (cache.lengths + level - 1)[:, None].expand(-1, width)
    return draft(tokens, above, positions=positions, mask=mask[:, None], cache=cache)
