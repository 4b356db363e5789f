"""A draft as plain data: a configuration, how head and backbone are put together, and tensors by name.

It is what lies between a directory in any layout and a `DraftLM`. It knows no module and no base.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

FORMAT_VERSION = 1
VOCAB_KEY = "draft_vocab_ids"
"""Tensor [Vd]: sorted token ids of the base that a reduced vocabulary consists of."""


@dataclass(frozen=True)
class StoredDraft:
    """One draft in HetSpec's own words.

    Attributes:
        config: the backbone's Hugging Face configuration.
        settings: the `hetspec` block: algorithm, head, norms, captured layers, base.
        tensors: by their names in HetSpec's layout, `draft_vocab_ids` among them.
    """

    config: dict[str, Any]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def algorithm(self) -> str:
        """Card of the algorithm."""
        return str((self.settings.get("algorithm") or {}).get("name", "eagle"))

    @property
    def head(self) -> dict[str, Any]:
        """Arguments of the head's constructor."""
        return dict(self.settings.get("head") or {})

    @property
    def vocab_ids(self) -> Tensor | None:
        """[Vd] base token ids of a reduced vocabulary; None = the base's."""
        return self.tensors.get(VOCAB_KEY)

    @property
    def base_vocab_size(self) -> int:
        """V of the base."""
        return int(self.settings.get("base_vocab_size") or self.config["vocab_size"])


@dataclass(frozen=True)
class LoadReport:
    """What became of a directory that was read.

    Attributes:
        stored: the draft.
        layout: card of the layout that it was in.
        inferred: what the files do not say outright -> what was taken for true, and why.
        renamed: tensor in the files -> its name here, where the two differ.
        dropped: tensor in the files -> why it is not needed. Every other tensor is in `stored`.
        warnings: what the files leave in doubt, one sentence each.
    """

    stored: StoredDraft
    layout: str
    inferred: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
