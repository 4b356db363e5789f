"""One verify step of SGLang as a record: packed from its tensors on the device, unpacked on the host later.

Numbering: node 0 of a request is the root. Candidate c of the draft is the c-th entry of its flattened score list: the
first topk ones are children of the root, then topk for every node that was expanded. `top_scores_index` says which
candidates became nodes 1..N, in rising order, so parents come before children. The parent of candidate c is the entry
c // topk of `parent_list`, itself a candidate; entry 0 is the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hetspec_core.sglang.plugin import RECORD_VERSION

MOST_ROWS = 8
"""Requests of a batch whose trees are sent; a viewer does not look at all of a large batch."""

_COLUMNS = 3  # integers per node: token, parent, rank


@dataclass(frozen=True)
class VerifyBatch:
    """SGLang's tensors of a verify step of B requests.

    Attributes:
        draft_token: [B (N+1)] the root of every request, then its nodes.
        links: [B, P + N] candidate numbers of the expanded nodes (P; entry 0 stands for the root), then of the nodes,
            rising.
        topk: children per expanded node.
        scores: [B or more, N] cumulative draft probabilities, or None.
        logits: [B (N+1), V] of the base at every node.
        predict: [B (N+1)] the token after each accepted node.
        accept_index: [B, D+1] accepted nodes, numbered through the batch, root first, -1 behind the last.
        accept_lens: [B] committed tokens, bonus included.
        seq_lens: [B] tokens before the step, the root not counted.
    """

    draft_token: Tensor
    links: Tensor
    topk: int
    scores: Tensor | None
    logits: Tensor
    predict: Tensor
    accept_index: Tensor
    accept_lens: Tensor
    seq_lens: Tensor

    @property
    def num_requests(self) -> int:
        return self.links.shape[0]

    @property
    def num_nodes(self) -> int:
        """N+1 of one request, the root counted."""
        return self.draft_token.shape[0] // self.num_requests

    @property
    def num_parents(self) -> int:
        """P."""
        return self.links.shape[1] - self.num_nodes + 1


@dataclass(frozen=True)
class Packed:
    """The steps of a batch in one tensor, so that one copy brings them to the host.

    Attributes:
        numbers: [B, 3 (N+1) + D + 4 + 2 (N+1) + 1] int32. Integers first: tokens, parents, ranks; accepted nodes, root
            first, -1 behind the last; number of committed tokens, bonus token, length of the base's cache before the
            step. Then the bits of float32: cumulative draft probabilities (NaN = unknown), base probabilities, that of
            the bonus.
        nodes: N+1.
    """

    numbers: Tensor
    nodes: int

    @staticmethod
    def columns(nodes: int, depth: int) -> int:
        """Width of `numbers` for trees of N+1 nodes and depth D."""
        return Packed.first_float(nodes, depth) + 2 * nodes + 1

    @staticmethod
    def first_float(nodes: int, depth: int) -> int:
        """Column of the first one that is a float."""
        return _COLUMNS * nodes + depth + 4


def parents_of(parent_list: Tensor, top_scores_index: Tensor, topk: int) -> Tensor:
    """Parents by node number.

    Args:
        parent_list: [B, P] candidate numbers of the expanded nodes; entry 0 stands for the root.
        top_scores_index: [B, N] candidate numbers of the nodes, rising.
        topk: children per expanded node.

    Returns:
        [B, N+1] index of the parent; 0 for the root and its children.
    """
    rows, count = top_scores_index.shape
    if topk == 1:
        chain = torch.arange(-1, count, device=top_scores_index.device).clamp(min=0)
        return chain.expand(rows, -1)
    group = top_scores_index // topk  # [B, N]
    if parent_list.shape[1] == 0:
        return top_scores_index.new_zeros(rows, count + 1)
    candidate = parent_list.gather(1, group.clamp(max=parent_list.shape[1] - 1))  # [B, N]
    found = (top_scores_index[:, None, :] == candidate[:, :, None]).to(torch.int8).argmax(-1) + 1
    parents = torch.where(group == 0, 0, found)
    return torch.cat([parents.new_zeros(rows, 1), parents], dim=1)


@torch.no_grad()
def pack(step: VerifyBatch, most_rows: int = MOST_ROWS) -> Packed:
    """Pack what a record needs on the tensors' device, without waiting. `pack_kernel` does the same in one launch.

    Args:
        step: the step.
        most_rows: the first so many requests of the batch are packed.
    """
    nodes, logits = step.num_nodes, step.logits
    rows = min(step.num_requests, most_rows)
    links = step.links[:rows].long()
    parents = parents_of(links[:, : step.num_parents], links[:, step.num_parents :], step.topk)
    tokens = step.draft_token.view(-1, nodes)[:rows].long()
    all_logits = logits.view(-1, nodes, logits.shape[-1])[:rows]
    norms = all_logits.float().logsumexp(-1)  # [B, N+1]
    at_parent = all_logits.gather(1, parents[..., None].expand(-1, -1, logits.shape[-1]))  # [B, N+1, V]
    chosen = at_parent.gather(2, tokens[..., None])  # [B, N+1, 1]
    ranks = (at_parent > chosen).sum(-1)
    base = (chosen[..., 0].float() - norms.gather(1, parents)).exp()
    offsets = torch.arange(rows, device=tokens.device)[:, None] * nodes
    accepted = step.accept_index[:rows].long()
    local = torch.where(accepted >= 0, accepted - offsets, -1)
    committed = step.accept_lens[:rows].long()[:, None]
    last = local.gather(1, (committed - 1).clamp(min=0, max=local.shape[1] - 1)).clamp(min=0)  # [B, 1]
    bonus = step.predict.view(-1, nodes)[:rows].long().gather(1, last)
    at_last = all_logits.gather(1, last[..., None].expand(-1, -1, logits.shape[-1]))[:, 0]
    bonus_prob = (at_last.gather(1, bonus).float() - norms.gather(1, last)).exp()
    lengths = step.seq_lens[:rows].long()[:, None]
    integers = torch.cat([tokens, parents, ranks, local, committed, bonus, lengths], dim=1)
    scores = step.scores
    told = torch.full((rows, nodes - 1), float("nan"), device=base.device) if scores is None else scores[:rows].float()
    floats = torch.cat([torch.ones_like(base[:, :1]), told, base, bonus_prob], dim=1)
    return Packed(torch.cat([integers.int(), floats.view(torch.int32)], dim=1), nodes)


def unpack(packed: Packed, request_ids: Sequence[str], at: float, dropped: int) -> list[dict[str, Any]]:
    """The records of a batch.

    Args:
        packed: the batch, on the host.
        request_ids: [B] of the requests.
        at: when the step was made, seconds since the epoch.
        dropped: batches that were dropped so far.
    """
    nodes = packed.nodes
    first = packed.numbers.shape[1] - 2 * nodes - 1
    floats = packed.numbers[:, first:].contiguous().view(torch.float32)
    found = []
    for request_id, numbers, values in zip(request_ids, packed.numbers[:, :first].tolist(), floats.tolist()):
        tokens, parents, ranks = (numbers[part * nodes : (part + 1) * nodes] for part in range(_COLUMNS))
        *accepted, committed, bonus, before = numbers[_COLUMNS * nodes :]
        found.append(
            {
                "v": RECORD_VERSION,
                "rid": request_id,
                "at": at,
                "dropped": dropped,
                "tokens": tokens,
                "parents": parents,
                "base_ranks": [0, *ranks[1:]],
                "scores": [value if value == value else None for value in values[:nodes]],
                "base_probs": [1.0, *values[nodes + 1 : 2 * nodes]],
                "path": [node for node in accepted[1:committed] if node > 0],
                "bonus": bonus,
                "bonus_prob": values[2 * nodes],
                "kv_tokens": before,
            }
        )
    return found
