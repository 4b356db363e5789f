"""Mixtures of experts in a draft: routed experts, experts without compute, and shared experts.

The last `zero_compute_experts` of `num_experts` cost nothing (MoE++, arXiv 2410.07348, section 3.1; LongCat-Flash,
arXiv 2509.01322, section 2.1): an `identity` expert gives its input back, a `zero` expert gives nothing, a `constant`
expert gives a learnt vector. `shared_experts` are an MLP as wide as so many experts that every token passes through
(DeepSeekMoE, arXiv 2401.06066, section 3.2), with a sigmoid gate if `shared_expert_gate` says so. These keys stand in
the backbone's configuration (`draft.architecture.extra`). Router and experts otherwise are those of Qwen3-MoE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetspec_core.errors import ModelError

KINDS = ("identity", "zero", "constant")


class _Fixed:
    """Whether mixtures work in fixed shapes now. A compiled program guards on it, which it cannot on a context."""

    on: bool = False


_FIXED = _Fixed()


def has_experts(config: Any) -> bool:
    """Whether a model of this Hugging Face configuration is a mixture of experts."""
    return any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """Let mixtures of drafts, and those of bases that are prepared, work in shapes that do not depend on the routing.

    A graph can hold that. It costs more where there are many tokens, so that it is for decoding only.
    """
    before, _FIXED.on = _FIXED.on, True
    try:
        yield
    finally:
        _FIXED.on = before


def chosen_outputs(
    rows: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor, combine: Callable[[Tensor], Tensor]
) -> Tensor:
    """What the chosen experts make of every token; no shape depends on which are chosen.

    With few pairs of token and expert the weights of each pair are gathered. With more, nearly all experts are chosen
    by some token and have to be read anyway: then all of them work on all tokens.

    Args:
        rows: [N, H] tokens.
        chosen: [N, k] experts.
        gate_up: [E, 2 I, H] gate and up projections.
        down: [E, H, I] down projections.
        combine: [..., 2 I] gate and up -> [..., I].

    Returns:
        [N, k, H].
    """
    if 2 * chosen.numel() <= len(gate_up):
        pairs = chosen.flatten()
        inputs = rows.repeat_interleave(chosen.shape[1], 0)[:, None]  # [N k, 1, H]
        inner = combine(inputs @ gate_up[pairs].transpose(1, 2))
        return (inner @ down[pairs].transpose(1, 2)).view(*chosen.shape, -1)
    inner = combine(rows @ gate_up.transpose(1, 2))  # [E, N, I]
    outputs = inner @ down.transpose(1, 2)  # [E, N, H]
    return outputs[chosen, torch.arange(len(rows), device=rows.device)[:, None]]


_INTERFACE = "hetspec"  # the name of `_base_experts` in Hugging Face's registry
_USUAL = "grouped_mm"  # what Hugging Face takes where a GPU is, and what ours stands in for


def prepare_experts(decoder: Any) -> bool:
    """Let the mixtures of a Hugging Face decoder follow `fixed_shapes`; returns whether there are any.

    Experts with biases, without gates or with transposed weights stay as they are.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    found = [
        module
        for module in decoder.modules()
        if getattr(module, "has_gate", False)
        and not (module.has_bias or module.is_transposed)
        and getattr(getattr(module, "config", None), "_experts_implementation", None) == _USUAL
    ]
    if found:
        ALL_EXPERTS_FUNCTIONS.register(_INTERFACE, _base_experts)
    for module in found:
        module.config._experts_implementation = _INTERFACE
    return bool(found)


def _base_experts(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The signature of Hugging Face's experts: [N, H] tokens, [N, k] experts and weights -> [N, H]."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    grouped = hidden.is_cuda and hidden.dtype == torch.bfloat16  # one kernel, which reads the counts on the device
    if not _FIXED.on or grouped:
        return ALL_EXPERTS_FUNCTIONS[_USUAL](module, hidden, chosen, weights)
    results = chosen_outputs(hidden, chosen, module.gate_up_proj, module.down_proj, module._apply_gate)
    return (results * weights[..., None]).sum(1).to(hidden.dtype)


class ExpertMLP(nn.Module):
    """The MLP of a layer as a mixture of experts.

    Args:
        block: Hugging Face's sparse block, whose router and experts are taken.
        config: of the model; with the keys above.

    Raises:
        ModelError: a key has a value that is not allowed.
    """

    def __init__(self, block: Any, config: Any) -> None:
        super().__init__()
        zero, shared = int(getattr(config, "zero_compute_experts", 0)), int(getattr(config, "shared_experts", 0))
        self.kind = str(getattr(config, "zero_expert_kind", "identity"))
        total, self.top_k = int(config.num_experts), int(config.num_experts_per_tok)
        self.num_real = total - zero
        self.num_zero = zero
        if self.kind not in KINDS:
            raise ModelError(f"zero_expert_kind is {self.kind!r}", hint=f"allowed: {', '.join(KINDS)}")
        if not 0 <= zero < total or shared < 0:
            raise ModelError(
                f"zero_compute_experts is {zero} and shared_experts {shared}",
                hint=f"needs 0 to {total - 1} (of num_experts = {total}), and 0 or more",
            )
        self.balance_weight = float(getattr(config, "router_aux_loss_coef", 0.0))
        target = getattr(config, "zero_expert_share", None)
        self.zero_share = None if target is None else float(target)
        self.normalised = bool(config.norm_topk_prob)
        width, inner = int(config.hidden_size), int(config.moe_intermediate_size)
        self.gate = nn.Linear(width, total, bias=False)
        nn.init.normal_(self.gate.weight, std=config.initializer_range)
        self.experts = block.experts
        if zero:  # without rebuilding the family's own module: the first experts are as good as any
            self.experts.num_experts = self.num_real
            for name in ("gate_up_proj", "down_proj"):
                whole = getattr(self.experts, name)
                setattr(self.experts, name, nn.Parameter(whole.detach()[: self.num_real].clone()))
        self.constants = nn.Parameter(torch.zeros(zero, width)) if zero and self.kind == "constant" else None
        self.shared = _shared_mlp(config, inner * shared) if shared else None
        gated = bool(shared and getattr(config, "shared_expert_gate", False))
        self.shared_gate = nn.Linear(width, 1, bias=False) if gated else None

    @property
    def num_resting_parameters(self) -> int:
        """Parameters of the experts that a token is not routed to, if it is routed to real experts only."""
        one = sum(parameter[0].numel() for parameter in self.experts.parameters())
        return one * (self.num_real - min(self.top_k, self.num_real))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, T, H] -> [B, T, H]."""
        flat = hidden_states.flatten(0, -2)  # [N, H]
        routing = self.route(flat)
        output = self._routed(flat, routing)
        if self.shared is not None:
            extra = self.shared(flat)
            output = output + (extra if self.shared_gate is None else torch.sigmoid(self.shared_gate(flat)) * extra)
        return output.view_as(hidden_states)

    def route(self, flat: Tensor) -> Routing:
        """[N, H] -> the routing of the tokens, which watchers receive."""
        logits = self.gate(flat).float()
        weights, chosen = torch.softmax(logits, dim=-1).topk(self.top_k, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        routing = Routing(logits, chosen, weights.to(flat.dtype))
        for watcher in self.__dict__.get("_watchers", ()):
            watcher.append((self, routing))
        return routing

    def _routed(self, flat: Tensor, routing: Routing) -> Tensor:
        """Sort the pairs (token, expert) by expert, let each expert work on its rows, and put them back."""
        if _FIXED.on:
            return self._routed_by_shape(flat, routing)
        chosen = routing.chosen.flatten()  # [N k]
        order = torch.argsort(chosen, stable=True)
        counts = torch.bincount(chosen, minlength=self.num_real + self.num_zero).tolist()
        rows = flat[order // self.top_k]  # [N k, H] by expert
        parts: list[Tensor] = []
        start = 0
        for expert, count in enumerate(counts[: self.num_real]):
            if count or expert == 0:  # an idle layer has a gradient of zero too, because other ranks wait for it
                parts.append(self._expert(expert, rows[start : start + count]))
            start += count
        if start < len(rows):
            parts.append(self._without_compute(rows[start:], chosen[order[start:]]))
        back = torch.argsort(order)
        results = torch.cat(parts)[back].view(*routing.chosen.shape, -1)  # [N, k, H]
        return (results * routing.weights[..., None]).sum(1)

    def _routed_by_shape(self, flat: Tensor, routing: Routing) -> Tensor:
        """The same in operations whose shapes do not depend on the routing."""
        last = self.num_real - 1
        results = chosen_outputs(
            flat,
            routing.chosen.clamp(max=last),
            self.experts.gate_up_proj,
            self.experts.down_proj,
            self._combine,
        )
        if self.num_zero:
            kinds = routing.chosen.flatten().clamp(min=self.num_real)
            idle = self._without_compute(flat.repeat_interleave(self.top_k, 0), kinds).view_as(results)
            results = torch.where((routing.chosen > last)[..., None], idle, results)
        return (results * routing.weights[..., None]).sum(1)

    def _expert(self, expert: int, rows: Tensor) -> Tensor:
        inner = self._combine(F.linear(rows, self.experts.gate_up_proj[expert]))
        return F.linear(inner, self.experts.down_proj[expert])

    def _combine(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return self.experts.act_fn(gate) * up

    def _without_compute(self, rows: Tensor, experts: Tensor) -> Tensor:
        if self.kind == "identity":
            return rows
        if self.constants is None:
            return torch.zeros_like(rows)
        return self.constants[experts - self.num_real].to(rows.dtype)


@dataclass(frozen=True)
class Routing:
    """The routing of N tokens in one layer.

    Attributes:
        logits: [N, E] float32 of the router.
        chosen: [N, k] experts.
        weights: [N, k] their weights in the sum.
    """

    logits: Tensor
    chosen: Tensor
    weights: Tensor


@dataclass
class RoutingReport:
    """The routings of all mixtures of a draft while it was watched."""

    seen: list[tuple[ExpertMLP, Routing]] = field(default_factory=list)

    def append(self, entry: tuple[ExpertMLP, Routing]) -> None:
        self.seen.append(entry)

    def loss(self, valid: Tensor) -> Tensor | None:
        """Weighted balance loss per token, mean over layers and passes; None without experts.

        Args:
            valid: [B, T] bool, False on padding.
        """
        rows = valid.flatten()
        losses = [mlp.balance_weight * balance_loss(mlp, routing, rows) for mlp, routing in self.seen]
        return torch.stack(losses).mean() if losses else None

    @torch.no_grad()
    def metrics(self, valid: Tensor) -> dict[str, Tensor]:
        """[] tensors, mean over layers and passes, of the tokens in `valid` [B, T]; empty without experts.

        zero_compute_share: assignments that went to experts without compute. expert_load_max: the busiest real expert's
        share of the real assignments, times their number (1 = all alike). expert_load_min: the idlest one's.
        computed_experts: real experts that compute for a token.
        """
        if not self.seen:
            return {}
        found: dict[str, list[Tensor]] = {}
        for mlp, routing in self.seen:
            counts = _counts(mlp, routing.chosen[valid.flatten()])
            real, total = counts[: mlp.num_real], counts.sum().clamp(min=1)
            load = real / real.sum().clamp(min=1) * mlp.num_real
            values = {
                "zero_compute_share": 1 - real.sum() / total,
                "expert_load_max": load.max(),
                "expert_load_min": load.min(),
                "computed_experts": real.sum() / total * mlp.top_k,
            }
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: torch.stack(values).mean() for name, values in found.items()}


METRICS = ("zero_compute_share", "expert_load_max", "expert_load_min", "computed_experts")


def balance_loss(mlp: ExpertMLP, routing: Routing, rows: Tensor) -> Tensor:
    """Switch Transformer's balance loss among the real experts (arXiv 2101.03961, equations 4 to 6).

    R k sum_e f_e p_e over the R real experts, f the share of the real assignments and p the mean probability, both
    renormalised without the experts that cost nothing. With `zero_expert_share` a quadratic term draws their mean
    probability to that share. Without such experts this is Hugging Face's loss, in its scale: k when all are alike.

    Args:
        mlp: the layer.
        routing: of N tokens.
        rows: [N] bool, tokens that count.
    """
    logits, chosen = routing.logits[rows], routing.chosen[rows]
    if not len(logits):
        return routing.logits.sum() * 0.0
    shares = _counts(mlp, chosen)[: mlp.num_real]
    shares = shares / shares.sum().clamp(min=1)
    probabilities = torch.softmax(logits[:, : mlp.num_real], dim=-1).mean(0)
    loss = mlp.num_real * mlp.top_k * (shares * probabilities).sum()
    if mlp.num_zero and mlp.zero_share is not None:
        mass = torch.softmax(logits, dim=-1)[:, mlp.num_real :].sum(-1).mean()
        loss = loss + mlp.num_real * (mass - mlp.zero_share).square()
    return loss


def _counts(mlp: ExpertMLP, chosen: Tensor) -> Tensor:
    """[E] float32: assignments of each expert."""
    return torch.bincount(chosen.flatten(), minlength=mlp.num_real + mlp.num_zero).float()


def install_experts(decoder: Any) -> None:
    """Replace every sparse block of a Qwen3-MoE decoder by an `ExpertMLP`; other families keep their own."""
    if decoder.config.model_type == "qwen3_moe":
        for layer in decoder.layers:
            if hasattr(layer.mlp, "experts"):  # a dense layer in between has none
                layer.mlp = ExpertMLP(layer.mlp, decoder.config)


def expert_mlps(decoder: Any) -> list[ExpertMLP]:
    """The mixtures of a decoder, layer by layer."""
    return [layer.mlp for layer in decoder.layers if isinstance(layer.mlp, ExpertMLP)]


@contextmanager
def watch(mlps: list[ExpertMLP]) -> Iterator[RoutingReport]:
    """Record the routings of these mixtures inside the block, with their graph."""
    report = RoutingReport()
    for mlp in mlps:
        mlp.__dict__.setdefault("_watchers", []).append(report)
    try:
        yield report
    finally:
        for mlp in mlps:
            mlp.__dict__["_watchers"].remove(report)


def _shared_mlp(config: Any, width: int) -> nn.Module:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeMLP

    mlp = Qwen3MoeMLP(config, intermediate_size=width)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=config.initializer_range)
    return mlp
