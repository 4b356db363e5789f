"""EAGLE-3 as vLLM's speculators library writes it: one configuration with the layer's inside, `layers.0`, maps.

Captured layers are counted as Hugging Face does (0 = embeddings), as here.
"""

from __future__ import annotations

from hetspec_core.engine.modeling.draft_files import VOCAB_KEY, DraftFiles, LoadReport, StoredDraft
from hetspec_core.engine.modeling.layouts.base import (
    ExportedDraft,
    Layout,
    Ledger,
    architecture_config,
    check_config,
    written_config,
)
from hetspec_core.engine.modeling.layouts.eagle3 import KEY, Told, check_eagle3, read_eagle3, told_layers, vocab_maps
from hetspec_core.errors import CheckpointError, ModelError

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
