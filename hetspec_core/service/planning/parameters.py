"""How many parameters a base and a draft have, from the sizes in their specs alone.

The formulas follow the modules that Hugging Face builds for a family: projections with the biases that the family has,
norms, routers and experts. A family that is not listed is counted as a Llama, and the count says that it is not exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetspec_core.catalog import load_card
from hetspec_core.errors import HetSpecError
from hetspec_core.spec import AlgorithmOptions, AlgorithmSpec, Architecture, DraftSizes, DraftSpec, EagleOptions, Passes


@dataclass(frozen=True)
class Family:
    """How the decoder layers of a family differ from a Llama's.

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
    "gemma3_text": Family(attention_bias_key=True, norms=4, head_norms="head"),
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


def count_draft(draft: DraftSpec, algorithm: AlgorithmSpec, base_width: int | None = None) -> ParameterCount:
    """Parameters of a draft: its layers, the norms it keeps, and the parts that its algorithm adds.

    Embedding and, mostly, output head are the base's and are not counted; `head_products` is what the (reduced) head
    costs. An algorithm whose options have no counts is counted as EAGLE-1/2, and the count is not exact.

    Args:
        draft: sizes and norms.
        algorithm: with its options.
        base_width: H of the base; the draft's own when absent.
    """
    sizes = draft.architecture
    width = sizes.hidden_size
    options, known = _options(algorithm)
    head = options.head_parameters(DraftSizes(width, base_width or width, draft.vocab_size or sizes.vocab_size))
    layers, active = _layers(sizes)
    # The first layer's own input norm is left out; or it reads pairs, with a second norm and wider projections.
    first = _pair_surplus(sizes) if head.reads_pairs else -width if draft.skip_first_input_norm else 0
    if draft.tie_layer_norms:
        first -= _shared_norms(sizes, lone_first=head.reads_pairs or draft.skip_first_input_norm)
    final_norm = 0 if draft.skip_output_norm or head.owns_output_norm else width
    around = head.projections + head.norms
    return ParameterCount(
        embedding=0,
        layers=layers + first,
        final_norm=final_norm,
        head=around + head.output_head,
        active=active + first + around + final_norm,
        head_products=head.logit_products,
        exact=sizes.model_type in FAMILIES and known,
    )


def count_passes(algorithm: AlgorithmSpec) -> Passes:
    """Passes of an algorithm, from its options; one for an unknown algorithm."""
    options, known = _options(algorithm)
    return options.passes() if known else Passes()


def _options(algorithm: AlgorithmSpec) -> tuple[AlgorithmOptions, bool]:
    """(options of an algorithm, True), or (those of EAGLE, False) when its options have no counts."""
    try:
        options = load_card("algorithms", algorithm.name).check_options(algorithm.options)
    except HetSpecError:
        options = None
    return (options, True) if isinstance(options, AlgorithmOptions) else (EagleOptions(), False)


def _pair_surplus(sizes: Architecture) -> int:
    """Additional parameters of EAGLE-3's first layer: a norm, and projections of twice the width."""
    one = head_dim(sizes)
    return sizes.hidden_size * (1 + one * (sizes.num_attention_heads + 2 * sizes.num_key_value_heads))


def _shared_norms(sizes: Architecture, *, lone_first: bool) -> int:
    """Parameters saved by layers that share their norms; a first layer without a plain input norm shares none."""
    family = FAMILIES.get(sizes.model_type) or Family()
    more, width = sizes.num_hidden_layers - 1, sizes.hidden_size
    others = (family.norms - 1) * width + _norms_of_heads(sizes, family)
    return more * others + max(0, more - lone_first) * width


def head_dim(sizes: Architecture) -> int:
    """Width of a head; when it is not given, that of Hugging Face."""
    return sizes.head_dim or sizes.hidden_size // sizes.num_attention_heads


def _layers(sizes: Architecture) -> tuple[int, int]:
    """Parameters of all layers, and those of them that one token passes through."""
    family = FAMILIES.get(sizes.model_type) or Family(experts=sizes.num_experts is not None)
    around = _attention(sizes, family) + family.norms * sizes.hidden_size
    total = active = 0
    for index in range(sizes.num_hidden_layers):
        if family.experts and _has_experts(sizes, index):
            router, expert, number, chosen = _experts(sizes)
            common = around + router + _shared_by_all(sizes, expert)
            total += common + number * expert
            active += common + chosen * expert
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
    return parameters + _norms_of_heads(sizes, family)


def _norms_of_heads(sizes: Architecture, family: Family) -> int:
    one = head_dim(sizes)
    if family.head_norms == "none":
        return 0
    return (2 if family.head_norms == "head" else sizes.num_attention_heads + sizes.num_key_value_heads) * one


def _mlp(sizes: Architecture, family: Family) -> int:
    width, inner = sizes.hidden_size, sizes.intermediate_size
    biased = family.mlp_bias_key and bool(sizes.extra.get("mlp_bias", False))
    return 3 * width * inner + (2 * inner + width if biased else 0)


def _has_experts(sizes: Architecture, index: int) -> bool:
    return _num_experts(sizes) > 0 and (index + 1) % int(sizes.extra.get("decoder_sparse_step", 1)) == 0


def _num_experts(sizes: Architecture) -> int:
    return int(sizes.num_experts or sizes.extra.get("num_local_experts", 0))


def _experts(sizes: Architecture) -> tuple[int, int, int, int]:
    """(router, one expert, experts that compute, experts of a token if all that it is routed to compute)."""
    number = _num_experts(sizes)
    real = number - int(sizes.extra.get("zero_compute_experts", 0))
    expert = 3 * sizes.hidden_size * (sizes.moe_intermediate_size or sizes.intermediate_size)
    return number * sizes.hidden_size, expert, real, min(real, sizes.num_experts_per_tok or number)


def _shared_by_all(sizes: Architecture, expert: int) -> int:
    """Parameters for every token: shared experts with their gate, and the vectors of constant experts."""
    extra, width = sizes.extra, sizes.hidden_size
    shared = int(extra.get("shared_experts", 0))
    gate = width if shared and extra.get("shared_expert_gate", False) else 0
    constant = extra.get("zero_expert_kind", "identity") == "constant"
    return shared * expert + gate + (int(extra.get("zero_compute_experts", 0)) * width if constant else 0)
