"""A draft as SGLang loads it, written beside the original; and whether SGLang can serve the draft.

The card of an algorithm names the function here that writes its drafts, as capability `sglang`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.modeling.base_lm import load_tokenizer
from hetspec_core.engine.modeling.checkpoint import check_captured_layers, read_draft
from hetspec_core.engine.modeling.draft_files import (
    CONFIG,
    VOCAB_KEY,
    DraftFiles,
    StoredDraft,
    check_finite,
    reduce_stored,
    write_draft_folder,
)
from hetspec_core.engine.modeling.layouts.base import ExportedDraft, written_config
from hetspec_core.engine.modeling.layouts.eagle import SERVED, TOKEN_MAP, EagleLayout
from hetspec_core.engine.modeling.layouts.eagle3 import Eagle3Layout
from hetspec_core.engine.modeling.sources import materialize
from hetspec_core.engine.modeling.token_counts import check_draft_vocab, commonest_tokens, read_token_counts
from hetspec_core.errors import HetSpecError, ModelError
from hetspec_core.sglang import versions
from hetspec_core.sglang.versions import Installed
from hetspec_core.spec import BaseSpec, DraftVocabChoice

LATENT_CLASS = "HetSpecLatentEagle"
OWN_CLASSES = ("HetSpecQwen3Eagle", "HetSpecQwen3MoeEagle", LATENT_CLASS)
"""Classes of `models`, by the names under which drafts are exported."""

LATENT_FAMILIES = ("llama", "mistral", "qwen3")
"""Families whose layers the latent class has."""

_EAGLE3_CLASS = "LlamaForCausalLMEagle3"
_FORM = 2
"""Raised when exports change, so that one of an older version is not served: 2 = with the keys of transformers 4."""


@dataclass(frozen=True)
class ServedDraft:
    """A draft ready to be served.

    Attributes:
        folder: in SGLang's layout.
        architecture: name of the class that must serve it.
        algorithm: for --speculative-algorithm.
        token_map: file of a reduced vocabulary, or None.
        needs_package: whether the class is one of HetSpec's.
        source: directory of the draft itself.
    """

    folder: Path
    architecture: str
    algorithm: str
    token_map: Path | None
    needs_package: bool
    source: Path


def served_draft(
    source: Path, base: BaseSpec, parent: Path, sglang: Installed, draft_vocab: DraftVocabChoice = "whole"
) -> ServedDraft:
    """Write a draft for SGLang below `parent`, unless it is there already.

    `draft_vocab` says how many tokens it proposes; `auto` is `whole` here.

    Raises:
        ModelError: SGLang cannot serve this draft, the message says why, the hint what would work; or a number of
            tokens is asked for, and it is not known which are common.
        SpecError: the base does not have so many tokens, or more than these are special.
        CheckpointError: the draft is damaged, or has weights that are not finite.
    """
    stored = read_draft(source, base_layers=base.architecture.num_hidden_layers).stored
    _check_pair(stored, base)
    check_captured_layers(stored, base.architecture.num_hidden_layers, base_name=base.name, folder=source)
    check_finite(stored.tensors, source)
    name = export_name(source)
    if isinstance(draft_vocab, int):
        whole, own = stored.base_vocab_size, stored.vocab_ids
        check_draft_vocab(draft_vocab, whole)
        if draft_vocab < (whole if own is None else len(own)):
            counts, special = read_token_counts(source), _special_tokens(base)
            own = None if own is None else own.to(torch.int64)
            ids = commonest_tokens(counts, draft_vocab, special, base_vocab_size=whole, own=own)
            stored, name = reduce_stored(stored, ids), f"{name}-{draft_vocab}"
    written = _writer(stored.algorithm)(stored)
    architecture = str(written.config["architectures"][0])
    needs_package = architecture in OWN_CLASSES
    if needs_package and sglang.classes:
        raise ModelError(
            f"{architecture} is served by a class of HetSpec's, made for SGLang {versions.INSIDE_RANGE}; "
            f"this is {sglang.version}, and it differs: {sglang.classes[0]}",
            hint=f"serve with SGLang {versions.INSIDE[-1]}, or train a draft of {', '.join(SERVED)}",
        )
    target = parent / name
    token_map = target / TOKEN_MAP if written.token_ids is not None else None
    if not (target / CONFIG).is_file():
        ids = written.token_ids
        more = {} if ids is None else {TOKEN_MAP: lambda file: torch.save(ids, file)}
        write_draft_folder(target, written.config, written.tensors, more)
    algorithm = "EAGLE3" if architecture == _EAGLE3_CLASS else "EAGLE"
    return ServedDraft(target, architecture, algorithm, token_map, needs_package, source)


def _special_tokens(base: BaseSpec) -> set[int]:
    """Token ids without which no answer ends."""
    tokenizer = load_tokenizer(base)
    return {*stop_ids(materialize(base.source), tokenizer), *tokenizer.all_special_ids}


def stop_ids(folder: Path, tokenizer: Any) -> list[int]:
    """Every token that ends an answer: of the generation configuration, the model's, and the tokenizer's."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    if getattr(tokenizer, "eos_token_id", None) is not None:
        found.add(tokenizer.eos_token_id)
    return sorted(int(value) for value in found)


def export_name(source: Path) -> str:
    """Name of the folder that a draft is exported to: another one when the draft is written anew.

    Raises:
        CheckpointError: it is no draft directory.
    """
    folder = DraftFiles(source).folder
    about = [_FORM, str(source.resolve()), _stamp(folder)]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return f"draft-{key}"


def _writer(algorithm: str) -> Callable[[StoredDraft], ExportedDraft]:
    """What writes drafts of an algorithm, by its card."""
    card = load_card("algorithms", algorithm)
    if "sglang" not in card.capabilities:
        able = ", ".join(each.name for each in list_cards("algorithms") if "sglang" in each.capabilities)
        raise _cannot(f"it has no class for drafts of algorithm {algorithm}", f"drafts of {able}")
    return card.load_capability("sglang")


def write_eagle(stored: StoredDraft) -> ExportedDraft:
    """An EAGLE-1/2 draft.

    Raises:
        ModelError: no class serves it.
    """
    family = str(stored.config.get("model_type"))
    try:
        written = EagleLayout().write(stored)
    except HetSpecError as error:
        raise _cannot(error.message, "a draft as wide as its base, without the norms that EAGLE leaves out") from error
    named = str(written.config["architectures"][0])
    if family not in SERVED and named not in OWN_CLASSES:
        raise _cannot(
            f"neither SGLang nor HetSpec has an EAGLE class for {family}",
            f"drafts of {', '.join(SERVED)} (SGLang's own), qwen3 and qwen3_moe (HetSpec's)",
        )
    return written


def write_eagle3(stored: StoredDraft) -> ExportedDraft:
    """An EAGLE-3 draft.

    Raises:
        ModelError: no class serves it.
    """
    family = str(stored.config.get("model_type"))
    written = Eagle3Layout().write(stored)
    named = str(written.config["architectures"][0])
    if named != _EAGLE3_CLASS:
        raise _cannot(f"it is an EAGLE-3 draft of {family}", f"EAGLE-3 drafts of llama layers ({_EAGLE3_CLASS})")
    return written


def write_latent(stored: StoredDraft) -> ExportedDraft:
    """A latent draft, as `models/latent_eagle.py` reads it.

    The configuration gives SGLang the width of the state, and as many layers as there are passes through them. The rest
    is in `hetspec_latent`.

    Raises:
        ModelError: the class cannot serve it.
    """
    head, family = stored.head, str(stored.config["model_type"])
    elsewhere = "`bench` and `chat` with the built-in backend run this one"
    if head["shift"]:
        raise _cannot(
            "a shifted latent is that of a token's parent in the tree, and SGLang hands a step its parents' states "
            "alone (EagleDraftInput.hidden_states, gathered in select_top_k_tokens), not whose children the tokens are",
            f"a latent draft trained with shift_latent = false; {elsewhere}",
        )
    if family not in LATENT_FAMILIES:
        raise _cannot(
            f"HetSpec has no latent class for {family}",
            f"latent drafts of {', '.join(LATENT_FAMILIES)}; {elsewhere}",
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


def _check_pair(stored: StoredDraft, base: BaseSpec) -> None:
    vocabulary = base.architecture.vocab_size
    if stored.base_vocab_size != vocabulary:
        raise _cannot(
            f"it was trained for a base of {stored.base_vocab_size} tokens, and {base.name} has {vocabulary}",
            "the base that it was trained for",
        )
    width = stored.head.get("base_size")
    if width is not None and int(width) != base.architecture.hidden_size:
        raise _cannot(
            f"it was trained for a base {width} wide, and {base.name} is {base.architecture.hidden_size}",
            "the base that it was trained for",
        )


def _cannot(reason: str, instead: str) -> ModelError:
    return ModelError(f"SGLang cannot serve this draft: {reason}", hint=f"what works: {instead}")


def _stamp(folder: Path) -> Sequence[object]:
    """What changes when a draft is written anew."""
    return [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir()) if file.is_file()
    ]
