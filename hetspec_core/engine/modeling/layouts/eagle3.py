"""EAGLE-3 as its authors, SpecForge and SGLang write it (`midlayer`, `d2t`, `t2d`), as ModelOpt does (`layers.0`), and
as vLLM's speculators library does (`layers.0`, with the layer's configuration inside its own).

`d2t` holds offsets: draft id i stands for token i + d2t[i] of the base.

Two ways of counting captured layers are in use. HetSpec, speculators and vLLM count as Hugging Face does (0 =
embeddings, i = output of layer i); SGLang, SpecForge and ModelOpt count the outputs of layers from 0, so their id is
one less. The key that names the layers decides: inside `eagle_config`, and under `target_layer_ids`, outputs are
counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.modeling.draft_files import FORMAT_VERSION, VOCAB_KEY, DraftFiles, LoadReport, StoredDraft
from hetspec_core.engine.modeling.layouts.base import (
    ExportedDraft,
    Layout,
    Ledger,
    architecture_config,
    check_config,
    class_prefix,
    written_config,
)
from hetspec_core.errors import CheckpointError, ModelError

KEY = "eagle_aux_hidden_state_layer_ids"
_NAMES = (KEY, "aux_hidden_state_layer_ids", "target_layer_ids")
_MOST = 1 << 12
"""More layers than any base has."""

_EMBEDDINGS = "counted from 0 = embeddings"
_OUTPUTS = "counted by outputs from 0: one added"


def told_layers(config: dict[str, Any], folder: object) -> tuple[tuple[int, ...] | None, str]:
    """Captured layers by Hugging Face id in the order of the file, None where it names none; and the key that has them.

    Raises:
        CheckpointError: a key does not hold a list of layers.
    """
    nested = config.get("eagle_config") or {}
    if not isinstance(nested, dict):
        raise CheckpointError(f"{folder}/config.json: eagle_config is no table", hint="fetch the draft again")
    found: dict[str, tuple[int, ...]] = {}
    for prefix, table in (("eagle_config.", nested), ("", config)):
        for name in _NAMES:
            ids = _ids(table.get(name), f"{prefix}{name}", folder)
            if ids:
                found[f"{prefix}{name}"] = tuple(number + _counts_outputs(f"{prefix}{name}") for number in ids)
    if not found:
        return None, ""
    place, layers = next(iter(found.items()))
    where = f"{place}, {_OUTPUTS if _counts_outputs(place) else _EMBEDDINGS}"
    odd = [f"{other} would give {_shown(ids)}" for other, ids in found.items() if ids != layers]
    return layers, f"{where}; {', '.join(odd)}" if odd else where


def other_count(layers: tuple[int, ...], place: str, base_layers: int | None) -> str:
    """A warning for ids that are the usual layers if they are counted the other way; empty where they are not.

    Args:
        layers: as they were read.
        place: the key, from `told_layers`.
        base_layers: number of the base's decoder layers; None = not known.
    """
    if base_layers is None or len(layers) != 3:
        return ""
    step = -1 if _OUTPUTS in place else 1
    if tuple(number + step for number in layers) != usual_layers(base_layers):
        return ""
    return (
        f"the layers {_shown(layers)} are taken as the key counts them ({place}); counted the other way they are "
        f"the usual {_shown(usual_layers(base_layers))} of a base of {base_layers} layers, so the file may mean those"
    )


def usual_layers(base_layers: int) -> tuple[int, int, int]:
    """The layers of a draft that names none: 2, N/2 and N-3 by Hugging Face id."""
    return 2, base_layers // 2, base_layers - 3


def _counts_outputs(place: str) -> bool:
    return place.startswith("eagle_config.") or place == "target_layer_ids"


def _ids(value: Any, place: str, folder: object) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number < _MOST for number in value):
        raise CheckpointError(
            f"{folder}/config.json: {place} is {str(value)[:60]}; it must be a list of layers of the base",
            hint="fetch the draft again, or write the ids as whole numbers",
        )
    return value


def _shown(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))


_FLAGS = ("fc_norm", "norm_output", "norm_before_residual")


class Eagle3Layout(Layout):
    """`LlamaForCausalLMEagle3`."""

    name = "eagle3"

    def recognises(self, files: DraftFiles) -> bool:
        config, named = files.config, files.architecture
        if named.endswith("Eagle3") or "eagle_config" in config or "draft_vocab_size" in config:
            return "speculators_model_type" not in config
        return named.endswith("ForCausalLM") and any(name.startswith("midlayer.") for name in files.tensors)

    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        check_config(files.config, files.folder)
        layers, place = told_layers(files.config, files.folder)
        eagle_config = files.config.get("eagle_config") or {}
        told = Told(
            layers=layers,
            layers_from=place,
            flags={name: bool(files.config.get(name, eagle_config.get(name, False))) for name in _FLAGS},
        )
        ledger = Ledger.of(files)
        ledger.rename(r"midlayer\.", "layers.0.")
        return read_eagle3(self.name, files, ledger, architecture_config(files.config), told, base_layers)

    def write(self, stored: StoredDraft) -> ExportedDraft:
        head = check_eagle3(stored, self.name)
        if min(head["layers"]) < 1:
            raise ModelError(
                "this draft reads the base's embeddings (layer 0), which EAGLE-3's layout cannot say",
                hint="train one with algorithm.options.layers of at least 1",
            )
        family = str(stored.config["model_type"])
        tensors = {
            (f"midlayer.{name.removeprefix('layers.0.')}" if name.startswith("layers.0.") else name): tensor
            for name, tensor in stored.tensors.items()
            if name != VOCAB_KEY
        }
        tensors |= vocab_maps(stored)
        config = written_config(
            stored.config,
            architectures=[f"{class_prefix(family)}ForCausalLMEagle3"],
            vocab_size=stored.base_vocab_size,
            draft_vocab_size=int(head["vocab_size"]),
            target_hidden_size=int(head["base_size"]),
            tie_word_embeddings=False,
            eagle_config={KEY: [layer - 1 for layer in head["layers"]], "use_aux_hidden_state": True},
            **{name: True for name in _FLAGS if head.get(name)},
        )
        notes = []
        if family != "llama":
            notes.append(f"SGLang's EAGLE-3 class is for llama; a {family} layer needs a class of its own there")
        if any(head.get(name) for name in _FLAGS):
            notes.append("fc_norm, norm_output and norm_before_residual are of EAGLE-3.1: not every server knows them")
        return ExportedDraft(config, tensors, notes=tuple(notes))


@dataclass(frozen=True)
class Told:
    """The facts of an EAGLE-3 draft in its configuration.

    Attributes:
        layers: captured layers by Hugging Face id; None = not named.
        layers_from: the key that has them.
        flags: fc_norm, norm_output, norm_before_residual.
    """

    layers: tuple[int, ...] | None
    layers_from: str
    flags: dict[str, bool]


def read_eagle3(
    layout: str, files: DraftFiles, ledger: Ledger, config: dict[str, Any], told: Told, base_layers: int | None
) -> LoadReport:
    """Read a ledger of `fc`, `layers.0.*`, `norm`, `lm_head` and vocabulary maps as a draft of algorithm eagle3."""
    folder = files.folder
    named = files.architecture or "EAGLE-3"
    weight = ledger.need("fc.weight", f"a {named} draft")
    ledger.need("layers.0.hidden_norm.weight", f"a {named} draft")
    rows = ledger.need("lm_head.weight", f"a {named} draft")
    inferred = {"algorithm": "eagle3: the first layer has a hidden_norm"}
    base_size = int(files.config.get("target_hidden_size") or config["hidden_size"])
    if weight.ndim != 2 or rows.ndim != 2:
        raise CheckpointError(f"fc.weight and lm_head.weight in {folder} must be matrices", hint="see docs/drafts.md")
    size = int(weight.shape[0])
    if weight.shape[1] == 0 or weight.shape[1] % base_size:
        raise CheckpointError(
            f"fc.weight in {folder} is {size} x {weight.shape[1]}; it needs a multiple of the base's {base_size}",
            hint="check target_hidden_size in config.json",
        )
    _drop_embedding(ledger, base_size, folder)
    layers = _layers(int(weight.shape[1]) // base_size, told, base_layers, folder, inferred)
    if told.layers is not None and (doubt := other_count(layers, told.layers_from, base_layers)):
        ledger.warnings.append(doubt)
    ids = _vocabulary(ledger, int(config["vocab_size"]), rows, folder, inferred)
    flags = dict(told.flags)
    has_fc_norm = "fc_norm.0.weight" in ledger.left
    if has_fc_norm != flags["fc_norm"]:
        inferred["fc_norm"] = f"{has_fc_norm}: fc_norm.0 is {'there' if has_fc_norm else 'not there'}"
        flags["fc_norm"] = has_fc_norm
    inferred |= {name: f"{flags[name]}: by config.json" for name in _FLAGS[1:]}
    head = {
        "hidden_size": size,
        "base_size": base_size,
        "vocab_size": int(rows.shape[0]),
        "layers": list(layers),
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        **flags,
    }
    settings = {
        "format_version": FORMAT_VERSION,
        "algorithm": {"name": "eagle3", "options": {"layers": ",".join(map(str, layers)), **flags}},
        "head": head,
        "skip_first_input_norm": False,
        "skip_output_norm": True,
        "base_vocab_size": int(config["vocab_size"]),
        "base_hidden_size": base_size,
        "captured_layers": list(layers),
    }
    if ids is not None:
        order = torch.argsort(ids)
        if not torch.equal(order, torch.arange(len(ids))):
            inferred["draft_vocab_ids"] = "sorted, and the rows of lm_head with them"
            ledger.left["lm_head.weight"] = rows[order].contiguous()
        ledger.add(VOCAB_KEY, ids[order].contiguous(), source="d2t")
    return ledger.reading(layout, config, settings, inferred)


def _drop_embedding(ledger: Ledger, base_size: int, folder: object) -> None:
    embedding = ledger.drop("embed_tokens.weight", "a copy of the base's embedding, which is used instead")
    if embedding is not None and (embedding.ndim != 2 or embedding.shape[1] != base_size):
        raise ModelError(
            f"the draft in {folder} has an embedding of its own, {embedding.shape[-1]} wide; the base is {base_size}",
            hint="HetSpec's drafts read the base's embedding; this one cannot be imported",
        )


def _layers(
    count: int, told: Told, base_layers: int | None, folder: object, inferred: dict[str, str]
) -> tuple[int, ...]:
    if told.layers is not None:
        if len(told.layers) != count:
            raise CheckpointError(
                f"fc.weight in {folder} is made for {count} captured layers, config.json names {len(told.layers)} "
                f"({told.layers_from})",
                hint="check the layers and target_hidden_size in config.json",
            )
        inferred["captured_layers"] = f"{', '.join(map(str, told.layers))} (0 = embeddings): {told.layers_from}"
        return told.layers
    if base_layers is None:
        raise ModelError(
            f"{folder} does not say which layers of the base it reads: the default depends on how many the base has",
            hint="name the base: --base PRESET",
        )
    if count != 3:
        raise ModelError(
            f"{folder} reads {count} layers of the base and does not say which",
            hint="put eagle_config.eagle_aux_hidden_state_layer_ids into its config.json",
        )
    layers = usual_layers(base_layers)
    inferred["captured_layers"] = f"{', '.join(map(str, layers))} (0 = embeddings): the default, 2, N/2 and N-3"
    return layers


def _vocabulary(
    ledger: Ledger, base_vocab: int, rows: Tensor, folder: object, inferred: dict[str, str]
) -> Tensor | None:
    """Base token id of each draft id, in the order of the rows; None for a whole vocabulary."""
    offsets = ledger.left.pop("d2t", None)
    known = ledger.drop("t2d", "follows from d2t, and was compared with it")
    size = int(rows.shape[0])
    if offsets is None:
        if size != base_vocab:
            raise CheckpointError(
                f"{folder} has {size} rows of lm_head beside a vocabulary of {base_vocab}, and no d2t",
                hint="without it the tokens of the rows are not known",
            )
        inferred["draft_vocab_size"] = f"{size}: the whole vocabulary"
        return None
    ids = _ids_of(offsets, size, base_vocab, folder)
    if known is not None:
        marks = torch.zeros(base_vocab, dtype=torch.bool)
        marks[ids] = True
        if known.shape != marks.shape or not torch.equal(marks, known.bool()):
            raise CheckpointError(f"d2t and t2d in {folder} contradict each other", hint="fetch the draft again")
    if size == base_vocab and torch.equal(ids, torch.arange(size)):
        ledger.dropped["d2t"] = "offsets of zero: draft ids are the base's"
        inferred["draft_vocab_size"] = f"{size}: the whole vocabulary, by d2t"
        return None
    if known is None and not bool(offsets.any()):
        # A buffer that was never filled looks like this; every reader would take it for the base's first tokens.
        raise CheckpointError(
            f"d2t in {folder} is all zeros, for {size} of {base_vocab} tokens, and there is no t2d to confirm it: "
            "the map was not written",
            hint="fetch the draft again, or put the map of its training into d2t (token of the base minus draft id)",
        )
    inferred["draft_vocab_size"] = f"{size} of {base_vocab}: by d2t, as offsets"
    return ids


def _ids_of(offsets: Tensor, size: int, base_vocab: int, folder: object) -> Tensor:
    """[Vd] token of the base for each draft id, by offsets.

    Raises:
        CheckpointError: they do not give one different token of the base for each row of the head.
    """
    if offsets.ndim == 1 and len(offsets) == size and size > 0 and not offsets.is_floating_point():
        ids = torch.arange(size) + offsets.to(torch.int64)
        if int(ids.min()) >= 0 and int(ids.max()) < base_vocab and len(ids.unique()) == size:
            return ids
    raise CheckpointError(
        f"d2t in {folder} does not give {size} different tokens of {base_vocab}",
        hint="it must hold offsets: token of the base minus draft id",
    )


def vocab_maps(stored: StoredDraft) -> dict[str, Tensor]:
    """`d2t` [Vd] int64 offsets and `t2d` [V] bool, also for a whole vocabulary: servers ask for both."""
    total = stored.base_vocab_size
    ids = stored.vocab_ids
    ids = torch.arange(total) if ids is None else ids.to(torch.int64)
    marks = torch.zeros(total, dtype=torch.bool)
    marks[ids] = True
    return {"d2t": ids - torch.arange(len(ids)), "t2d": marks}


def check_eagle3(stored: StoredDraft, layout: str) -> dict[str, Any]:
    """Arguments of the head of a draft that an EAGLE-3 layout can express.

    Raises:
        ModelError: it cannot express the draft.
    """
    head, reason = stored.head, ""
    if stored.algorithm != "eagle3":
        reason = f"it is a draft of algorithm {stored.algorithm}"
    elif head["hidden_size"] != head["base_size"]:
        reason = f"the draft is {head['hidden_size']} wide, the base {head['base_size']}"
    elif int(stored.config.get("num_hidden_layers", 1)) != 1:
        reason = f"it has {stored.config['num_hidden_layers']} layers"
    if reason:
        raise ModelError(
            f"this draft cannot be written in the layout {layout}: {reason}",
            hint="the layout is for one-layer EAGLE-3 drafts as wide as the base; "
            "`hetspec-core draft export --help` shows the others",
        )
    return head


VERSION = "0.3.0"
"""Version of the library whose configuration this follows."""
_BASES_OWN = ("verifier_lm_head.weight", "verifier_norm.weight")


class SpeculatorsLayout(Layout):
    """`speculators_model_type: eagle3`."""

    name = "speculators"

    def recognises(self, files: DraftFiles) -> bool:
        return "speculators_model_type" in files.config

    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        config = files.config
        kind = str(config["speculators_model_type"])
        if kind != "eagle3":
            raise ModelError(
                f"{files.folder} is a speculators draft of type {kind}; eagle3 can be imported",
                hint="HetSpec has no algorithm for it",
            )
        if config.get("norm_before_fc"):
            raise ModelError(
                f"{files.folder} has norm_before_fc: one norm over all captured layers together",
                hint="HetSpec has a norm for each captured layer (fc_norm), or none",
            )
        if config.get("embed_requires_grad"):
            raise ModelError(
                f"{files.folder} has a trained embedding of its own", hint="HetSpec's drafts read the base's"
            )
        layer = config.get("transformer_layer_config")
        if not isinstance(layer, dict):
            raise CheckpointError(f"{files.folder / 'config.json'} has no transformer_layer_config")
        check_config(layer, files.folder)
        layers, place = told_layers(config, files.folder)
        told = Told(
            layers=layers,
            layers_from=place,
            flags={name: bool(config.get(name, False)) for name in ("fc_norm", "norm_output", "norm_before_residual")},
        )
        ledger = Ledger.of(files)
        for name in _BASES_OWN:
            ledger.drop(name, "the base's own")
        return read_eagle3(self.name, files, ledger, architecture_config(layer), told, base_layers)

    def write(self, stored: StoredDraft) -> ExportedDraft:
        head = check_eagle3(stored, self.name)
        base = str(stored.settings.get("base") or "")
        layer = written_config(stored.config, vocab_size=stored.base_vocab_size, num_hidden_layers=1)
        config = {
            "speculators_model_type": "eagle3",
            "speculators_version": VERSION,
            "architectures": ["Eagle3Speculator"],
            "transformer_layer_config": layer,
            "draft_vocab_size": int(head["vocab_size"]),
            "target_hidden_size": None,
            KEY: list(head["layers"]),
            "norm_before_residual": bool(head.get("norm_before_residual")),
            "norm_before_fc": False,
            "fc_norm": bool(head.get("fc_norm")),
            "norm_output": bool(head.get("norm_output")),
            "embed_requires_grad": False,
            "tie_word_embeddings": False,
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [
                    {
                        "proposal_type": "greedy",
                        "speculative_tokens": 3,
                        "verifier_accept_k": 1,
                        "accept_tolerance": 0.0,
                    }
                ],
                "verifier": {"name_or_path": base, "architectures": []},
            },
        }
        tensors = {name: tensor for name, tensor in stored.tensors.items() if name != VOCAB_KEY} | vocab_maps(stored)
        notes = (
            "the embedding is the base's and is not in the file",
            "speculators_config.verifier.name_or_path must be what the server knows the base by",
        )
        return ExportedDraft(config, tensors, notes=notes)
