"""EAGLE-1/2 as its authors (SafeAILab/EAGLE) publish it and as SGLang serves it, and the drafts of specforge_het.

EAGLE: `fc`, `layers.i`, nothing else. The first layer has no input norm, the last one has none behind it, embedding and
head are the base's.

specforge_het, the predecessor of HetSpec: `draft_model/states.pt` inside a combined model. The combined
directory's `config.json` names algorithm, base and draft (`speculative_decoding_*`); a checkpoint of a training has the
run's `specforge_het.json` one or two directories up. Names of tensors: `eagle_fc.*`, `layers.*`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.modeling.draft_files import (
    FORMAT_VERSION,
    VOCAB_KEY,
    DraftFiles,
    LoadReport,
    StoredDraft,
    read_token_ids,
)
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

SERVED = ("llama", "qwen2", "mistral")
"""Families with an EAGLE class in SGLang itself; others need HetSpec's model package."""
TOKEN_MAP = "hot_token_ids.pt"
"""The reduced vocabulary, as SGLang reads it: a tensor [Vd]. A second safetensors file would be taken for weights."""
_ARCHITECTURES = re.compile(r"ForCausalLM(Eagle)?$|^HetSpec(?!Latent)\w+Eagle$")


class EagleLayout(Layout):
    """`LlamaForCausalLMEagle` of SGLang; the authors write `LlamaForCausalLM` for the same tensors."""

    name = "eagle"

    def recognises(self, files: DraftFiles) -> bool:
        return bool(_ARCHITECTURES.search(files.architecture))

    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        check_config(files.config, files.folder)
        ledger = Ledger.of(files)
        ledger.strip("model.")
        ledger.rename(r"eagle_fc\.", "fc.")
        ledger.drop("embed_tokens.weight", "a copy of the base's embedding, which is used instead")
        reading = read_fusion(self.name, files, ledger)
        ids = _hot_tokens(files.folder / TOKEN_MAP, reading.stored.base_vocab_size)
        if ids is not None:
            reading.stored.tensors[VOCAB_KEY] = ids
            reading.renamed[TOKEN_MAP] = VOCAB_KEY
            reading.inferred["draft_vocab_size"] = f"{len(ids)} of {reading.stored.base_vocab_size}: by {TOKEN_MAP}"
        return reading

    def write(self, stored: StoredDraft) -> ExportedDraft:
        _check_writable(stored)
        tensors = {name: tensor for name, tensor in stored.tensors.items() if name != VOCAB_KEY}
        weight = tensors["fc.weight"]
        if "fc.bias" not in tensors:
            # SGLang's module has a bias in any case, and keeps random numbers where the file has none.
            tensors["fc.bias"] = torch.zeros(weight.shape[0], dtype=weight.dtype)
        family = str(stored.config["model_type"])
        notes = []
        if family not in SERVED:
            notes.append(f"SGLang itself has no EAGLE class for {family}: serve it with `hetspec-core serve`")
        if stored.vocab_ids is not None:
            notes.append(f"reduced vocabulary: serve it with --speculative-token-map {TOKEN_MAP}")
        config = written_config(
            stored.config,
            architectures=[eagle_architecture(family)],
            # A draft's own, whatever the base's is: SGLang does not start with a tied draft.
            tie_word_embeddings=False,
            vocab_size=stored.base_vocab_size,
        )
        return ExportedDraft(config, tensors, stored.vocab_ids, tuple(notes))


def eagle_architecture(model_type: str) -> str:
    """Name of the class that serves an EAGLE-1/2 draft of a family: SGLang's, or one of HetSpec's model package."""
    prefix = class_prefix(model_type)
    return f"{prefix}ForCausalLMEagle" if model_type in SERVED else f"HetSpec{prefix}Eagle"


def _hot_tokens(file: Path, base_vocab: int) -> Tensor | None:
    """[Vd] sorted token ids of the reduced vocabulary beside an export; None when there is no such file.

    Raises:
        CheckpointError: it does not hold different tokens of the base.
    """
    ids = read_token_ids(file)
    if ids is None:
        return None
    ids = ids.to(torch.int64).sort().values  # the rows are the base's own, so their order is free
    if len(ids) == 0 or int(ids[0]) < 0 or int(ids[-1]) >= base_vocab or bool((ids[1:] == ids[:-1]).any()):
        raise CheckpointError(
            f"{file} does not hold different tokens of a vocabulary of {base_vocab}",
            hint="export the draft again, or take the file away to use the whole vocabulary",
        )
    return ids if len(ids) < base_vocab else None


def read_fusion(layout: str, files: DraftFiles, ledger: Ledger) -> LoadReport:
    """Read a ledger of `fc.*`, `layers.i.*` and perhaps norms as a draft of algorithm eagle."""
    config = files.config
    weight = ledger.need("fc.weight", "an EAGLE-1/2 draft")
    if weight.ndim != 2 or weight.shape[1] != 2 * weight.shape[0]:
        shape = " x ".join(str(size) for size in weight.shape)
        raise CheckpointError(
            f"fc.weight in {files.folder} is {shape}; an EAGLE-1/2 draft has H x 2H, for an embedding and a feature",
            hint="see docs/drafts.md",
        )
    bias = "fc.bias" in ledger.left
    skip_first = "layers.0.input_layernorm.weight" not in ledger.left
    skip_output = "norm.weight" not in ledger.left
    ledger.left |= _joined_experts(ledger)
    size = int(weight.shape[0])
    settings = {
        "format_version": FORMAT_VERSION,
        "algorithm": {"name": "eagle", "options": {"fusion_bias": bias}},
        "head": {"hidden_size": size, "base_size": size, "bias": bias},
        "skip_first_input_norm": skip_first,
        "skip_output_norm": skip_output,
        "base_vocab_size": int(config["vocab_size"]),
        "base_hidden_size": size,
        "captured_layers": [],
    }
    inferred = {
        "algorithm": f"eagle: fc.weight is {size} x {2 * size}",
        "fusion_bias": f"{bias}: fc.bias is {'there' if bias else 'not there'}",
        "skip_first_input_norm": f"{skip_first}: layers.0.input_layernorm is {'not there' if skip_first else 'there'}",
        "skip_output_norm": f"{skip_output}: norm is {'not there' if skip_output else 'there'}",
    }
    return ledger.reading(layout, architecture_config(config), settings, inferred)


_EXPERT = re.compile(r"^(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$")


def _joined_experts(ledger: Ledger) -> dict[str, Tensor]:
    """Experts written one by one (transformers 4), joined into the two tensors of transformers 5."""
    found: dict[str, dict[int, dict[str, str]]] = {}
    for name in ledger.left:
        hit = _EXPERT.match(name)
        if hit:
            found.setdefault(hit[1], {}).setdefault(int(hit[2]), {})[hit[3]] = name
    joined: dict[str, Tensor] = {}
    for place, experts in found.items():
        names = [experts.get(number) for number in range(len(experts))]
        if any(each is None or len(each) != 3 for each in names):
            raise CheckpointError(f"{ledger.folder}: the experts of {place} are not complete", hint="fetch it again")
        parts = [{kind: ledger.left.pop(name) for kind, name in each.items()} for each in names if each]
        joined[f"{place}.gate_up_proj"] = torch.stack([torch.cat([p["gate_proj"], p["up_proj"]]) for p in parts])
        joined[f"{place}.down_proj"] = torch.stack([part["down_proj"] for part in parts])
        for each in names:
            for kind, name in (each or {}).items():
                ledger.renamed[name] = f"{place}.{'down_proj' if kind == 'down_proj' else 'gate_up_proj'}"
    return joined


def _check_writable(stored: StoredDraft) -> None:
    """Raises ModelError for a draft that EAGLE-1/2's layout cannot express."""
    head = stored.head
    reason = ""
    if stored.algorithm != "eagle":
        reason = f"it is a draft of algorithm {stored.algorithm}"
    elif head.get("hidden_size") != head.get("base_size"):
        reason = f"the draft is {head.get('hidden_size')} wide, the base {head.get('base_size')}"
    elif not stored.settings.get("skip_first_input_norm", True):
        reason = "its first layer has an input norm"
    elif not stored.settings.get("skip_output_norm", True):
        reason = "it has a norm behind the last layer"
    if reason:
        raise ModelError(
            f"this draft cannot be written in the EAGLE-1/2 layout: {reason}",
            hint="the layout is for EAGLE drafts as wide as the base with draft.skip_first_input_norm and "
            "draft.skip_output_norm true; `hetspec-core draft export --help` shows the others",
        )


DRAFT_FOLDER = "draft_model"
_RUN_FILE = "specforge_het.json"
_KEY = "speculative_decoding_"
_KNOWN = ("eagle", "eaglev2")


class OriginLayout(Layout):
    """A combined model, or the `draft_model` directory of one or of a checkpoint."""

    name = "origin"

    def recognises(self, files: DraftFiles) -> bool:
        if any(key.startswith(_KEY) for key in files.config):
            return True
        return (files.folder / "states.pt").is_file()

    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        combined = files.config if any(key.startswith(_KEY) for key in files.config) else None
        if combined is not None and (files.folder / DRAFT_FOLDER).is_dir():
            files = DraftFiles(files.folder / DRAFT_FOLDER)
        facts = combined or _facts_above(files.folder)
        algorithm = facts.get(f"{_KEY}algorithm")
        if isinstance(algorithm, str) and algorithm.lower() == "experimental":
            raise ModelError(
                f"{files.folder} is a draft of the origin's algorithm Experimental, which is not imported: it leaves "
                "out the first layer's input norm in the first recurrence and has it in the others, as no draft here "
                "does, and nothing that is published names its tensors",
                hint="train one here: algorithm latent, as in recipe qwen3-4b-latent, does the rest alike",
            )
        if isinstance(algorithm, str) and algorithm.lower() not in _KNOWN:
            raise ModelError(
                f"{files.folder} is a draft of the origin's algorithm {algorithm}; EagleV2 can be imported",
                hint="train a draft of the same kind here: algorithm latent",
            )
        check_config(files.config, files.folder)
        ledger = Ledger.of(files)
        ledger.rename(r"(?:draft_model\.|model\.)?eagle_fc\.", "fc.")
        ledger.strip("model.")
        ledger.drop("embed_tokens.weight", "a copy of the base's embedding, which is used instead")
        reading = read_fusion(self.name, files, ledger)
        for flag, ours in (
            ("skip_first_input_layernorm", "skip_first_input_norm"),
            ("skip_output_norm", "skip_output_norm"),
        ):
            said = facts.get(flag)
            if isinstance(said, bool) and said != reading.stored.settings[ours]:
                raise CheckpointError(f"{files.folder}: config says {flag} = {said}, the tensors say otherwise")
        base = facts.get(f"{_KEY}base_model_path")
        if isinstance(base, str) and base:
            reading.stored.settings["base"] = base
            reading.inferred["base"] = f"{base}: by the configuration"
        return reading


def _facts_above(folder: Path) -> dict[str, Any]:
    """The facts in the directories above a draft: the combined model's configuration, or the run's."""
    above = DraftFiles(folder.parent).json("config.json") or {}
    if any(key.startswith(_KEY) for key in above):
        return above
    for place in (folder.parent, folder.parent.parent):
        run = DraftFiles(place).json(_RUN_FILE)
        if run is not None:
            algorithm = run.get("modeling.init_speculative_algorithm") or run.get("init_speculative_algorithm")
            name = algorithm[0] if isinstance(algorithm, list) and algorithm else algorithm
            facts = {f"{_KEY}base_model_path": run.get("modeling.model_path") or run.get("model_path")}
            if isinstance(name, str):  # "'EagleV2','dict(draft_layers=1)'", of which the first word is the name
                facts[f"{_KEY}algorithm"] = name.split(",")[0].strip(" '\"(")
            return facts
    return {}
