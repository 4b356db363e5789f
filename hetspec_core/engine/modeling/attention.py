"""The attention of bases and drafts: Hugging Face layers call it through their attention registry.

`attend` has three cases. Whole sequences from an empty cache are causal and need no mask: PyTorch's fused kernel serves
them. A later part of a long prompt has many queries and a mask: the same kernel takes it, or blocks of queries where
the scores are capped. Decoding has few queries over a long cache, often with a tree mask: grouped matrix products that
never expand the key/value heads serve it.

`UnrolledKeys` is the attention over the steps of a training-time test (EAGLE-3, arXiv 2503.01840, section 3.2), without
the score matrix. Step 0 is a causal pass over a sequence. Step k at position t attends to the keys of step 0 at
positions 0..t and to the keys of steps 1..k at position t itself: [T, T + k] scores, of which all but k columns are
those of ordinary attention. The scores are computed block by block of queries, in the forward and again in the
backward. Between the two, the output and one log-sum-exp per query are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from hetspec_core.engine.modeling.fusion import is_fused
from hetspec_core.errors import ModelError

ATTENTION_NAME = "hetspec"

_MANY_QUERIES = 256  # more than a tree has
_WINDOW = "hetspec_window"  # attribute of an attention layer
_POSITIONS: ContextVar[Tensor | None] = ContextVar("positions", default=None)


def set_window(layer: nn.Module, window: int) -> None:
    """Limit an attention layer to the last `window` tokens, for families whose window is in their mask only."""
    setattr(layer, _WINDOW, window)


@contextlib.contextmanager
def positions_of(positions: Tensor | None) -> Iterator[None]:
    """Pass the positions [B, T] of a forward to layers with a window whose family does not pass them."""
    token = _POSITIONS.set(positions)
    try:
        yield
    finally:
        _POSITIONS.reset(token)


def key_bounds(mask: Tensor) -> Tensor:
    """[B, 1, T, S] bool -> [B, 2] int32: the first slot that any token sees, and the one behind the last."""
    seen, slots = mask[:, 0].any(1), torch.arange(mask.shape[-1], device=mask.device)
    first = torch.where(seen, slots, mask.shape[-1]).amin(-1)
    end = torch.where(seen, slots + 1, 0).amax(-1)
    return torch.stack([first, end], dim=-1).to(torch.int32)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    bounds: Tensor | None = None,
) -> Tensor:
    """Attention with grouped key/value heads.

    Args:
        query: [B, heads, T, head_dim].
        key: [B, kv_heads, S, head_dim]; heads is a multiple of kv_heads.
        value: [B, kv_heads, S, value_dim].
        mask: [B or 1, 1, T, S] bool, True = visible; None = causal when T > 1, everything when T = 1.
        scale: factor of the scores.
        softcap: soft-capping of the scores, cap * tanh(scores / cap) (Gemma 2), or None.
        bounds: [B or 1, 2] of `key_bounds`, where the caller has them: layers with the same mask share them.

    Returns:
        [B, heads, T, value_dim].
    """
    if mask is None and query.shape[2] > 1:
        if softcap is None:
            grouped = key.shape[1] != query.shape[1]
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None and is_fused(query):
        from hetspec_core.engine.modeling.kernels import masked_attention

        bounds = key_bounds(mask) if bounds is None else bounds
        return masked_attention(query, key, value, mask, bounds, scale, softcap)
    if mask is not None and query.shape[2] > _MANY_QUERIES:
        return _attend_in_blocks(query, key, value, mask, scale, softcap)
    rows, heads, num_queries, head_dim = query.shape
    kv_heads, num_keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    folded = query.reshape(rows, kv_heads, group * num_queries, head_dim)  # the queries of a group share their keys
    if softcap is None and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # One kernel; bmm in bfloat16 builds a program anew for every number of keys.
        shared = None if mask is None else mask.repeat(1, 1, group, 1)  # [B or 1, 1, group*T, S]
        mixed = F.scaled_dot_product_attention(folded, key, value, shared, scale=scale)
        return mixed.view(rows, heads, num_queries, value.shape[-1])
    scores = (folded @ key.transpose(-1, -2)).float() * scale  # [B, kv_heads, group*T, S]; float32 for the softmax
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.view(rows, kv_heads, group, num_queries, num_keys)
        scores = scores.masked_fill(~mask[:, :, None], torch.finfo(torch.float32).min)
        scores = scores.view(rows, kv_heads, group * num_queries, num_keys)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return (weights @ value).view(rows, heads, num_queries, value.shape[-1])


def _attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """`attend` for a part of a long prompt, without all of its scores at once."""
    if softcap is None:
        group = query.shape[1] // key.shape[1]
        if group > 1:  # the kernel that takes a mask on a GPU does not take grouped heads
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    parts = zip(query.split(_MANY_QUERIES, 2), mask.split(_MANY_QUERIES, 2), strict=True)
    return torch.cat([attend(part, key, value, seen, scale, softcap) for part, seen in parts], dim=2)


def _inside_window(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, window: int, positions: Tensor | None
) -> Tensor:
    """The mask of a layer that sees the last `window` tokens only, the token itself included.

    Committed tokens are in the slots of their positions. Nodes of a tree follow, at slots not below their positions,
    and are closer to each other than any window; so slots decide which keys are outside the window.
    """
    slots = torch.arange(key.shape[2], device=key.device)
    if mask is None:  # a whole sequence, or one token behind all others
        places = slots[key.shape[2] - query.shape[2] :][None]
        mask = (slots <= places[..., None])[:, None]
    elif positions is None:
        raise ModelError(
            f"{type(module).__name__} slides a window of {window} tokens and does not say where its tokens are",
            hint="use another base",
        )
    else:
        places = positions.to(key.device)  # of a base that is spread over several devices
    return mask & (slots > places[..., None] - window)[:, None]


def _hugging_face_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    unrolled: UnrolledKeys | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    bounds: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The signature that Hugging Face layers call; returns [B, T, heads, value_dim].

    `unrolled` comes from a draft's own call of its decoder, which passes further arguments on, and `bounds` from a
    base's.

    Raises:
        ModelError: the layer adds attention sinks to the scores (GPT-OSS), or caps scores of a training-time test.
    """
    if s_aux is not None:
        raise ModelError(
            f"{type(module).__name__} uses attention sinks, which are not supported", hint="use another base"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if unrolled is not None:
        if softcap is not None:
            raise ModelError(
                f"{type(module).__name__} caps its scores, which a training-time test cannot merge",
                hint="take another backbone for this algorithm",
            )
        return unrolled.attend(int(module.layer_idx), query, key, value, scale).transpose(1, 2).contiguous(), None  # type: ignore[arg-type]
    mask = None
    if attention_mask is not None:
        mask = attention_mask[..., : key.shape[2]]
    window = sliding_window if sliding_window is not None else getattr(module, _WINDOW, None)
    if window is not None and key.shape[2] > window:
        positions = position_ids if position_ids is not None else _POSITIONS.get()
        mask, bounds = _inside_window(module, query, key, mask, window, positions), None
    return attend(query, key, value, mask, scale, softcap, bounds).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _hugging_face_attention)


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
