"""The interface of layouts, the ledger that accounts for each tensor of a foreign directory, and HetSpec's own layout.

In HetSpec's layout a `hetspec` block in `config.json` describes head and backbone.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from hetspec_core.engine.modeling.backbones import contradiction, with_older_keys
from hetspec_core.engine.modeling.draft_files import FORMAT_VERSION, DraftFiles, LoadReport, StoredDraft
from hetspec_core.errors import CheckpointError, ModelError

_MODEL_TYPES = re.compile(r"^[a-z0-9_]+$")
_LAYER = re.compile(r"layers\.(\d+)\.")
_NOT_ARCHITECTURE = ("hetspec", "architectures", "auto_map", "transformers_version", "dtype", "torch_dtype")


@dataclass(frozen=True)
class ExportedDraft:
    """A draft in a foreign layout, ready to be written.

    Attributes:
        config: for `config.json`.
        tensors: by the names of the layout.
        token_ids: [Vd] ids of a reduced vocabulary for a file of its own, where the layout has one; else None.
        notes: requirements for serving the draft.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    token_ids: Tensor | None = None
    notes: tuple[str, ...] = ()


class Layout(ABC):
    """One form of a draft directory. A card names one; those that can be written have `capabilities["writes"]`."""

    name: ClassVar[str]

    @abstractmethod
    def recognises(self, files: DraftFiles) -> bool:
        """Whether the directory is in this layout; looks at JSON first, because weights may be large."""

    @abstractmethod
    def read(self, files: DraftFiles, base_layers: int | None) -> LoadReport:
        """Read the directory.

        Args:
            files: the directory.
            base_layers: number of the base's decoder layers, for checkpoints that leave the captured layers to a
                default; None = not known.

        Raises:
            CheckpointError: a file is damaged, or a tensor is missing or has no place.
            ModelError: the draft needs a feature that HetSpec does not have, or the base must be named.
        """

    def write(self, stored: StoredDraft) -> ExportedDraft:
        """The draft in this layout.

        Raises:
            ModelError: the layout cannot express it; the message says why, the hint what would work.
        """
        raise ModelError(
            f"drafts are not written in the layout {self.name}", hint="see `hetspec-core draft export --help`"
        )


@dataclass
class Ledger:
    """The tensors of a directory, each of which is taken under some name or dropped for a reason."""

    folder: str
    left: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, files: DraftFiles) -> Ledger:
        return cls(str(files.folder), dict(files.tensors))

    def strip(self, prefix: str) -> None:
        for name in [name for name in self.left if name.startswith(prefix)]:
            plain = name.removeprefix(prefix)
            if plain in self.left:
                raise CheckpointError(f"{self.folder} has both {name} and {plain}", hint="fetch the draft again")
            self.left[plain] = self.left.pop(name)
            self._note(name, plain)

    def rename(self, pattern: str, replacement: str) -> None:
        """Rename tensors whose names begin with a match of a regular expression."""
        for name in list(self.left):
            plain, hits = re.subn(f"^(?:{pattern})", replacement, name)
            if hits and plain != name:
                self.left[plain] = self.left.pop(name)
                self._note(name, plain)

    def drop(self, name: str, reason: str) -> Tensor | None:
        """Leave a tensor out, if it is there, and return it."""
        tensor = self.left.pop(name, None)
        if tensor is not None:
            self.dropped[self._first(name)] = reason
        return tensor

    def need(self, name: str, what: str) -> Tensor:
        """A tensor that must be there.

        Raises:
            CheckpointError: it is not there.
        """
        if name not in self.left:
            raise CheckpointError(f"{self.folder} has no {name}: it is not {what}", hint="see docs/drafts.md")
        return self.left[name]

    def add(self, name: str, tensor: Tensor, *, source: str = "") -> None:
        """Add a [...] tensor that was made from another one."""
        self.left[name] = tensor
        if source:
            self.renamed[source] = name

    def _note(self, old: str, new: str) -> None:
        self.renamed[self._first(old)] = new

    def _first(self, name: str) -> str:
        """The name that a tensor had in the files."""
        return next((old for old, new in self.renamed.items() if new == name), name)

    def reading(
        self, layout: str, config: dict[str, Any], settings: dict[str, Any], inferred: dict[str, str]
    ) -> LoadReport:
        """Close the ledger: the remaining tensors are the draft's. Filling the modules checks their places."""
        for name in self.dropped:
            self.renamed.pop(name, None)
        if odd := contradiction(config):
            inferred["rope_theta"] = odd
        config = self._with_layers_of_the_tensors(config, inferred)
        stored = StoredDraft(config, settings, self.left)
        return LoadReport(stored, layout, inferred, dict(self.renamed), dict(self.dropped), list(self.warnings))

    def _with_layers_of_the_tensors(self, config: dict[str, Any], inferred: dict[str, str]) -> dict[str, Any]:
        """The configuration with the number of layers that have tensors: published ones may give the base's number.

        Raises:
            CheckpointError: a layer between two others has no tensor.
        """
        numbers = {int(hit[1]) for name in self.left if (hit := _LAYER.match(name))}
        count, said = len(numbers), config.get("num_hidden_layers")
        if numbers and numbers != set(range(count)):
            gap = min(set(range(max(numbers))) - numbers)
            raise CheckpointError(f"{self.folder} has no tensor of layers.{gap}", hint="fetch the draft again")
        if not numbers or said == count:
            return config
        inferred["num_hidden_layers"] = f"{count}: layers that have tensors; config.json says {said}"
        kinds = config.get("layer_types")
        more = {"layer_types": kinds[:count]} if isinstance(kinds, list) and len(kinds) > count else {}
        return config | {"num_hidden_layers": count} | more


def written_config(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`architecture_config` for a file: with the keys that transformers 4 reads, and `more`."""
    return with_older_keys(architecture_config(config)) | more


def architecture_config(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that describe decoder layers."""
    return {key: value for key, value in config.items() if key not in _NOT_ARCHITECTURE}


def check_config(config: dict[str, Any], folder: object) -> None:
    """Raises CheckpointError for a configuration that is not one of decoder layers."""
    missing = [key for key in ("model_type", "hidden_size", "vocab_size") if key not in config]
    if missing:
        raise CheckpointError(
            f"{folder}/config.json lacks {', '.join(missing)}", hint="it is not the configuration of a draft"
        )
    for key in ("hidden_size", "vocab_size"):
        if type(config[key]) is not int or config[key] < 1:
            raise CheckpointError(
                f"{folder}/config.json: {key} is {str(config[key])[:40]!r}; it must be a whole number above 0",
                hint="fetch the draft again",
            )


def class_prefix(model_type: str) -> str:
    """The beginning of the names of a family's classes: qwen3_moe -> Qwen3Moe."""
    if not _MODEL_TYPES.match(model_type):
        raise ModelError(f"model_type {model_type!r} is no name of a family")
    return "".join(part.capitalize() for part in model_type.split("_"))


class OwnLayout(Layout):
    """The layout of `save_draft`."""

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
    """Complete the settings of drafts from before heads were recorded, by their tensors."""
    tensors = files.tensors
    settings.setdefault("skip_first_input_norm", "layers.0.input_layernorm.weight" not in tensors)
    settings.setdefault("skip_output_norm", "norm.weight" not in tensors)
    fusion = tensors.get("fc.weight")
    if "head" not in settings and fusion is not None and fusion.ndim == 2:
        size = int(fusion.shape[0])
        settings["head"] = {"hidden_size": size, "base_size": size, "bias": "fc.bias" in tensors}
    return settings
