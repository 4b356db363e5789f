"""Attention over the steps of a training-time test (EAGLE-3, arXiv 2503.01840, section 3.2), without the score matrix.

Step 0 is a causal pass over a sequence. Step k at position t looks at the keys of step 0 at positions 0..t and at the
keys of steps 1..k at position t itself: [T, T + k] scores of which all but k columns are those of ordinary attention.
The scores are computed block by block of queries, in the forward and again in the backward; what is kept between them
is the output and one log-sum-exp per query. It knows tensors and layer numbers; no models, no losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.modeling.attention import attend

BLOCK_ELEMENTS = 1 << 24  # float32 scores of one block: 64 MiB
# Products of each query with its own keys and values, batched over places: nothing of [.., T, k, d] is made for them.
_SCORES = "bhgtd,bhtkd->bhgtk"
_SUMS = "bhgtk,bhtkd->bhgtd"
_TURNED = "bhgtk,bhgtd->bhtkd"


class UnrolledKeys:
    """Keys and values of the steps so far, layer by layer; one object per unrolled sequence."""

    def __init__(self) -> None:
        self._dense: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of the next step of a layer.

        Args:
            layer: its number.
            query: [B, heads, T, head_dim].
            key, value: [B, kv_heads, T, head_dim] of this step.
            scale: factor of the scores.

        Returns:
            [B, heads, T, head_dim].
        """
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)  # rotary embeddings leave float32 behind
        if layer not in self._dense:
            self._dense[layer], self._own[layer] = (key, value), []
            return attend(query, key, value, None, scale)
        own = self._own[layer]
        own.append((key, value))
        keys, values = torch.stack([k for k, _ in own], 3), torch.stack([v for _, v in own], 3)
        return merged_attention(query, *self._dense[layer], keys, values, scale)


def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    scale: float,
    block_rows: int | None = None,
) -> Tensor:
    """Softmax over causal scores and the scores with each query's own keys, together.

    Args:
        query: [B, heads, T, d].
        key, value: [B, kv_heads, T, d] of step 0; query t sees 0..t.
        own_keys, own_values: [B, kv_heads, T, k, d]; query t sees those at t.
        scale: factor of the scores.
        block_rows: queries of one block; by the size of the scores when absent.

    Returns:
        [B, heads, T, d].
    """
    rows, heads, length, _ = query.shape
    block = block_rows or max(16, BLOCK_ELEMENTS // max(1, rows * heads * length))
    return _Merged.apply(query, key, value, own_keys, own_values, scale, block)  # type: ignore[return-value]


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        own_keys: Tensor,
        own_values: Tensor,
        scale: float,
        block: int,
    ) -> Tensor:
        rows, heads, length, width = query.shape
        kv_heads = key.shape[1]
        grouped = query.reshape(rows, kv_heads, heads // kv_heads, length, width)
        # Scores with each query's own keys: k numbers a query, kept whole.
        own_scores = torch.einsum(_SCORES, grouped, own_keys).float() * scale  # [B, kv, G, T, k]
        total = torch.empty(own_scores.shape[:-1], dtype=torch.float32, device=query.device)
        output = torch.empty_like(grouped)
        for start in range(0, length, block):
            part = slice(start, min(length, start + block))
            scores = _scores(grouped, key, part, scale)  # [B, kv, G, n, end]
            # One softmax over both groups: its normaliser is the sum of both exponential sums.
            total[..., part] = torch.logaddexp(scores.logsumexp(-1), own_scores[..., part, :].logsumexp(-1))
            weights = (scores - total[..., part, None]).exp_().to(value.dtype)
            output[..., part, :] = _times(weights, value[:, :, : part.stop])  # [B, kv, G, n, d]
        own_weights = (own_scores - total[..., None]).exp_().to(value.dtype)
        output += torch.einsum(_SUMS, own_weights, own_values)  # the own values' part of the same weighted mean
        ctx.save_for_backward(grouped, key, value, own_keys, own_values, output, total)
        ctx.scale, ctx.block = scale, block
        return output.view(rows, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grouped, key, value, own_keys, own_values, output, total = ctx.saved_tensors
        scale, block = ctx.scale, ctx.block
        gradient = upstream[0].reshape(output.shape)
        length = grouped.shape[3]
        # d score = weight * (d output . value - d output . output): the softmax's own term is the same for all keys.
        shared = (gradient.float() * output.float()).sum(-1)  # [B, kv, G, T]
        d_query = torch.zeros_like(grouped, dtype=torch.float32)
        d_key, d_value = torch.zeros_like(key, dtype=torch.float32), torch.zeros_like(value, dtype=torch.float32)
        for start in range(0, length, block):
            part = slice(start, min(length, start + block))
            seen = slice(0, part.stop)
            weights = (_scores(grouped, key, part, scale) - total[..., part, None]).exp_()  # again, not stored
            upper = gradient[..., part, :]
            d_scores = _times(upper, value[:, :, seen].transpose(-1, -2)).float()  # d output . value
            d_scores = (d_scores.sub_(shared[..., part, None]).mul_(weights) * scale).to(key.dtype)
            d_query[..., part, :] = _times(d_scores, key[:, :, seen]).float()
            d_key[:, :, seen] += _transposed_times(d_scores, grouped[..., part, :]).float()
            d_value[:, :, seen] += _transposed_times(weights.to(value.dtype), upper).float()
        # The same for each query's own keys and values.
        own_scores = torch.einsum(_SCORES, grouped, own_keys).float() * scale
        own_weights = (own_scores - total[..., None]).exp_()
        d_own = torch.einsum(_SCORES, gradient, own_values).float()
        d_own = ((d_own - shared[..., None]) * own_weights * scale).to(key.dtype)  # [B, kv, G, T, k]
        d_query += torch.einsum(_SUMS, d_own, own_keys).float()
        d_own_keys = torch.einsum(_TURNED, d_own, grouped)
        d_own_values = torch.einsum(_TURNED, own_weights.to(value.dtype), gradient)
        return (
            d_query.to(grouped.dtype).flatten(1, 2),
            d_key.to(key.dtype),
            d_value.to(value.dtype),
            d_own_keys,
            d_own_values,
            None,
            None,
        )


def _scores(grouped: Tensor, key: Tensor, part: slice, scale: float) -> Tensor:
    """Causal scores of a block of queries: [B, kv, G, T, d] x [B, kv, T, d] -> float32 [B, kv, G, n, end]."""
    scores = _times(grouped[..., part, :], key[:, :, : part.stop].transpose(-1, -2)).float().mul_(scale)
    order = torch.arange(part.stop, device=key.device)
    return scores.masked_fill_(order > order[part, None], -torch.inf)


def _times(left: Tensor, right: Tensor) -> Tensor:
    """[B, kv, G, n, m] x [B, kv, m, d] -> [B, kv, G, n, d] as one product per key/value head."""
    rows, heads, group, count, _ = left.shape
    return (left.reshape(rows, heads, group * count, -1) @ right).view(rows, heads, group, count, -1)


def _transposed_times(left: Tensor, right: Tensor) -> Tensor:
    """[B, kv, G, n, m] and [B, kv, G, n, d] -> [B, kv, m, d], summed over group and rows."""
    return left.flatten(2, 3).transpose(-1, -2) @ right.flatten(2, 3)
