"""The common part of HetSpec's EAGLE classes in SGLang: fusion of embedding and state, decoder layers, and loading.

A family adds a layer: `layer(positions, hidden_states, forward_batch) -> hidden_states`, residual streams included. The
classes support one pipeline rank, as EAGLE drafts in SGLang do.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from sglang.srt.model_loader.weight_utils import default_weight_loader
from sglang.srt.models.qwen2 import Qwen2MLP
from sglang.srt.runtime_context import get_parallel
from sglang.srt.utils import add_prefix
from torch import Tensor, nn

STACKED = (
    ("qkv_proj", "q_proj", "q"),
    ("qkv_proj", "k_proj", "k"),
    ("qkv_proj", "v_proj", "v"),
    ("gate_up_proj", "gate_proj", 0),
    ("gate_up_proj", "up_proj", 1),
)
"""Parameter of the module, the name of its part in a checkpoint, and the number of the part."""

MakeLayer = Callable[[Any, int, Any, str], nn.Module]


class EagleLayer(nn.Module):
    """A decoder layer: attention and an MLP, each after a norm; the first layer of EAGLE has no norm before attention.

    Args:
        config: of the draft.
        layer_id: index in the draft.
        attention: called with positions, hidden states and batch.
        mlp: hidden states in and out, summed over the ranks.
        first_input_norm: whether the first layer has a norm before attention.
        attention_is_reduced: whether the attention's output is summed over the ranks; otherwise it is summed here.
    """

    def __init__(
        self,
        config: Any,
        layer_id: int,
        attention: nn.Module,
        mlp: nn.Module,
        *,
        first_input_norm: bool = False,
        attention_is_reduced: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = mlp
        normed = bool(layer_id) or first_input_norm
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if normed else nn.Identity()
        self.attention_is_reduced = attention_is_reduced
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor, forward_batch: Any) -> Tensor:
        """[T, H] -> [T, H]."""
        if hidden_states.shape[0] == 0:
            return hidden_states
        attended = self.self_attn(
            positions=positions, hidden_states=self.input_layernorm(hidden_states), forward_batch=forward_batch
        )
        if not self.attention_is_reduced and get_parallel().attn_tp_size > 1:
            attended = tensor_model_parallel_all_reduce(attended)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class FusionModel(nn.Module):
    """Embedding, fusion and layers: SGLang's `model` of a causal language model."""

    def __init__(self, config: Any, make_layer: MakeLayer, quant_config: Any, prefix: str) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size, config.hidden_size, prefix=add_prefix("embed_tokens", prefix)
        )
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(
            make_layer(config, number, quant_config, add_prefix(f"layers.{number}", prefix))
            for number in range(config.num_hidden_layers)
        )

    def forward(
        self, input_ids: Tensor, positions: Tensor, forward_batch: Any, input_embeds: Tensor | None = None
    ) -> Tensor:
        """[T] tokens, and [T, H] states of the batch -> [T, H] states."""
        embedding = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        hidden_states = self.fc(torch.cat((embedding, forward_batch.spec_info.hidden_states), dim=-1))
        for layer in self.layers:
            hidden_states = layer(positions, hidden_states, forward_batch)
        return hidden_states


class FusionForCausalLM(nn.Module):
    """An EAGLE draft in SGLang. A family sets `make_layer` or `make_model`, and `load_weight` for other names."""

    make_layer: MakeLayer

    def __init__(self, config: Any, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        self.quant_config = quant_config
        self.model = self.make_model(config, quant_config, add_prefix("model", prefix))
        self.lm_head = ParallelLMHead(
            getattr(config, "hot_vocab_size", config.vocab_size),
            config.hidden_size,
            quant_config=quant_config,
            prefix=add_prefix("lm_head", prefix),
        )
        self.logits_processor = LogitsProcessor(config)
        self.capture_aux_hidden_states = False

    @classmethod
    def make_model(cls, config: Any, quant_config: Any, prefix: str) -> Any:
        """The part before the output head: `embed_tokens`, and a forward from tokens to states."""
        return FusionModel(config, cls.make_layer, quant_config, prefix)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        forward_batch: Any,
        input_embeds: Tensor | None = None,
        get_embedding: bool = False,
        pp_proxy_tensors: Any = None,
    ) -> Any:
        """Logits and states for SGLang's speculative worker."""
        hidden_states = self.model(input_ids, positions, forward_batch, input_embeds)
        return self.logits_processor(input_ids, hidden_states, self.lm_head, forward_batch, None)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_embed_and_head(self) -> tuple[Tensor, Tensor]:
        return self.model.embed_tokens.weight, self.lm_head.weight

    def set_embed_and_head(self, embed: Tensor, head: Tensor) -> None:
        """Use the base's embedding and output head."""
        del self.model.embed_tokens.weight
        del self.lm_head.weight
        self.model.embed_tokens.weight = embed
        self.lm_head.weight = head
        torch.cuda.empty_cache()
        torch.cuda.synchronize()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load a checkpoint. A tensor without a parameter, or a parameter without a tensor, is an error.

        Raises:
            ValueError: names do not match; SGLang logs it and does not start.
        """
        places = dict(self.named_parameters())
        filled: set[str] = set()
        for name, tensor in weights:
            if name.startswith("lm_head."):
                continue
            filled.add(self.load_weight(f"model.{name}", tensor, places))
        ends = {"model.embed_tokens.weight", "lm_head.weight"}
        empty = sorted(places.keys() - filled - ends)
        if empty:
            raise ValueError(f"the draft's checkpoint lacks {', '.join(empty[:5])}")

    def load_weight(self, name: str, tensor: Tensor, places: dict[str, nn.Parameter]) -> str:
        """Load one tensor; returns the name of the parameter that took it, or took it as a part."""
        for target, part, number in STACKED:
            if f".{part}." in name:
                place = name.replace(f".{part}.", f".{target}.")
                parameter = self._place(place, name, places)
                parameter.weight_loader(parameter, tensor, number)
                return place
        parameter = self._place(name, name, places)
        getattr(parameter, "weight_loader", default_weight_loader)(parameter, tensor)
        return name

    @staticmethod
    def _place(place: str, name: str, places: dict[str, nn.Parameter]) -> Any:
        if place not in places:
            raise ValueError(f"the draft's checkpoint has {name}, which {place} of the model is not there for")
        return places[place]


def mlp_of(config: Any, width: int, quant_config: Any, prefix: str) -> nn.Module:
    """A dense MLP of this inner width, summed over the ranks."""
    return Qwen2MLP(config.hidden_size, width, config.hidden_act, quant_config=quant_config, prefix=prefix)


def rope_of(config: Any) -> dict[str, Any]:
    """Rotary arguments of SGLang's attention, from a configuration in transformers' newer or older form."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters and "rope_theta" in parameters:
        return {"rope_theta": parameters["rope_theta"], "rope_scaling": parameters}
    return {
        "rope_theta": getattr(config, "rope_theta", 1_000_000),
        "rope_scaling": getattr(config, "rope_scaling", None),
    }
