"""What HetSpec's model classes import of SGLang, as plain torch: the same names, parameters and calls, one rank.

Attention keeps keys and values by layer number, as SGLang's pool does, and looks where `Batch.mask` allows; a batch has
a row for every new token. Signatures are those of SGLang 0.5.17.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Batch:
    """SGLang's ForwardBatch: new tokens, whom they see, and the pool.

    Args:
        states: [T, H] of the new tokens.
        mask: [T, S] bool, S = tokens in the pool and the new ones.
        pool: layer number -> keys and values [S, heads, width]; grows.
    """

    def __init__(self, states: Tensor, mask: Tensor, pool: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.spec_info = SimpleNamespace(hidden_states=states)
        self.mask, self.pool = mask, pool


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Joined(nn.Module):
    """Matrices that are stored apart and multiplied as one; returns a pair, as SGLang's linear layers do."""

    def __init__(self, in_size: int, parts: dict[Any, int], bias: bool) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.full((sum(parts.values()), in_size), float("nan")))
        self.weight.weight_loader = self._load
        self.bias = nn.Parameter(torch.full((sum(parts.values()),), float("nan"))) if bias else None
        if self.bias is not None:
            self.bias.weight_loader = self._load

    def _load(self, parameter: nn.Parameter, tensor: Tensor, part: Any = None) -> None:
        names = list(self.parts)
        first = sum(self.parts[name] for name in names[: names.index(part)]) if part is not None else 0
        with torch.no_grad():
            parameter[first : first + len(tensor)] = tensor

    def forward(self, x: Tensor, forward_batch: Any = None) -> tuple[Tensor, None]:
        return nn.functional.linear(x, self.weight, self.bias), None


class RadixAttention(nn.Module):
    def __init__(self, heads: int, head_dim: int, scaling: float, num_kv_heads: int, layer_id: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.scaling, self.kv_heads = heads, head_dim, scaling, num_kv_heads
        self.layer_id = layer_id

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> Tensor:
        new = [each.unflatten(-1, (self.kv_heads, self.head_dim)) for each in (k, v)]
        old = batch.pool.get(self.layer_id)
        keys, values = new if old is None else (torch.cat([a, b]) for a, b in zip(old, new))
        batch.pool[self.layer_id] = (keys, values)
        group = self.heads // self.kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = torch.einsum("thd,shd->hts", q.unflatten(-1, (self.heads, self.head_dim)), keys) * self.scaling
        weights = scores.masked_fill(~batch.mask, float("-inf")).softmax(-1)
        return torch.einsum("hts,shd->thd", weights, values).flatten(1)


class Attention(nn.Module):
    """Of Llama, and of Qwen3 with its norms."""

    normed = False

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        layer_id: int,
        rope_theta: float,
        rope_scaling: Any,
        max_position_embeddings: int,
        quant_config: Any,
        prefix: str,
        config: Any = None,
        head_dim: int | None = None,
        rms_norm_eps: float = 1e-6,
        bias: bool = False,
        attention_bias: bool = False,
    ) -> None:
        super().__init__()
        self.width = head_dim or getattr(config, "head_dim", None) or hidden_size // num_heads
        self.theta, self.sizes = rope_theta, [num_heads * self.width, *[num_kv_heads * self.width] * 2]
        self.qkv_proj = Joined(hidden_size, dict(zip("qkv", self.sizes)), bias or attention_bias)
        self.o_proj = Joined(num_heads * self.width, {None: hidden_size}, bias or attention_bias)
        self.attn = RadixAttention(num_heads, self.width, self.width**-0.5, num_kv_heads, layer_id)
        if self.normed:
            self.q_norm, self.k_norm = RMSNorm(self.width, rms_norm_eps), RMSNorm(self.width, rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor, forward_batch: Batch) -> Tensor:
        q, k, v = self.qkv_proj(hidden_states)[0].split(self.sizes, dim=-1)
        if self.normed:
            q, k = (
                norm(x.unflatten(-1, (-1, self.width))).flatten(1) for norm, x in ((self.q_norm, q), (self.k_norm, k))
            )
        return self.o_proj(self.attn(self._turned(q, positions), self._turned(k, positions), v, forward_batch))[0]

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        half = self.width // 2
        angles = positions[:, None] * self.theta ** (-torch.arange(half) / half)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        one, other = x.unflatten(-1, (-1, self.width)).split(half, dim=-1)
        return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1).flatten(1)


class Qwen3Attention(Attention):
    normed = True


class Qwen2MLP(nn.Module):
    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: str, quant_config: Any, prefix: str):
        super().__init__()
        assert hidden_act == "silu"
        self.gate_up_proj = Joined(hidden_size, {0: intermediate_size, 1: intermediate_size}, bias=False)
        self.down_proj = Joined(intermediate_size, {None: hidden_size}, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x)[0].chunk(2, dim=-1)
        return self.down_proj(nn.functional.silu(gate) * up)[0]


class Ends(nn.Embedding):
    """Embedding or output head."""

    def __init__(self, rows: int, width: int, **_: Any) -> None:
        super().__init__(rows, width)


class LogitsProcessor(nn.Module):
    """Gives the states back beside the logits."""

    def __init__(self, config: Any) -> None:
        super().__init__()

    def forward(self, input_ids: Tensor, hidden_states: Tensor, lm_head: Any, *_: Any) -> tuple[Tensor, Tensor]:
        return hidden_states @ lm_head.weight.T, hidden_states


def _load(parameter: nn.Parameter, tensor: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(tensor)


_MODULES: dict[str, dict[str, Any]] = {
    "sglang.srt.distributed": {"tensor_model_parallel_all_reduce": None},
    "sglang.srt.layers.layernorm": {"RMSNorm": RMSNorm},
    "sglang.srt.layers.logits_processor": {"LogitsProcessor": LogitsProcessor},
    "sglang.srt.layers.vocab_parallel_embedding": {"ParallelLMHead": Ends, "VocabParallelEmbedding": Ends},
    "sglang.srt.model_loader.weight_utils": {"default_weight_loader": _load},
    "sglang.srt.models.llama": {"LlamaAttention": Attention},
    "sglang.srt.models.qwen2": {"Qwen2MLP": Qwen2MLP},
    "sglang.srt.models.qwen3": {"Qwen3Attention": Qwen3Attention},
    "sglang.srt.runtime_context": {"get_parallel": lambda: SimpleNamespace(attn_tp_size=1)},
    "sglang.srt.utils": {"add_prefix": lambda name, prefix: f"{prefix}.{name}" if prefix else name},
}


def install_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put them where `import sglang...` looks, for the length of a test; classes that used them are forgotten."""
    for path, names in _MODULES.items():
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if length < len(parts) and name in sys.modules:
                continue
            module = ModuleType(name)
            module.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, module)
        for name, value in names.items():
            setattr(sys.modules[path], name, value)
    ours = "hetspec_core.sglang.models."
    for short in ("fusion", "qwen3_eagle", "latent_eagle"):
        monkeypatch.delitem(sys.modules, ours + short, raising=False)
