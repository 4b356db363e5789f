"""Losses over a vocabulary, computed in chunks so that [tokens, V] is never held for a whole batch.

It knows tensors only: no models, no batches, no algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_ELEMENTS = 1 << 26  # float32 elements of one [rows, V] chunk: 256 MiB


@dataclass(frozen=True)
class TokenScores:
    """Sums over rows, detached: how well the draft's distribution q matches the base's p.

    Attributes:
        top1: rows in which the base's likeliest token is the draft's likeliest.
        top10: rows in which it is among the draft's ten likeliest.
        acceptance: sum over rows of sum_v min(p, q), the chance that a sampled draft token is accepted.
    """

    top1: Tensor
    top10: Tensor
    acceptance: Tensor


def distribution_loss(
    hidden: Tensor,
    target_hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    target_weight: Tensor | None = None,
    target_bias: Tensor | None = None,
    vocab_ids: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
) -> tuple[Tensor, TokenScores]:
    """Cross-entropy of the draft's distribution against the base's: -sum_rows sum_v p(v) log q(v).

    p = softmax(target_weight @ target_hidden), restricted to `vocab_ids` and renormalised when they are given;
    q = softmax(weight @ hidden). Both heads are frozen, so only `hidden` receives a gradient; it is computed in the
    forward chunk by chunk (softmax(q) - p times the head), which keeps one chunk of logits alive instead of all.

    Args:
        hidden: [M, H] the draft's hidden states at supervised positions.
        target_hidden: [M, H] the base's, after the final norm.
        weight: [Vd, H] head rows of the draft's vocabulary.
        bias: [Vd] or None.
        target_weight: [V, H] the base's whole head; `weight` when absent.
        target_bias: [V] or None.
        vocab_ids: [Vd] base ids of the draft's vocabulary, or None when Vd = V.
        scale: factor of the logits of the base's head.
        softcap: soft-capping of the logits (cap * tanh(logits / cap)), or None.
        chunk_rows: rows per chunk; by the size of the vocabulary when absent.

    Returns:
        The sum over rows (a scalar with gradient), and detached scores. Scores count the mass and the argmax over the
        base's whole vocabulary: what the draft cannot propose is a miss.
    """
    full_weight = weight if target_weight is None else target_weight
    full_bias = bias if target_weight is None else target_bias
    rows = chunk_rows or max(1, CHUNK_ELEMENTS // full_weight.shape[0])
    loss, *scores = _ChunkedDistribution.apply(
        hidden, target_hidden, weight, bias, full_weight, full_bias, vocab_ids, scale, softcap, rows
    )
    return loss, TokenScores(*scores)


class _ChunkedDistribution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        target_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        full_weight: Tensor,
        full_bias: Tensor | None,
        vocab_ids: Tensor | None,
        scale: float,
        softcap: float | None,
        chunk_rows: int,
    ) -> tuple[Tensor, ...]:
        needs_grad = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if needs_grad else None
        sums = torch.zeros(4, dtype=torch.float32, device=hidden.device)  # loss, top1, top10, acceptance
        for start in range(0, hidden.shape[0], chunk_rows):
            part = slice(start, start + chunk_rows)
            base = _logits(target_hidden[part], full_weight, full_bias, scale, softcap)  # [C, V]
            best = base.argmax(-1)
            if vocab_ids is None:
                mass, p = None, torch.softmax(base, -1)
            else:
                total = base.logsumexp(-1, keepdim=True)
                base = base[:, vocab_ids]
                mass = (base.logsumexp(-1, keepdim=True) - total).exp()  # share of p inside the draft's vocabulary
                p = torch.softmax(base, -1)
            logits = _logits(hidden[part], weight, bias, scale, softcap)  # [C, Vd]
            slope = (
                scale if softcap is None else scale * (1 - (logits / softcap).square())
            )  # d logits / d (head @ hidden)
            log_q = torch.log_softmax(logits, -1)
            guesses = log_q.topk(min(10, log_q.shape[-1]), -1).indices
            hits = (guesses if vocab_ids is None else vocab_ids[guesses]) == best[:, None]
            sums[0] -= (p * log_q).sum()
            sums[1] += hits[:, 0].sum()
            sums[2] += hits.any(-1).sum()
            q = log_q.exp_()
            sums[3] += torch.minimum(p if mass is None else p * mass, q).sum()
            if gradient is not None:
                gradient[part] = (q.sub_(p).mul_(slope).to(weight.dtype) @ weight).to(gradient.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        loss, *scores = (total.clone() for total in sums)
        ctx.mark_non_differentiable(*scores)
        return loss, *scores

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None, None, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    logits = F.linear(hidden.to(weight.dtype), weight, bias).float()
    if scale != 1.0:
        logits = logits * scale
    return torch.tanh(logits / softcap) * softcap if softcap is not None else logits


def feature_loss(hidden: Tensor, target_hidden: Tensor) -> Tensor:
    """Smooth-L1 (beta 1), mean over H and sum over rows: [M, H], [M, H] -> scalar (EAGLE, section 3.3)."""
    return F.smooth_l1_loss(hidden.float(), target_hidden.float(), reduction="none").mean(-1).sum()


__all__ = ["TokenScores", "distribution_loss", "feature_loss"]
