"""`records.pack` as one Triton kernel: one launch per step instead of forty, which would slow the serving thread.

There is one program per node, and one per request for the bonus token. A program finds the parent of its node, and
reads the base's logits there once. SGLang requires Triton; nothing else imports this module.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnreachable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl

from hetspec_core.sglang.plugin.records import MOST_ROWS, Packed, VerifyBatch

_BLOCK = 4096


@triton.jit
def _tell(
    numbers,  # [rows, columns] int32
    values,  # the same memory as float32
    draft_token,
    links,
    scores,
    logits,
    predict,
    accept_index,
    accept_lens,
    seq_lens,
    columns,
    links_width,
    num_parents,
    scores_width,
    logits_width,
    vocabulary,
    topk,
    depth: tl.constexpr,  # D+1
    nodes: tl.constexpr,  # N+1
    has_scores: tl.constexpr,
    has_parents: tl.constexpr,
    chain: tl.constexpr,
    padded_nodes: tl.constexpr,
    padded_depth: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    node = tl.program_id(1)
    is_bonus = node == nodes
    committed = tl.load(accept_lens + row).to(tl.int32)
    end = tl.minimum(tl.maximum(committed - 1, 0), depth - 1)
    last = tl.load(accept_index + row * depth + end).to(tl.int64) - row * nodes
    last = tl.maximum(last, 0)  # -1 in the batch's numbering is the root
    bonus = tl.load(predict + row * nodes + last).to(tl.int64)

    if chain:
        parent = tl.maximum(node - 1, 0).to(tl.int64)
    elif has_parents:
        at = tl.arange(0, padded_nodes)
        numbered = links + row * links_width + num_parents
        candidates = tl.load(numbered + at, mask=at < nodes - 1, other=-1).to(tl.int64)
        own = tl.load(numbered + tl.minimum(tl.maximum(node - 1, 0), nodes - 2)).to(tl.int64)
        group = own // topk
        wanted = tl.load(links + row * links_width + tl.minimum(group, num_parents - 1)).to(tl.int64)
        place = tl.min(tl.where((candidates == wanted) & (at < nodes - 1), at, padded_nodes), axis=0)
        place = tl.where(place == padded_nodes, 0, place) + 1
        parent = tl.where((group == 0) | (node == 0), 0, place).to(tl.int64)
    else:
        parent = tl.zeros([], dtype=tl.int64)

    token = tl.load(draft_token + row * nodes + tl.minimum(node, nodes - 1)).to(tl.int64)
    token = tl.where(is_bonus, bonus, token)
    source = tl.where(is_bonus, last, parent)
    line = logits + (row * nodes + source) * logits_width
    chosen = tl.load(line + token).to(tl.float32)
    peak = tl.full([block], -1e30, dtype=tl.float32)  # not -inf: a difference of two would be no number
    total = tl.zeros([block], dtype=tl.float32)
    above = tl.zeros([block], dtype=tl.int32)
    for start in range(0, vocabulary, block):
        column = start + tl.arange(0, block)
        logit = tl.load(line + column, mask=column < vocabulary, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(peak, logit)
        total = total * tl.exp(peak - higher) + tl.exp(logit - higher)
        peak = higher
        above += (logit > chosen).to(tl.int32)
    highest = tl.max(peak, axis=0)
    norm = highest + tl.log(tl.sum(total * tl.exp(peak - highest), axis=0))
    probability = tl.exp(chosen - norm)

    into = numbers + row * columns
    floats = values + row * columns + 3 * nodes + depth + 3
    if is_bonus:
        step = tl.arange(0, padded_depth)
        path = tl.load(accept_index + row * depth + step, mask=step < depth, other=-1).to(tl.int64)
        path = tl.where(path >= 0, path - row * nodes, -1)
        tl.store(into + 3 * nodes + step, path.to(tl.int32), mask=step < depth)
        tl.store(into + 3 * nodes + depth, committed)
        tl.store(into + 3 * nodes + depth + 1, bonus.to(tl.int32))
        tl.store(into + 3 * nodes + depth + 2, tl.load(seq_lens + row).to(tl.int32))
        tl.store(floats + 2 * nodes, probability)
    else:
        tl.store(into + node, token.to(tl.int32))
        tl.store(into + nodes + node, parent.to(tl.int32))
        tl.store(into + 2 * nodes + node, tl.sum(above, axis=0))
        if has_scores:
            told = tl.load(scores + row * scores_width + tl.maximum(node - 1, 0)).to(tl.float32)
        else:
            told = tl.full([], float("nan"), dtype=tl.float32)
        tl.store(floats + node, tl.where(node == 0, 1.0, told))
        tl.store(floats + nodes + node, probability)


def pack_at_once(step: VerifyBatch, most_rows: int = MOST_ROWS) -> Packed:
    """As `records.pack`; probabilities differ by rounding."""
    nodes, depth = step.num_nodes, step.accept_index.shape[1]
    rows = min(step.num_requests, most_rows)
    columns = Packed.columns(nodes, depth - 1)
    numbers = torch.empty(rows, columns, dtype=torch.int32, device=step.logits.device)
    scores = step.scores
    _tell[(rows, nodes + 1)](  # pyright: ignore[reportIndexIssue] - the decorator makes it a kernel
        numbers,
        numbers.view(torch.float32),
        step.draft_token,
        step.links,
        step.logits if scores is None else scores,
        step.logits,
        step.predict,
        step.accept_index,
        step.accept_lens,
        step.seq_lens,
        columns,
        step.links.stride(0),
        step.num_parents,
        0 if scores is None else scores.stride(0),
        step.logits.stride(0),
        step.logits.shape[-1],
        step.topk,
        depth=depth,
        nodes=nodes,
        has_scores=scores is not None,
        has_parents=step.num_parents > 0,
        chain=step.topk == 1,
        padded_nodes=triton.next_power_of_2(nodes),
        padded_depth=triton.next_power_of_2(depth),
        block=_BLOCK,
        num_warps=8,  # type: ignore[call-arg] - an option of the launch, not of the kernel
    )
    return Packed(numbers, nodes)
