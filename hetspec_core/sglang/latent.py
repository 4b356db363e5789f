"""A latent draft as HetSpec's class in SGLang reads it (`models/latent_eagle.py`). It knows no other layout."""

from __future__ import annotations

from typing import Any

from hetspec_core.engine.modeling.layouts.base import ExportedDraft, written_config
from hetspec_core.engine.modeling.stored_draft import VOCAB_KEY, StoredDraft
from hetspec_core.errors import ModelError

LATENT_CLASS = "HetSpecLatentEagle"
FAMILIES = ("llama", "mistral", "qwen3")
"""Families whose layers that class has."""

_ELSEWHERE = "`bench` and `chat` with the built-in backend run this one"


def write_latent(stored: StoredDraft) -> ExportedDraft:
    """Configuration and tensors for SGLang.

    The configuration tells SGLang of the state's width and of as many layers as there are passes through them; the
    rest is in `hetspec_latent`.

    Raises:
        ModelError: the class cannot serve it; the message says why, the hint what would work.
    """
    head, family = stored.head, str(stored.config["model_type"])
    if head["shift"]:
        raise ModelError(
            "a shifted latent is that of a token's parent in the tree, and SGLang hands a step its parents' states "
            "alone (EagleDraftInput.hidden_states, gathered in select_top_k_tokens), not whose children the tokens are",
            hint=f"a latent draft trained with shift_latent = false; {_ELSEWHERE}",
        )
    if family not in FAMILIES:
        raise ModelError(
            f"HetSpec has no latent class for {family}",
            hint=f"latent drafts of {', '.join(FAMILIES)}; {_ELSEWHERE}",
        )
    config = written_config(stored.config)
    depth, width, base_width = int(config["num_hidden_layers"]), int(head["hidden_size"]), int(head["base_size"])
    heads = int(config["num_attention_heads"])
    passes = int(head["refinements"]) * int(head["recurrences"]) * int(head["repeats"])
    more: dict[str, Any] = {
        "architectures": [LATENT_CLASS],
        "tie_word_embeddings": False,
        "vocab_size": stored.base_vocab_size,
        "hidden_size": base_width,
        "head_dim": int(config.get("head_dim") or width // heads),
        "num_hidden_layers": passes * depth,
        "hetspec_latent": {
            "family": family,
            "hidden_size": width,
            "layers": depth,
            "refinements": int(head["refinements"]),
            "recurrences": int(head["recurrences"]),
            "repeats": int(head["repeats"]),
            "learned": head["initial"] == "learned",
            "first_input_norm": not stored.settings.get("skip_first_input_norm", True),
            "output_norm": not stored.settings.get("skip_output_norm", True),
        },
    }
    config = {key: value for key, value in config.items() if key not in ("layer_types", "max_window_layers")} | more
    if family == "llama" and base_width % heads:
        # Transformers takes no Llama configuration whose width its heads do not divide, and this width is the state's.
        config |= {"model_type": "mistral", "sliding_window": None}
    tensors = {name: tensor for name, tensor in stored.tensors.items() if name != VOCAB_KEY}
    return ExportedDraft(config, tensors, stored.vocab_ids)
