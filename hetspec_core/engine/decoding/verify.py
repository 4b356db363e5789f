"""Verify: which nodes of a tree does the base accept?

At every node the base's own next token is chosen first (the likeliest, or sampled); a child is accepted when it is that
token. For children that are a deterministic function of the draft this is lossless verification for one-hot proposals
(EAGLE's rule; SpecInfer, arXiv 2305.09781, section 4.3, with q = delta): accepting children one by one with p(c) and
renormalising yields child c with probability p(c) and any other token with the rest, which is sampling from p.
It knows trees and choices, not models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetspec_core.engine.decoding.tree import DraftTree


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
