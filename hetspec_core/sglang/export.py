"""A draft and its base as SGLang loads them, written beside the originals; and whether SGLang can serve the draft.

It knows layouts and what SGLang has classes for; it starts nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hetspec_core.engine.modeling.checkpoint import check_captured_layers, read_draft
from hetspec_core.engine.modeling.draft_files import CONFIG, DraftFiles, check_finite, write_draft_folder
from hetspec_core.engine.modeling.layouts.base import ExportedDraft
from hetspec_core.engine.modeling.layouts.eagle import SERVED, TOKEN_MAP, EagleLayout
from hetspec_core.engine.modeling.layouts.eagle3 import Eagle3Layout
from hetspec_core.engine.modeling.stored_draft import StoredDraft
from hetspec_core.errors import HetSpecError, ModelError
from hetspec_core.sglang import versions
from hetspec_core.sglang.latent import LATENT_CLASS, write_latent
from hetspec_core.sglang.versions import Installed
from hetspec_core.spec import BaseSpec

OWN_CLASSES = ("HetSpecQwen3Eagle", "HetSpecQwen3MoeEagle", LATENT_CLASS)
"""What `models` brings, by the names under which drafts are exported."""
_EAGLE3 = "LlamaForCausalLMEagle3"
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


def served_draft(source: Path, base: BaseSpec, parent: Path, sglang: Installed) -> ServedDraft:
    """Write a draft for SGLang below `parent`, unless it is there already.

    Args:
        source: a draft directory in any layout.
        base: what it drafts for.
        parent: folder of exports; never the draft's own.
        sglang: what shall serve it.

    Raises:
        ModelError: SGLang cannot serve this draft; the message says why, the hint what would work.
        CheckpointError: the draft is damaged, or has weights that are not finite.
    """
    stored = read_draft(source, base_layers=base.architecture.num_hidden_layers).stored
    _check_pair(stored, base)
    check_captured_layers(stored, base.architecture.num_hidden_layers, base_name=base.name, folder=source)
    check_finite(stored.tensors, source)
    written = _write(stored)
    architecture = str(written.config["architectures"][0])
    needs_package = architecture in OWN_CLASSES
    if needs_package and sglang.classes:
        raise ModelError(
            f"{architecture} is served by a class of HetSpec's, made for SGLang {versions.INSIDE_RANGE}; "
            f"this is {sglang.version}, and it differs: {sglang.classes[0]}",
            hint=f"serve with SGLang {versions.INSIDE[-1]}, or train a draft of {', '.join(SERVED)}",
        )
    target = parent / export_name(source)
    token_map = target / TOKEN_MAP if written.token_ids is not None else None
    if not (target / CONFIG).is_file():
        ids = written.token_ids
        more = {} if ids is None else {TOKEN_MAP: lambda file: torch.save(ids, file)}
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in written.tensors.items()}
        write_draft_folder(target, written.config, tensors, more)
    algorithm = "EAGLE3" if architecture == _EAGLE3 else "EAGLE"
    return ServedDraft(target, architecture, algorithm, token_map, needs_package, source)


def export_name(source: Path) -> str:
    """Name of the folder that a draft is exported to: another one when the draft is written anew.

    Raises:
        CheckpointError: it is no draft directory.
    """
    folder = DraftFiles(source).folder
    about = [_FORM, str(source.resolve()), _stamp(folder)]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    return f"draft-{key}"


def _write(stored: StoredDraft) -> ExportedDraft:
    family = str(stored.config.get("model_type"))
    if stored.algorithm == "eagle3":
        written = Eagle3Layout().write(stored)
        named = str(written.config["architectures"][0])
        if named != _EAGLE3:
            raise _cannot(f"it is an EAGLE-3 draft of {family}", f"EAGLE-3 drafts of llama layers ({_EAGLE3})")
        return written
    if stored.algorithm == "latent":
        try:
            return write_latent(stored)
        except HetSpecError as error:
            raise _cannot(error.message, error.hint) from error
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
