"""Triton kernels of decoding on a GPU; each has a readable twin, which it is tested against.

| kernel | twin |
| --- | --- |
| `masked_attention` | `attention.attend` with a mask |
| `top_candidates` | `Tensor.topk` and `Tensor.logsumexp` |
| `move_slots` | `SlotCache.keep`, table by table |

They are called inside programs that `torch.compile` fuses, except `move_slots`, which a graph captures behind them.
Importing this module needs Triton.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnreachable=false, reportIndexIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 132  # of a launch: one for every multiprocessor of the largest cards
_LOGITS = 2048  # logits that a program searches


def _power_of_two(size: int) -> int:
    """The lowest one that is not below `size`."""
    return 1 << (size - 1).bit_length()


@triton.jit
def _attend_part(
    query, key, value, mask, bounds, out, lse,
    q_row, q_head, q_token, k_row, k_head, k_slot, v_row, v_head, v_slot, m_row, m_token, m_slot,
    b_row,
    num_keys,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, SPLITS: tl.constexpr,
    SCALE: tl.constexpr, SOFTCAP: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, LANES: tl.constexpr, VALUE_LANES: tl.constexpr,
):  # fmt: skip
    """One block of folded queries of a key/value head over every SPLITS-th block of keys.

    The query heads of a group share their keys, so they are rows of one product: row = head in group * TOKENS + token.
    Keys outside `bounds` are hidden from all tokens: those behind the row's length, and before a window.
    """
    block, part = tl.program_id(0), tl.program_id(2)
    batch, kv_head = tl.program_id(1) // KV_HEADS, tl.program_id(1) % KV_HEADS
    rows = block * ROWS + tl.arange(0, ROWS)
    token, head = rows % TOKENS, kv_head * GROUP + rows // TOKENS
    is_row = rows < GROUP * TOKENS
    lanes, value_lanes, keys = tl.arange(0, LANES), tl.arange(0, VALUE_LANES), tl.arange(0, KEYS)
    q = tl.load(
        query + batch * q_row + head[:, None] * q_head + token[:, None] * q_token + lanes[None, :],
        mask=is_row[:, None] & (lanes < WIDTH)[None, :],
        other=0.0,
    )  # [ROWS, LANES]
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, VALUE_LANES], tl.float32)
    start, end = tl.load(bounds + b_row * batch), tl.load(bounds + b_row * batch + 1)
    for first in range(start + part * KEYS, end, SPLITS * KEYS):
        slots = first + keys
        inside = slots < num_keys
        k = tl.load(
            key + batch * k_row + kv_head * k_head + slots[None, :] * k_slot + lanes[:, None],
            mask=inside[None, :] & (lanes < WIDTH)[:, None],
            other=0.0,
        )  # [LANES, KEYS]
        may_look = tl.load(
            mask + batch * m_row + token[:, None] * m_token + slots[None, :] * m_slot,
            mask=is_row[:, None] & inside[None, :],
            other=0,
        ).to(tl.int1)  # [ROWS, KEYS]
        scores = tl.dot(q, k, input_precision="ieee") * SCALE
        if SOFTCAP > 0:
            bent = tl.exp(-2.0 * tl.abs(scores / SOFTCAP))
            scores = tl.where(scores < 0, -SOFTCAP, SOFTCAP) * (1.0 - bent) / (1.0 + bent)
        scores = tl.where(may_look, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - anchor[:, None])
        shrink = tl.exp(best - anchor)
        v = tl.load(
            value + batch * v_row + kv_head * v_head + slots[:, None] * v_slot + value_lanes[None, :],
            mask=inside[:, None] & (value_lanes < VALUE_WIDTH)[None, :],
            other=0.0,
        )  # [KEYS, VALUE_LANES]
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        best = higher
    # [SPLITS, B, TOKENS, heads, VALUE_WIDTH] and, without the last axis, the logarithm of the weights' sum
    heads = KV_HEADS * GROUP
    line = ((part * tl.num_programs(1) // KV_HEADS + batch) * TOKENS + token) * heads + head
    tl.store(
        out + line[:, None] * VALUE_WIDTH + value_lanes[None, :],
        (mixed / tl.where(total == 0.0, 1.0, total)[:, None]).to(out.dtype.element_ty),
        mask=is_row[:, None] & (value_lanes < VALUE_WIDTH)[None, :],
    )
    tl.store(lse + line, best + tl.log(total), mask=is_row)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    bounds: Tensor,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """Attention of few queries over a table of keys, with grouped key/value heads.

    Args:
        query: [B, heads, T, head_dim].
        key: [B, kv_heads, S, head_dim].
        value: [B, kv_heads, S, value_dim].
        mask: [B or 1, 1, T, S] bool, True = may look.
        bounds: [B or 1, 2] of `attention.key_bounds`.
        scale: factor of the scores.
        softcap: as in `attention.attend`.

    Returns:
        [B, heads, T, value_dim], a view of a contiguous [B, T, heads, value_dim].
    """
    batch, heads, tokens, width = query.shape
    kv_heads, num_keys, value_width = key.shape[1], key.shape[2], value.shape[-1]
    group = heads // kv_heads
    rows = min(64, max(16, _power_of_two(group * tokens)))
    blocks = -(-group * tokens // rows)
    programs = blocks * batch * kv_heads
    keys = 32 if rows == 64 and programs > _PROGRAMS else 64  # of a block; measured on an H200
    splits = max(1, min(-(-num_keys // keys), _PROGRAMS // programs))
    lanes, value_lanes = max(16, _power_of_two(width)), max(16, _power_of_two(value_width))
    query, key, value = (part if part.stride(-1) == 1 else part.contiguous() for part in (query, key, value))
    dtype = value.dtype if splits == 1 else torch.float32
    out = torch.empty(splits, batch, tokens, heads, value_width, dtype=dtype, device=query.device)
    lse = torch.empty(splits, batch, tokens, heads, dtype=torch.float32, device=query.device)
    mask, bounds = mask.expand(batch, 1, tokens, num_keys), bounds.expand(batch, 2)
    _attend_part[(blocks, batch * kv_heads, splits)](
        query, key, value, mask, bounds, out, lse,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        mask.stride(0), mask.stride(2), mask.stride(3), bounds.stride(0),
        num_keys,
        KV_HEADS=kv_heads, GROUP=group, TOKENS=tokens, SPLITS=splits, SCALE=scale, SOFTCAP=softcap or 0.0,
        WIDTH=width, VALUE_WIDTH=value_width, ROWS=rows, KEYS=keys, LANES=lanes, VALUE_LANES=value_lanes,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits == 1:
        return out[0].transpose(1, 2)
    weights = torch.softmax(lse, dim=0)  # [SPLITS, B, T, heads]; parts that saw nothing weigh nothing
    return (weights[..., None] * out).sum(0).to(value.dtype).transpose(1, 2)


@triton.jit
def _best_of_block(
    logits, values, ids, lse, row_stride, vocab, COUNT: tl.constexpr, PADDED: tl.constexpr, LOGITS: tl.constexpr
):
    """The COUNT largest of a block of logits, largest first, and the logarithm of the sum of their exponentials."""
    row, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    places = block * LOGITS + tl.arange(0, LOGITS)
    left = tl.load(logits + row * row_stride + places, mask=places < vocab, other=float("-inf")).to(tl.float32)
    top = tl.max(left, 0)
    tl.store(lse + row * blocks + block, top + tl.log(tl.sum(tl.exp(left - top), 0)))
    order = tl.arange(0, PADDED)
    best, found = tl.full([PADDED], float("-inf"), tl.float32), tl.zeros([PADDED], tl.int32)
    for index in range(COUNT):
        largest, place = tl.max(left, 0), tl.argmax(left, 0)
        best = tl.where(order == index, largest, best)
        found = tl.where(order == index, block * LOGITS + place, found)
        left = tl.where(places == block * LOGITS + place, float("-inf"), left)
    line = (row * blocks + block) * COUNT
    tl.store(values + line + order, best, mask=order < COUNT)
    tl.store(ids + line + order, found, mask=order < COUNT)


@triton.jit
def _best_of_row(
    values, ids, lse, best, best_ids, total, blocks,
    COUNT: tl.constexpr, PADDED: tl.constexpr, CANDIDATES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The COUNT largest of the candidates of a row's blocks."""
    row = tl.program_id(0)
    places = tl.arange(0, CANDIDATES)
    there = places < blocks * COUNT
    left = tl.load(values + row * blocks * COUNT + places, mask=there, other=float("-inf"))
    names = tl.load(ids + row * blocks * COUNT + places, mask=there, other=0)
    order = tl.arange(0, PADDED)
    largest_of, id_of = tl.full([PADDED], float("-inf"), tl.float32), tl.zeros([PADDED], tl.int64)
    for index in range(COUNT):
        largest, place = tl.max(left, 0), tl.argmax(left, 0)
        name = tl.sum(tl.where(places == place, names, 0), 0)
        largest_of = tl.where(order == index, largest, largest_of)
        id_of = tl.where(order == index, name.to(tl.int64), id_of)
        left = tl.where(places == place, float("-inf"), left)
    tl.store(best + row * COUNT + order, largest_of, mask=order < COUNT)
    tl.store(best_ids + row * COUNT + order, id_of, mask=order < COUNT)
    index = tl.arange(0, BLOCKS)
    part = tl.load(lse + row * blocks + index, mask=index < blocks, other=float("-inf"))
    top = tl.max(part, 0)
    tl.store(total + row, top + tl.log(tl.sum(tl.exp(part - top), 0)))


def top_candidates(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest logits of every row, in two stages: of blocks, then of what the blocks found.

    Args:
        logits: [..., V].
        count: k, at most V.

    Returns:
        values [..., k] float32, largest first; ids [..., k] int64, the lower one first among equals; logsumexp [...]
        float32 over V.
    """
    shape, vocab = logits.shape[:-1], logits.shape[-1]
    flat = logits.reshape(-1, vocab)
    rows, blocks, device = flat.shape[0], -(-vocab // _LOGITS), logits.device
    values = torch.empty(rows, blocks, count, dtype=torch.float32, device=device)
    ids = torch.empty(rows, blocks, count, dtype=torch.int32, device=device)
    lse = torch.empty(rows, blocks, dtype=torch.float32, device=device)
    padded = _power_of_two(count)
    _best_of_block[(rows, blocks)](
        flat, values, ids, lse, flat.stride(0), vocab, COUNT=count, PADDED=padded, LOGITS=_LOGITS
    )
    best = torch.empty(rows, count, dtype=torch.float32, device=device)
    best_ids = torch.empty(rows, count, dtype=torch.int64, device=device)
    total = torch.empty(rows, dtype=torch.float32, device=device)
    _best_of_row[(rows,)](
        values, ids, lse, best, best_ids, total, blocks,
        COUNT=count, PADDED=padded, CANDIDATES=_power_of_two(blocks * count),
        BLOCKS=_power_of_two(blocks),
    )  # fmt: skip
    return best.view(*shape, count), best_ids.view(*shape, count), total.view(shape)


@triton.jit
def _move(
    tables, lengths, path, counts, row_stride, head_stride, slot_stride, path_stride, count_stride,
    EXAMPLE, HEADS: tl.constexpr, STEPS: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Move the kept tokens of one row and head of one table: all are read before one is written."""
    row, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    table = tl.load(tables + tl.program_id(0)).to(EXAMPLE.dtype)
    length, count = tl.load(lengths + row), tl.load(counts + row * count_stride)
    steps, lanes = tl.arange(0, PADDED), tl.arange(0, LANES)
    kept = steps < tl.minimum(count, STEPS)
    source = length + tl.load(path + row * path_stride + steps, mask=kept, other=0)
    there = kept[:, None] & (lanes < WIDTH)[None, :]
    start = table + row.to(tl.int64) * row_stride + head * head_stride + lanes[None, :]
    moved = tl.load(start + source[:, None] * slot_stride, mask=there, other=0.0)
    tl.debug_barrier()  # what one thread writes may be what another has yet to read
    tl.store(start + (length + steps)[:, None] * slot_stride, moved, mask=there)


def table_pointers(tables: list[Tensor]) -> Tensor:
    """[L] int64 on the device: where the tables, all of one shape, lie."""
    return torch.tensor([table.data_ptr() for table in tables], dtype=torch.int64, device=tables[0].device)


def move_slots(pointers: Tensor, table: Tensor, lengths: Tensor, path: Tensor, counts: Tensor) -> None:
    """Move accepted tokens behind the committed ones in all tables at once.

    Args:
        pointers: [L] of `table_pointers`.
        table: one of the tables, [B, kv_heads, slots, width].
        lengths: [B] int64, committed tokens.
        path: [B, D+1] int64 offsets behind the length, ascending; room for all of them is there.
        counts: [B] int64, how many of the path are kept.
    """
    batch, heads, _, width = table.shape
    steps = path.shape[1]
    _move[(pointers.shape[0], batch * heads)](
        pointers, lengths, path, counts, *table.stride()[:3], path.stride(0), counts.stride(0), table,
        HEADS=heads, STEPS=steps, PADDED=_power_of_two(steps), WIDTH=width,
        LANES=_power_of_two(width),
    )  # fmt: skip
