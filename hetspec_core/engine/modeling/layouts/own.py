"""HetSpec's own layout: a `hetspec` block in `config.json` says how the draft is put together."""

from __future__ import annotations

from typing import Any

from hetspec_core.engine.modeling.draft_files import DraftFiles
from hetspec_core.engine.modeling.layouts.base import Layout, check_config
from hetspec_core.engine.modeling.rope_keys import contradiction
from hetspec_core.engine.modeling.stored_draft import FORMAT_VERSION, LoadReport, StoredDraft
from hetspec_core.errors import CheckpointError


class OwnLayout(Layout):
    """What `save_draft` writes."""

    name = "hetspec"

    def recognises(self, files: DraftFiles) -> bool:
        return "hetspec" in files.config

    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        config = dict(files.config)
        settings = config.pop("hetspec")
        if not isinstance(settings, dict):
            raise CheckpointError(
                f"{files.folder / 'config.json'}: hetspec is not a table", hint="fetch or write the draft again"
            )
        version = settings.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{files.folder} has draft format {version}; this version reads {FORMAT_VERSION}", hint="update HetSpec"
            )
        check_config(config, files.folder)
        settings = _before_heads(dict(settings), files)
        odd = contradiction(config)
        inferred = {"rope_theta": odd} if odd else {}
        return LoadReport(StoredDraft(config, settings, dict(files.tensors)), self.name, inferred)


def _before_heads(settings: dict[str, Any], files: DraftFiles) -> dict[str, Any]:
    """Drafts that were written before heads were recorded: the tensors say the rest."""
    tensors = files.tensors
    settings.setdefault("skip_first_input_norm", "layers.0.input_layernorm.weight" not in tensors)
    settings.setdefault("skip_output_norm", "norm.weight" not in tensors)
    fusion = tensors.get("fc.weight")
    if "head" not in settings and fusion is not None and fusion.ndim == 2:
        size = int(fusion.shape[0])
        settings["head"] = {"hidden_size": size, "base_size": size, "bias": "fc.bias" in tensors}
    return settings
