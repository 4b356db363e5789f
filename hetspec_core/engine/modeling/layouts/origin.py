"""Drafts of specforge_het, the program that HetSpec succeeds: `draft_model/states.pt` inside a combined model.

The combined directory's `config.json` names algorithm, base and draft (`speculative_decoding_*`); a checkpoint of a
training has the run's `specforge_het.json` one or two directories up. Names of tensors: `eagle_fc.*`, `layers.*`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetspec_core.engine.modeling.draft_files import DraftFiles
from hetspec_core.engine.modeling.layouts.base import Layout, Ledger, check_config
from hetspec_core.engine.modeling.layouts.eagle import read_fusion
from hetspec_core.engine.modeling.stored_draft import LoadReport
from hetspec_core.errors import CheckpointError, ModelError

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
    """What the directories above a draft say of it: the combined model's configuration, or the run's."""
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
