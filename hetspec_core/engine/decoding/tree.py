"""Draft trees as tensors: who may look at whom, which candidates to keep, and which nodes the base accepts.

No Python loop over nodes anywhere. It knows no models, caches or sampling.

At every node the base's own next token is chosen first (the likeliest, or sampled); a child is accepted when it is that
token. For children that are a deterministic function of the draft this is lossless verification for one-hot proposals
(EAGLE's rule; SpecInfer, arXiv 2305.09781, section 4.3, with q = delta): accepting children one by one with p(c) and
renormalising yields child c with probability p(c) and any other token with the rest, which is sampling from p.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetspec_core.engine.modeling.fusion import is_fused


@dataclass(frozen=True)
class DraftTree:
    """A batch of draft trees, nodes in level order (a parent stands before its children).

    Index 0 is the root (the last committed token, not a draft token); index i+1 is node i.

    Attributes:
        tokens: [B, N+1] token ids of the base's vocabulary; column 0 is the root.
        parents: [B, N+1] index of the parent; the root's is 0.
        log_probs: [B, N+1] float32, log q of the token given its parent; 0 for the root.
        scores: [B, N+1] float32, sum of log_probs from the root.
        ancestors: [B, N+1, N+1] bool, [i, j] = j is i or above it.
    """

    tokens: Tensor
    parents: Tensor
    log_probs: Tensor
    scores: Tensor
    ancestors: Tensor

    @property
    def num_nodes(self) -> int:
        return self.tokens.shape[1] - 1

    @property
    def depths(self) -> Tensor:
        """[B, N+1] int64, 0 for the root."""
        return self.ancestors.sum(-1) - 1


def ancestor_matrix(parents: Tensor, max_depth: int) -> Tensor:
    """Who is above whom, by pointer doubling: log2(depth) gathers.

    Args:
        parents: [B, M] index of each one's parent; a root points to itself.
        max_depth: an upper bound of the depth.

    Returns:
        [B, M, M] bool, [i, j] = j is i or an ancestor of i.
    """
    size = parents.shape[1]
    above = torch.eye(size, dtype=torch.bool, device=parents.device).expand(parents.shape[0], size, size)
    jump, reach = parents, 1  # `above` covers distances below `reach`; `jump` leads `reach` levels up
    while reach <= max_depth:
        above = above | above.gather(1, jump[:, :, None].expand(-1, -1, size))
        jump = jump.gather(1, jump)
        reach *= 2
    return above


def best_first(scores: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the largest of [B, C] scores, largest first; the lower index comes first among equals."""
    if not is_fused(scores):
        return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :count]
    # A sort is many small kernels; counting how many are ahead of each is one.
    index = torch.arange(scores.shape[1], device=scores.device)
    other, own = scores[:, None, :], scores[:, :, None]
    ahead = (other > own) | ((other == own) & (index < index[:, None]))  # [B, C, C]
    is_at = ahead.sum(-1)[:, None] == torch.arange(count, device=scores.device)[:, None]  # [B, count, C]
    return torch.where(is_at, index, 0).sum(-1)


def sibling_ranks(parents: Tensor) -> Tensor:
    """How many siblings stand before each node, which the draft held likelier.

    Args:
        parents: [B, N+1] of a tree.

    Returns:
        [B, N+1] int64; 0 for the root.
    """
    index = torch.arange(parents.shape[1], device=parents.device)
    before = (index < index[:, None]) & (index > 0)  # the root is its own parent, but no sibling
    return ((parents[:, :, None] == parents[:, None, :]) & before).sum(-1)


def select_best(scores: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the best candidates, ascending.

    Ties go to the lower index. Candidates stand in level order and a child never scores above its parent, so the
    chosen set is closed under ancestors, ties included.

    Args:
        scores: [B, C] float32 cumulative log-probabilities in level order.
        count: how many; at most C.
    """
    chosen = best_first(scores, count)
    return chosen.gather(1, best_first(-chosen, count))


def build_tree(
    root: Tensor, tokens: Tensor, parents: Tensor, log_probs: Tensor, scores: Tensor, *, num_nodes: int, max_depth: int
) -> DraftTree:
    """Keep the best candidates as a tree.

    Args:
        root: [B] last committed token.
        tokens: [B, C] candidates in level order.
        parents: [B, C] candidate index of the parent, -1 for children of the root.
        log_probs: [B, C] log q given the parent.
        scores: [B, C] cumulative.
        num_nodes: N; all candidates when there are fewer.
        max_depth: D.
    """
    count = min(num_nodes, tokens.shape[1])
    chosen = select_best(scores, count)  # [B, N]
    # Position of every candidate among the chosen ones, shifted by one for the root; -1 maps to the root itself.
    place = torch.zeros(tokens.shape[0], tokens.shape[1] + 1, dtype=torch.int64, device=tokens.device)
    place.scatter_(1, chosen + 1, torch.arange(1, count + 1, device=tokens.device).expand_as(chosen))
    kept_parents = place.gather(1, parents.gather(1, chosen) + 1)

    def with_root(values: Tensor, first: Tensor) -> Tensor:
        return torch.cat([first[:, None].to(values.dtype), values.gather(1, chosen)], dim=1)

    zero = torch.zeros_like(root)
    all_parents = torch.cat([zero[:, None], kept_parents], dim=1)
    return DraftTree(
        tokens=with_root(tokens, root),
        parents=all_parents,
        log_probs=with_root(log_probs, zero),
        scores=with_root(scores, zero),
        ancestors=ancestor_matrix(all_parents, max_depth),
    )


@dataclass(frozen=True)
class Verdict:
    """What the base made of a batch of trees.

    Attributes:
        path: [B, D+1] tree indices from the root down the accepted nodes; entries behind `num_accepted` repeat index 0.
        num_accepted: [B] accepted draft tokens (0..D); the path has num_accepted + 1 entries.
        tokens: [B, D+1] committed tokens: the accepted ones, then the bonus token; entries behind it are meaningless.
    """

    path: Tensor
    num_accepted: Tensor
    tokens: Tensor

    def cut(self, most: int) -> Verdict:
        """The same, as if no more than `most` nodes had been accepted; the bonus token is the base's choice there."""
        return replace(self, num_accepted=self.num_accepted.clamp(max=most))


def verify(tree: DraftTree, choices: Tensor, max_depth: int) -> Verdict:
    """Walk every tree along the base's choices.

    Args:
        tree: B trees of N nodes.
        choices: [B, N+1] the base's next token after each index of the tree.
        max_depth: D, an upper bound of the depth.
    """
    agrees = tree.tokens == choices.gather(1, tree.parents)  # [B, N+1]
    agrees[:, 0] = True
    depths = tree.depths
    alive = (tree.ancestors & ~agrees[:, None]).sum(-1) == 0  # the whole way up agrees
    # Siblings differ, so the living nodes form one path, and the deepest of them is its end.
    last = torch.where(alive, depths, -1).argmax(-1)  # [B]
    num_accepted = depths.gather(1, last[:, None])[:, 0]
    on_path = tree.ancestors.gather(1, last[:, None, None].expand(-1, 1, tree.ancestors.shape[-1]))[:, 0]  # [B, N+1]
    path = torch.zeros(tree.tokens.shape[0], max_depth + 1, dtype=torch.int64, device=choices.device)
    index = torch.arange(tree.tokens.shape[1], device=choices.device).expand_as(depths)
    path.scatter_add_(1, depths, torch.where(on_path, index, 0))  # one node per depth
    # The token committed behind each accepted index is the base's choice there: the next node, or the bonus.
    return Verdict(path=path, num_accepted=num_accepted, tokens=choices.gather(1, path))
