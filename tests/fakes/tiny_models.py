"""Bases of many families and drafts for them, random, in memory, a few thousand weights each."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hetspec_core.catalog import load_card
from hetspec_core.engine.data.batches import Batch
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import AlgorithmSpec, Architecture, DraftSpec

VOCAB = 48
HIDDEN = 32
CONTEXT = 256

_SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
_GPT2: dict[str, Any] = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_inner": 48, "initializer_range": 0.3}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SIZES,
    "qwen3": _SIZES,
    "mistral": _SIZES,
    "qwen2": _SIZES,
    "gemma": _SIZES,
    "gemma2": _SIZES | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "granite": _SIZES | {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.2},
    "cohere": _SIZES | {"logit_scale": 0.25},
    "phi": _SIZES | {"partial_rotary_factor": 0.5},
    "gpt2": _GPT2,
    "gemma3_text": _SIZES | {"query_pre_attn_scalar": 8},
    "qwen3_moe": _SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}
"""Configuration of each family by its Hugging Face model type; what makes a family special is switched on."""


def tiny_model(
    family: str = "llama",
    *,
    seed: int = 0,
    vocab: int = VOCAB,
    context: int = CONTEXT,
    stop_ids: tuple[int, ...] = (),
    head_factor: float = 1.0,
    tied: bool = False,
    **sizes: Any,
) -> Any:
    """A random Hugging Face causal LM in float32.

    Args:
        family: a key of FAMILIES.
        seed: of the weights.
        vocab: V.
        context: most positions.
        stop_ids: end-of-sequence ids; none = the model never stops by itself.
        head_factor: the head's weights times this; large = a base that is sure of everything.
        tied: whether the head shares the embedding's weights.
        sizes: keys of the configuration instead of the family's.
    """
    positions = {"n_positions": context} if family == "gpt2" else {"max_position_embeddings": context}
    values = FAMILIES[family] | positions | sizes
    ends = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": list(stop_ids) or None}
    config = AutoConfig.for_model(family, vocab_size=vocab, tie_word_embeddings=tied, **ends, **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(head_factor)
    return model


def tiny_base(family: str = "llama", **options: Any) -> BaseLM:
    """`tiny_model` as a base without a tokenizer; options as there."""
    return BaseLM(tiny_model(family, **options), None, name=f"tiny-{family}", fingerprint=f"tiny-{family}")


ALGORITHMS: dict[str, dict[str, Any]] = {
    "eagle": {},
    "eagle3": {"ttt_steps": 3},
    "latent": {"refinements": 2, "recurrences": 2, "shift_latent": True},
}
"""Options under which each registered algorithm shows all that it does; an algorithm without an entry has defaults."""

EXPERTS: dict[str, Any] = {"zero_compute_experts": 2, "shared_experts": 1, "router_aux_loss_coef": 0.01}


def algorithm_spec(name: str = "eagle", **options: Any) -> AlgorithmSpec:
    """An algorithm with the options above, and others over them."""
    return AlgorithmSpec(name=name, options=ALGORITHMS.get(name, {}) | options)


def draft_spec(
    base: BaseLM, backbone: str = "llama", *, layers: int = 1, hidden: int | None = None, **options: Any
) -> DraftSpec:
    """The spec of a small draft for a base, its weights random unless the options say otherwise."""
    model_type = load_card("backbones", backbone).capabilities.get("model_type", "smollm3" if backbone == "hf" else "")
    mixed = model_type == "qwen3_moe"
    architecture = Architecture(
        model_type=model_type,
        hidden_size=hidden or base.hidden_size,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=base.vocab_size,
        max_position_embeddings=512,
        num_experts=6 if mixed else None,
        num_experts_per_tok=2 if mixed else None,
        moe_intermediate_size=24 if mixed else None,
        extra={"initializer_range": 0.3} | (EXPERTS if mixed else {}),
    )
    return DraftSpec(name="tiny-draft", backbone=backbone, architecture=architecture, **({"init": "random"} | options))


def tiny_draft(
    base: BaseLM,
    backbone: str = "llama",
    *,
    algorithm: str = "eagle",
    layers: int = 1,
    hidden: int | None = None,
    seed: int = 1,
    vocab: tuple[int, ...] = (),
    **options: Any,
) -> DraftLM:
    """A random draft for a base; `vocab` are the base's ids of a reduced vocabulary, `options` the algorithm's."""
    ids = torch.tensor(vocab) if vocab else None
    spec = draft_spec(base, backbone, layers=layers, hidden=hidden)
    draft = build_draft(spec, algorithm_spec(algorithm, **options), base, seed=seed, vocab=ids)
    return draft.eval().requires_grad_(False)


def perfect_pair(
    *, seed: int = 0, layers: int = 2, vocab: int = VOCAB, head_factor: float = 20.0
) -> tuple[BaseLM, DraftLM]:
    """A base and a draft that always proposes the base's own next token.

    The base's attention writes nothing, so its state at a token depends on that token alone; the draft is the base's
    own layers and final norm, fed with the embedding only. The large head makes the likeliest path stay in any tree.
    """
    base = tiny_base(seed=seed, vocab=vocab, num_hidden_layers=layers, head_factor=head_factor)
    with torch.no_grad():
        for layer in base.decoder.layers:
            layer.self_attn.o_proj.weight.zero_()
    spec = draft_spec(base, layers=layers, skip_first_input_norm=False, skip_output_norm=False)
    draft = build_draft(spec, AlgorithmSpec(), base)
    with torch.no_grad():
        draft.backbone.decoder.load_state_dict(base.decoder.state_dict() | {}, strict=False)
        draft.head.fc.weight.zero_()
        draft.head.fc.weight[:, : base.hidden_size].copy_(torch.eye(base.hidden_size))
        draft.head.fc.bias.zero_()
    return base, draft.eval().requires_grad_(False)


def ragged_prompts(lengths: tuple[int, ...], *, vocab: int = VOCAB, seed: int = 0) -> list[list[int]]:
    """Random prompts of these lengths."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=random).tolist() for length in lengths]


def make_batch(mask: list[list[int]], *, seed: int = 0, valid: list[list[int]] | None = None) -> Batch:
    """Features and targets are views of one tensor, as the real batches' are."""
    random = torch.Generator().manual_seed(seed)
    supervised = torch.tensor(mask).bool()
    rows, width = supervised.shape
    states = torch.randn(rows, width + 1, HIDDEN, generator=random)
    return Batch(
        tokens=torch.randint(0, VOCAB, (rows, width), generator=random),
        features=states[:, :-1],
        targets=states[:, 1:],
        mask=supervised,
        valid=torch.tensor(valid).bool() if valid else torch.ones_like(supervised),
        positions=torch.arange(width).expand(rows, -1),
    )


MASK = [[0, 1, 1, 0], [1, 0, 0, 1]]
