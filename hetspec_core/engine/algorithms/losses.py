"""The base class of algorithms (the loss of a draft), and the losses over a vocabulary that algorithms share.

An algorithm runs the draft over a batch (`DraftHead.unroll`) and computes the loss of the states. Noise on the input
features and the balance of experts are added here. The losses are computed in chunks, so that [tokens, V] is never held
for a whole batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hetspec_core.engine.modeling.base_lm import BaseOutput, OutputHead
from hetspec_core.engine.modeling.draft_lm import DraftLM, Unroll
from hetspec_core.engine.modeling.experts import METRICS, watch

if TYPE_CHECKING:
    from hetspec_core.engine.data.batches import Batch, MaskKind


CHUNK_ELEMENTS = 1 << 26  # float32 elements of one [rows, V] chunk: 256 MiB
_BALANCE = "router_loss"


@dataclass(frozen=True)
class LossOutput:
    """Loss of one micro-batch, as sums: the loop divides by the supervised tokens of the whole step.

    Attributes:
        total: weighted sum over supervised positions, with gradient.
        num_supervised: supervised positions in this micro-batch.
        sums: detached sums over supervised positions, by the names of `Algorithm.names`.
    """

    total: Tensor
    num_supervised: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


class Algorithm(ABC):
    """Base class of algorithms; a card names one, and it is built from its checked options.

    Attributes:
        parts: names of the sums in the result of `judge`.
    """

    parts: ClassVar[tuple[str, ...]] = ("token_loss", "top1", "top10", "acceptance")

    @property
    def mask(self) -> MaskKind:
        """Which token of a position must be the assistant's; see `engine.data.batches`."""
        return "predicted"

    @property
    def steps(self) -> int:
        """Steps of the draft in training, the first included."""
        return 1

    @property
    def noise(self) -> tuple[float, int]:
        """Amplitude of the uniform noise on input features, and n of its scaling by n / T (0 = not scaled)."""
        return 0.0, 0

    @abstractmethod
    def judge(self, draft: DraftLM, batch: Batch, states: tuple[Tensor, ...], *, training: bool) -> LossOutput:
        """The loss of the states that the draft's head unrolled, each [B, T, S].

        Args:
            draft: bound to its base.
            batch: supervised positions and targets.
            states: [B, T, S] each; the algorithm defines what each of them predicts.
            training: whether gradients are needed; otherwise every metric is computed.
        """

    def names(self, draft: DraftLM) -> tuple[str, ...]:
        """Names of all sums in the result of `loss` when this draft is measured."""
        return (*self.parts, *((_BALANCE, *METRICS) if draft.backbone.experts else ()))

    def loss(self, draft: torch.nn.Module, batch: Batch, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of a micro-batch.

        Args:
            draft: a DraftLM, or a wrapper of one (DDP) whose `module` it is.
            batch: tokens x_{t+1}, features f_t, targets f_{t+1} [B, T, H] and the mask m_t [B, T].
            generator: randomness of training; None = evaluation, without noise.
        """
        module: DraftLM = draft.module if hasattr(draft, "module") else draft  # type: ignore[assignment]
        features = module.base_features(BaseOutput(batch.features, batch.layers))
        if generator is not None and self.noise[0] > 0:
            # A new tensor: features and targets are views of the same storage, and the target must stay clean.
            features = features + self._noise(features, batch.valid, generator)
        with watch(module.backbone.experts) as routing:
            states = draft(
                batch.tokens, features.to(next(module.parameters()).dtype), unroll=Unroll(self.steps, generator)
            )  # padding is on the right, so causal is enough
        output = self.judge(module, batch, states, training=generator is not None)
        balance = routing.loss(batch.valid)
        if balance is None:
            return output
        sums = {_BALANCE: balance.detach(), **routing.metrics(batch.valid)}
        return LossOutput(
            total=output.total + balance * output.num_supervised,  # per supervised token, as all else
            num_supervised=output.num_supervised,
            sums=output.sums | {name: value * output.num_supervised for name, value in sums.items()},
        )

    def _noise(self, features: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in +-amplitude/2, times n/T per row when the options say so (EAGLE's code: n = 512)."""
        amplitude, reference = self.noise
        noise = torch.rand(features.shape, generator=generator, device=features.device, dtype=torch.float32) - 0.5
        noise = noise * amplitude
        if reference:
            lengths = valid.sum(-1).clamp(min=1)[:, None, None]
            noise = noise * (reference / lengths)
        return noise.to(features.dtype)


@dataclass(frozen=True)
class TokenScores:
    """Sums over rows, detached: how well the draft's distribution q matches the base's p; [K] each for K steps.

    Attributes:
        token_loss: the cross-entropy, unweighted.
        top1: rows in which the base's likeliest token is the draft's likeliest.
        top10: rows in which it is among the draft's ten likeliest.
        acceptance: sum over rows of sum_v min(p, q), the chance that a sampled draft token is accepted.
        counted: rows that counted.
    """

    token_loss: Tensor
    top1: Tensor
    top10: Tensor
    acceptance: Tensor
    counted: Tensor


def distribution_loss(
    hidden: Tensor,
    target_hidden: Tensor,
    head: OutputHead,
    *,
    base_head: OutputHead | None = None,
    vocab_ids: Tensor | None = None,
    counted: Tensor | None = None,
    step_weights: tuple[float, ...] = (1.0,),
    known_only: bool = False,
    chunk_rows: int | None = None,
) -> tuple[Tensor, TokenScores]:
    """Cross-entropy of the draft's distribution against the base's: sum_k w_k sum_rows -sum_v p(v) log q_k(v).

    p = softmax(base_head(target_hidden)), restricted to `vocab_ids` and renormalised when they are given;
    q_k = softmax(head(hidden_k)). The base's side is computed once for all K guesses at a row. A gradient goes to
    `hidden` and, where it is trained, to the draft's own head; it is computed in the forward chunk by chunk
    (softmax(q) - p times the head), which keeps one chunk of logits alive instead of all.

    Args:
        hidden: [M, H] the draft's readout at supervised positions, or [K, M, H] of K steps that guess the same rows.
        target_hidden: [M, H] the base's, after the final norm.
        head: rows of the draft's vocabulary.
        base_head: the base's whole head; `head` when absent.
        vocab_ids: [Vd] base ids of the draft's vocabulary, or None when Vd = V.
        counted: [K, M] bool, guesses that count; all when absent.
        step_weights: w of each step.
        known_only: leave rows out of the loss whose likeliest token is outside the draft's vocabulary.
        chunk_rows: rows per chunk; by the size of the vocabulary when absent.

    Returns:
        The weighted sum (a scalar with gradient), and detached scores. Scores use the base's whole vocabulary: a token
        that the draft cannot propose counts as a miss.
    """
    steps = hidden if hidden.ndim == 3 else hidden[None]
    whole = head if base_head is None else base_head
    rows = chunk_rows or max(1, CHUNK_ELEMENTS // whole.weight.shape[0])
    how = _How(head, whole, vocab_ids, counted, step_weights, known_only, rows)
    total, sums = _ChunkedDistribution.apply(steps, head.weight, head.bias, target_hidden, how)  # type: ignore[misc]
    return total, TokenScores(*(sums if hidden.ndim == 3 else sums[:, 0]))


class _How(NamedTuple):
    head: OutputHead
    base_head: OutputHead
    vocab_ids: Tensor | None
    counted: Tensor | None
    step_weights: tuple[float, ...]
    known_only: bool
    chunk_rows: int


class _ChunkedDistribution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target_hidden: Tensor, how: _How
    ) -> tuple[Tensor, Tensor]:
        steps, rows = hidden.shape[:2]
        # A head that is trained is float32; the products are as exact as those of the base's.
        product_type = how.base_head.weight.dtype
        head = how.head._replace(weight=weight.to(product_type), bias=None if bias is None else bias.to(product_type))
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and ctx.needs_input_grad[2] else None
        sums = torch.zeros(5, steps, dtype=torch.float32, device=hidden.device)  # the fields of TokenScores
        for start in range(0, rows, how.chunk_rows):
            part = slice(start, start + how.chunk_rows)
            # The base's side, once for all K guesses at these rows.
            base = how.base_head.logits(target_hidden[part], torch.float32)  # [C, V]
            best = base.argmax(-1)  # [C]
            mass, known = None, None
            if how.vocab_ids is not None:
                total = base.logsumexp(-1, keepdim=True)
                base = base[:, how.vocab_ids]  # [C, Vd]: softmax of it is p renormalised over the draft's vocabulary
                mass = (base.logsumexp(-1, keepdim=True) - total).exp()  # share of p inside the draft's vocabulary
                if how.known_only:
                    place = torch.searchsorted(how.vocab_ids, best).clamp(max=how.vocab_ids.numel() - 1)
                    known = how.vocab_ids[place] == best
            p = torch.softmax(base, -1)  # [C, V or Vd]
            for step in range(steps):
                counts = torch.ones_like(best) if how.counted is None else how.counted[step, part]
                counts = counts.float()
                learnt = counts if known is None else counts * known
                logits = head.logits(hidden[step, part], torch.float32)  # [C, Vd]
                slope = head.slope(logits)  # d logits / d products: scale and soft-capping
                log_q = torch.log_softmax(logits, -1)
                guesses = log_q.topk(min(10, log_q.shape[-1]), -1).indices
                hits = (guesses if how.vocab_ids is None else how.vocab_ids[guesses]) == best[:, None]
                sums[0, step] -= ((p * log_q).sum(-1) * learnt).sum()  # cross-entropy -sum_v p log q
                sums[1, step] += (hits[:, 0] * counts).sum()
                sums[2, step] += (hits.any(-1) * counts).sum()
                q = log_q.exp_()
                # Acceptance sum_v min(p, q) with the mass that p has in the whole vocabulary.
                sums[3, step] += (torch.minimum(p if mass is None else p * mass, q).sum(-1) * counts).sum()
                sums[4, step] += counts.sum()
                if d_hidden is None and d_weight is None:
                    continue
                # d(-sum p log q) / d logits = q - p, through the slope, weighted by the step; rows left out give 0.
                d_logits = q.sub_(p).mul_(slope).mul_((learnt * how.step_weights[step])[:, None])
                if d_bias is not None:
                    d_bias += d_logits.sum(0)
                d_logits = d_logits.to(product_type)
                if d_hidden is not None:
                    d_hidden[step, part] = (d_logits @ head.weight).to(d_hidden.dtype)
                if d_weight is not None:
                    d_weight += (d_logits.T @ hidden[step, part].to(product_type)).float()
        saved = [d_hidden, d_weight, d_bias]
        ctx.save_for_backward(*(gradient for gradient in saved if gradient is not None))
        ctx.present = [gradient is not None for gradient in saved]
        ctx.dtypes = [weight.dtype, None if bias is None else bias.dtype]
        ctx.mark_non_differentiable(sums)
        return (sums[0] * sums.new_tensor(how.step_weights)).sum(), sums

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = iter(ctx.saved_tensors)
        d_hidden, d_weight, d_bias = (next(found) if present else None for present in ctx.present)
        scale = upstream[0]  # the gradients were computed in the forward; the loss is linear in them
        return (
            None if d_hidden is None else d_hidden * scale.to(d_hidden.dtype),
            None if d_weight is None else (d_weight * scale).to(ctx.dtypes[0]),
            None if d_bias is None else (d_bias * scale).to(ctx.dtypes[1]),
            None,
            None,
        )


def feature_loss(hidden: Tensor, target_hidden: Tensor) -> Tensor:
    """Smooth-L1 (beta 1), mean over H and sum over rows: [M, H], [M, H] -> scalar (EAGLE, section 3.3)."""
    return F.smooth_l1_loss(hidden.float(), target_hidden.float(), reduction="none").mean(-1).sum()
