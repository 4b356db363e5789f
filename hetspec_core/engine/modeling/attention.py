"""The attention that bases and drafts run with here: Hugging Face layers call it through their attention registry.

Two cases occur. Whole sequences from an empty cache are causal and need no mask: PyTorch's fused kernel serves them.
Decoding has few queries over a long cache, often with a tree mask: grouped matrix products that never expand the
key/value heads serve it. It knows nothing of models, caches or trees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from hetspec_core.errors import ModelError

ATTENTION_NAME = "hetspec"

_WINDOW = "hetspec_window"  # attribute of an attention layer
_POSITIONS: ContextVar[Tensor | None] = ContextVar("positions", default=None)


class UnrolledAttention(Protocol):
    """Attention that remembers the steps before, layer by layer."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[B, heads, T, head_dim] query, [B, kv_heads, T, head_dim] key and value -> [B, heads, T, head_dim]."""
        ...


def set_window(layer: nn.Module, window: int) -> None:
    """Have an attention layer see the last `window` tokens only, for families that say so in their mask alone."""
    setattr(layer, _WINDOW, window)


@contextlib.contextmanager
def positions_of(positions: Tensor | None) -> Iterator[None]:
    """Give the positions [B, T] of a forward to layers with a window that are not handed them by their family."""
    token = _POSITIONS.set(positions)
    try:
        yield
    finally:
        _POSITIONS.reset(token)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> Tensor:
    """Attention with grouped key/value heads.

    Args:
        query: [B, heads, T, head_dim].
        key: [B, kv_heads, S, head_dim]; heads is a multiple of kv_heads.
        value: [B, kv_heads, S, value_dim].
        mask: [B or 1, 1, T, S] bool, True = may look; None = causal when T > 1, everything when T = 1.
        scale: factor of the scores.
        softcap: soft-capping of the scores, cap * tanh(scores / cap) (Gemma 2), or None.

    Returns:
        [B, heads, T, value_dim].
    """
    if mask is None and query.shape[2] > 1:
        if softcap is None:
            grouped = key.shape[1] != query.shape[1]
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
        mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    rows, heads, num_queries, head_dim = query.shape
    kv_heads, num_keys = key.shape[1], key.shape[2]
    group = heads // kv_heads
    folded = query.reshape(rows, kv_heads, group * num_queries, head_dim)  # the queries of a group share their keys
    scores = (folded @ key.transpose(-1, -2)).float() * scale  # [B, kv_heads, group*T, S]; float32 for the softmax
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.view(rows, kv_heads, group, num_queries, num_keys)
        scores = scores.masked_fill(~mask[:, :, None], torch.finfo(torch.float32).min)
        scores = scores.view(rows, kv_heads, group * num_queries, num_keys)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return (weights @ value).view(rows, heads, num_queries, value.shape[-1])


def _inside_window(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, window: int, positions: Tensor | None
) -> Tensor:
    """The mask of a layer that sees the last `window` tokens only, the one that looks included.

    Committed tokens lie in the slots of their positions. Nodes of a tree lie behind them, at slots not below their
    positions, and are closer to one another than any window is wide; so slots tell who is too far away.
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
    unrolled: UnrolledAttention | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The signature that Hugging Face layers call; returns [B, T, heads, value_dim].

    `unrolled` comes from a draft's own call of its decoder, which hands further arguments down to here.

    Raises:
        ModelError: the layer adds attention sinks to the scores (GPT-OSS); without them the model is another one.
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
        mask = _inside_window(module, query, key, mask, window, positions)
    return attend(query, key, value, mask, scale, softcap).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _hugging_face_attention)
