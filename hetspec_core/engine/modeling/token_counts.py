"""How often each token occurs in the data of a draft, and the vocabulary of the commonest ones.

The counts are a file beside the draft's weights, `token_counts.json`. By them decoding chooses the tokens that a draft
proposes (FR-Spec, arXiv 2502.14856), and training the tokens that a draft with a reduced vocabulary has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetspec_core.documents import MIB, DocumentError, read_json
from hetspec_core.errors import CheckpointError, ModelError, SpecError
from hetspec_core.files import write_atomic

TOKEN_COUNTS = "token_counts.json"
_KEY = "decoding.draft_vocab"
_FORMAT_VERSION = 1
_LIMIT_BYTES = 64 * MIB
_HINT = "count again with `hetspec-core draft count`, or delete the file"


@dataclass(frozen=True)
class TokenCounts:
    """Occurrences of tokens.

    Attributes:
        counts: [V] int64, on the CPU: occurrences of each token id of the base.
        source: what was counted, for people.
    """

    counts: Tensor
    source: str = ""

    @property
    def vocab_size(self) -> int:
        """V of the base."""
        return self.counts.numel()

    @property
    def total(self) -> int:
        """Tokens that were counted."""
        return int(self.counts.sum())

    def coverage(self, ids: Tensor) -> float:
        """Estimated share of new text of the same kind that lies inside a vocabulary of [n] base token ids.

        The share of the counted tokens, less the mass of tokens that were never seen: by Good and Turing that is the
        share of the tokens that were seen once.
        """
        total = self.total
        if not total:
            return 0.0
        unseen = int((self.counts == 1).sum()) / total
        return int(self.counts[ids.cpu()].sum()) / total * (1.0 - unseen)

    def to_json(self) -> dict[str, Any]:
        """As JSON data: the tokens that occur, commonest first, equal counts in the order of ids."""
        order = torch.sort(self.counts, descending=True, stable=True).indices[: int((self.counts > 0).sum())]
        return {
            "format_version": _FORMAT_VERSION,
            "vocab_size": self.vocab_size,
            "source": self.source,
            "tokens": order.tolist(),
            "counts": self.counts[order].tolist(),
        }

    def write(self, file: Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        write_atomic(file, json.dumps(self.to_json(), separators=(",", ":")), make_folder=False)


def read_token_counts(folder: Path) -> TokenCounts | None:
    """The counts beside a draft's weights; None where there are none.

    Raises:
        CheckpointError: the file is damaged or cannot be read.
    """
    file = folder / TOKEN_COUNTS
    try:
        found = read_json(file, limit_bytes=_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DocumentError, OSError) as error:
        raise CheckpointError(f"the token counts in {file} cannot be read: {error}", hint=_HINT) from error
    counts = _counts_of(found)
    if counts is None:
        raise CheckpointError(f"{file} does not hold token ids with their counts", hint=_HINT)
    return TokenCounts(counts, str(found.get("source", "")))


def _counts_of(found: Any) -> Tensor | None:
    """[V] int64 of the JSON data; None where it is not what `to_json` gives."""
    if not isinstance(found, dict):
        return None
    size, tokens, counts = (found.get(key) for key in ("vocab_size", "tokens", "counts"))
    if not _whole([size]) or not isinstance(tokens, list) or not isinstance(counts, list):
        return None
    if not _whole(tokens) or not _whole(counts) or len(tokens) != len(counts) or not 0 < int(size or 0) <= 1 << 24:
        return None
    if len(set(tokens)) < len(tokens) or max(tokens, default=0) >= int(size or 0) or sum(counts) >= 1 << 62:
        return None
    table = torch.zeros(int(size or 0), dtype=torch.int64)
    table[torch.tensor(tokens, dtype=torch.int64)] = torch.tensor(counts, dtype=torch.int64)
    return table


def _whole(values: list[Any]) -> bool:
    """Whether all are whole numbers >= 0."""
    return all(type(value) is int and value >= 0 for value in values)


def check_draft_vocab(size: int, base_vocab_size: int) -> None:
    """Raises SpecError for a `decoding.draft_vocab` that a base of so many tokens does not have."""
    if not 1 <= size <= base_vocab_size:
        raise SpecError(f"{_KEY} is {size}; it needs 1 to {base_vocab_size}, the vocabulary of the base")


def commonest_tokens(
    counts: TokenCounts | None, size: int, always: Iterable[int], *, base_vocab_size: int, own: Tensor | None
) -> Tensor:
    """The tokens that a draft proposes when `decoding.draft_vocab` is a number.

    Args:
        counts: of the draft's training data, if they are known.
        size: N, at most the tokens that the draft has.
        always: base token ids that are among them in any case, as far as the draft has them.
        base_vocab_size: V.
        own: [Vd] sorted base token ids of the draft's own vocabulary; None = the base's.

    Returns:
        [N] int64, sorted base token ids.

    Raises:
        ModelError: there are no counts, or they are of another vocabulary.
        SpecError: there are more than N tokens in `always`.
    """
    if counts is None:
        raise ModelError(
            f"{_KEY} is {size}, and the draft has no counts of tokens to choose them by",
            hint=f"count them once with `hetspec-core draft count DRAFT DATASET`, or set {_KEY} = 'whole'",
        )
    if counts.vocab_size != base_vocab_size:
        raise ModelError(
            f"the draft's token counts are of a vocabulary of {counts.vocab_size} tokens, the base has "
            f"{base_vocab_size}",
            hint="count again with a dataset of this base: `hetspec-core draft count DRAFT DATASET`",
        )
    if own is None:
        return choose_vocabulary(counts.counts, size, always, key=_KEY)
    must = torch.isin(own, torch.tensor(sorted(always), dtype=torch.int64)).nonzero()[:, 0].tolist()
    return own[choose_vocabulary(counts.counts[own], size, must, key=_KEY)]


def choose_vocabulary(counts: Tensor, size: int, always: Iterable[int], *, key: str = "draft.vocab_size") -> Tensor:
    """The `size` most frequent tokens, and in any case those of `always`; equal counts are taken in the order of ids.

    Args:
        counts: [V] occurrences.
        size: Vd.
        always: special and stop tokens, without which no answer ends.
        key: dotted key of the size, for errors.

    Returns:
        [size] int64, sorted base token ids.

    Raises:
        SpecError: the size is above the base's vocabulary, or below the number of tokens that must be in it.
    """
    must = sorted({token for token in always if 0 <= token < counts.numel()})
    if not len(must) <= size <= counts.numel():
        raise SpecError(
            f"{key} is {size}; it needs {len(must)} (the base's special tokens) to {counts.numel()} (all)",
            hint=f"set {key} within these bounds, or leave it out for the base's vocabulary",
        )
    weights = counts.clone()
    weights[must] = torch.iinfo(torch.int64).max
    return torch.sort(weights, descending=True, stable=True).indices[:size].sort().values
