"""How many parameters a base and a draft have, from the sizes in their specs alone.

The formulas follow the modules that Hugging Face builds for a family: projections with the biases that the family has,
norms, routers and experts. A family that is not listed is counted as a Llama, and the count says that it is not exact.
It knows sizes only: no files, no devices, no number types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetspec_core.spec import AlgorithmSpec, Architecture, DraftSpec


@dataclass(frozen=True)
class Family:
    """What makes the decoder layers of a family differ from a Llama's.

    Attributes:
        qkv_bias: queries, keys and values always have biases.
        attention_bias_key: `attention_bias` in the configuration gives biases to all four projections.
        mlp_bias_key: `mlp_bias` in the configuration gives biases to the MLP.
        norms: norms of width H per layer.
        head_norms: norms of queries and keys: none, one head wide, or as wide as all heads.
        experts: layers may have experts instead of an MLP.
    """

    qkv_bias: bool = False
    attention_bias_key: bool = False
    mlp_bias_key: bool = False
    norms: int = 2
    head_norms: Literal["none", "head", "all_heads"] = "none"
    experts: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(attention_bias_key=True, mlp_bias_key=True),
    "granite": Family(attention_bias_key=True, mlp_bias_key=True),
    "mistral": Family(),
    "phi3": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(attention_bias_key=True, head_norms="head"),
    "gemma": Family(attention_bias_key=True),
    "gemma2": Family(attention_bias_key=True, norms=4),
    "olmo2": Family(attention_bias_key=True, head_norms="all_heads"),
    "mixtral": Family(experts=True),
    "qwen3_moe": Family(attention_bias_key=True, head_norms="head", experts=True),
}
"""Families whose count is exact, by their Hugging Face model type."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model, by part.

    Attributes:
        embedding: V x H.
        layers: all decoder layers.
        final_norm: H, or 0 without one.
        head: V x H, or 0 when it shares the embedding's weights; for a draft, its fusion layer.
        active: those of the layers that one token passes through (all of them without experts).
        head_products: rows of the output head times H, whether shared or not: what one token's logits cost.
        exact: whether the family is one whose modules are known.
    """

    embedding: int
    layers: int
    final_norm: int
    head: int
    active: int
    head_products: int
    exact: bool

    @property
    def total(self) -> int:
        """All parameters, shared ones once."""
        return self.embedding + self.layers + self.final_norm + self.head


def count_base(sizes: Architecture) -> ParameterCount:
    """Parameters of a causal language model of these sizes."""
    layers, active = _layers(sizes)
    embedding = sizes.vocab_size * sizes.hidden_size
    return ParameterCount(
        embedding=embedding,
        layers=layers,
        final_norm=sizes.hidden_size,
        head=0 if sizes.tie_word_embeddings else embedding,
        active=active,
        head_products=embedding,
        exact=sizes.model_type in FAMILIES,
    )


def count_draft(draft: DraftSpec, algorithm: AlgorithmSpec) -> ParameterCount:
    """Parameters of a draft: its layers, the norms it keeps, and the fusion layer FC([embedding; feature]).

    Embedding and output head are the base's and are not counted; `head_products` is what the (reduced) head costs.
    """
    sizes = draft.architecture
    width = sizes.hidden_size
    layers, active = _layers(sizes)
    skipped = width if draft.skip_first_input_norm else 0
    fusion = 2 * width * width + (width if algorithm.options.get("fusion_bias", True) else 0)
    return ParameterCount(
        embedding=0,
        layers=layers - skipped,
        final_norm=0 if draft.skip_output_norm else width,
        head=fusion,
        active=active - skipped + fusion,
        head_products=(draft.vocab_size or sizes.vocab_size) * width,
        exact=sizes.model_type in FAMILIES,
    )


def head_dim(sizes: Architecture) -> int:
    """Width of a head, as Hugging Face takes it when it is not given."""
    return sizes.head_dim or sizes.hidden_size // sizes.num_attention_heads


def _layers(sizes: Architecture) -> tuple[int, int]:
    """Parameters of all layers, and those of them that one token passes through."""
    family = FAMILIES.get(sizes.model_type) or Family(experts=sizes.num_experts is not None)
    around = _attention(sizes, family) + family.norms * sizes.hidden_size
    total = active = 0
    for index in range(sizes.num_hidden_layers):
        if family.experts and _has_experts(sizes, index):
            router, expert, number, chosen = _experts(sizes)
            total += around + router + number * expert
            active += around + router + chosen * expert
        else:
            mlp = _mlp(sizes, family)
            total += around + mlp
            active += around + mlp
    return total, active


def _attention(sizes: Architecture, family: Family) -> int:
    width, one = sizes.hidden_size, head_dim(sizes)
    queries, keys = sizes.num_attention_heads * one, sizes.num_key_value_heads * one
    parameters = width * queries + 2 * width * keys + queries * width
    everywhere = family.attention_bias_key and bool(sizes.extra.get("attention_bias", False))
    if family.qkv_bias or everywhere:
        parameters += queries + 2 * keys
    if everywhere:
        parameters += width
    if family.head_norms == "head":
        parameters += 2 * one
    elif family.head_norms == "all_heads":
        parameters += queries + keys
    return parameters


def _mlp(sizes: Architecture, family: Family) -> int:
    width, inner = sizes.hidden_size, sizes.intermediate_size
    biased = family.mlp_bias_key and bool(sizes.extra.get("mlp_bias", False))
    return 3 * width * inner + (2 * inner + width if biased else 0)


def _has_experts(sizes: Architecture, index: int) -> bool:
    return _num_experts(sizes) > 0 and (index + 1) % int(sizes.extra.get("decoder_sparse_step", 1)) == 0


def _num_experts(sizes: Architecture) -> int:
    return int(sizes.num_experts or sizes.extra.get("num_local_experts", 0))


def _experts(sizes: Architecture) -> tuple[int, int, int, int]:
    """(router, one expert, experts, experts of a token)."""
    number = _num_experts(sizes)
    expert = 3 * sizes.hidden_size * (sizes.moe_intermediate_size or sizes.intermediate_size)
    return number * sizes.hidden_size, expert, number, min(number, sizes.num_experts_per_tok or number)
