"""EAGLE-1/2 drafts of Qwen3-MoE layers in SGLang, with zero-compute and shared experts.

The mixture is that of HetSpec's training (`engine/modeling/experts.py`): softmax over all experts, the k likeliest,
their weights normalised if the configuration says so. Zero-compute experts have the last numbers; an assignment to one
of them goes to expert 0 with weight 0, and its output is added separately.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.layers.linear import ReplicatedLinear
from sglang.srt.layers.moe.ep_moe.layer import get_moe_impl_class
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import add_prefix
from torch import Tensor, nn

from hetspec_core.sglang.models.fusion import EagleLayer, FusionForCausalLM, mlp_of
from hetspec_core.sglang.models.qwen3_eagle import attention_of


class SglangExpertMLP(nn.Module):
    """The MLP of a layer as a mixture of experts."""

    def __init__(self, config: Any, layer_id: int, quant_config: Any, prefix: str) -> None:
        super().__init__()
        zero, shared = int(getattr(config, "zero_compute_experts", 0)), int(getattr(config, "shared_experts", 0))
        self.kind = str(getattr(config, "zero_expert_kind", "identity"))
        self.num_real = int(config.num_experts) - zero
        self.top_k = int(config.num_experts_per_tok)
        self.normalised = bool(config.norm_topk_prob)
        self.gate = ReplicatedLinear(
            config.hidden_size, config.num_experts, bias=False, prefix=add_prefix("gate", prefix)
        )
        self.experts = get_moe_impl_class(quant_config)(
            num_experts=self.num_real,
            top_k=self.top_k,
            layer_id=layer_id,
            hidden_size=config.hidden_size,
            intermediate_size=config.moe_intermediate_size,
            quant_config=quant_config,
            prefix=add_prefix("experts", prefix),
        )
        constant = zero and self.kind == "constant"
        self.constants = nn.Parameter(torch.zeros(zero, config.hidden_size)) if constant else None
        shared_width = config.moe_intermediate_size * shared
        self.shared = mlp_of(config, shared_width, quant_config, add_prefix("shared", prefix)) if shared else None
        gated = bool(shared and getattr(config, "shared_expert_gate", False))
        self.shared_gate = nn.Linear(config.hidden_size, 1, bias=False) if gated else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[T, H] -> [T, H]."""
        logits = self.gate(hidden_states)[0].float()
        weights, chosen = torch.softmax(logits, dim=-1).topk(self.top_k, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        real = chosen < self.num_real
        routed = StandardTopKOutput(
            torch.where(real, weights, 0.0).contiguous(), torch.where(real, chosen, 0).to(torch.int32), logits
        )
        rest = self._without_compute(hidden_states, weights, chosen, real)
        output = self.experts(hidden_states.clone(), routed)
        if get_parallel().moe_tp_size > 1:
            output = tensor_model_parallel_all_reduce(output)
        if rest is not None:
            output = output + rest
        if self.shared is not None:
            extra = self.shared(hidden_states)
            gate = 1.0 if self.shared_gate is None else torch.sigmoid(self.shared_gate(hidden_states))
            output = output + gate * extra
        return output

    def _without_compute(self, hidden_states: Tensor, weights: Tensor, chosen: Tensor, real: Tensor) -> Tensor | None:
        if self.kind == "zero" or (self.kind == "constant" and self.constants is None):
            return None
        idle = torch.where(real, 0.0, weights)  # [T, k]
        if self.constants is None:
            return hidden_states * idle.sum(-1, keepdim=True).to(hidden_states.dtype)
        rows = self.constants[(chosen - self.num_real).clamp(min=0)]  # [T, k, H]
        return (rows * idle[..., None]).sum(1).to(hidden_states.dtype)


def make_layer(config: Any, layer_id: int, quant_config: Any, prefix: str) -> nn.Module:
    """One layer whose MLP is a mixture."""
    mlp = SglangExpertMLP(config, layer_id, quant_config, add_prefix("mlp", prefix))
    return EagleLayer(config, layer_id, attention_of(config, layer_id, quant_config, prefix), mlp)


class HetSpecQwen3MoeEagle(FusionForCausalLM):
    """Qwen3-MoE layers."""

    make_layer = staticmethod(make_layer)

    def load_weight(self, name: str, tensor: Tensor, places: dict[str, nn.Parameter]) -> str:
        """As in the base class. HetSpec stores the experts of a layer in two tensors; SGLang loads them one by one."""
        prefix, _, last = name.rpartition(".experts.")
        if last not in ("gate_up_proj", "down_proj"):
            return super().load_weight(name, tensor, places)
        place = f"{prefix}.experts.{'w13_weight' if last == 'gate_up_proj' else 'w2_weight'}"
        parameter = self._place(place, name, places)
        for expert, matrix in enumerate(tensor):
            if last == "down_proj":
                parameter.weight_loader(parameter, matrix.contiguous(), place, shard_id="w2", expert_id=expert)
                continue
            gate, up = matrix.chunk(2)
            parameter.weight_loader(parameter, gate.contiguous(), place, shard_id="w1", expert_id=expert)
            parameter.weight_loader(parameter, up.contiguous(), place, shard_id="w3", expert_id=expert)
        return place


EntryClass = HetSpecQwen3MoeEagle
