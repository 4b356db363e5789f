"""A draft as plain data, the files of a draft directory in any layout, and saving a draft.

A draft directory of HetSpec is `config.json` (the backbone's Hugging Face configuration, plus a `hetspec` block that
says how head and backbone are put together) and `model.safetensors` with the names that the field uses (`fc.weight`,
`layers.0...`). `token_counts.json` beside them, where there is one, has the occurrences of each token in the training
data. Only plain tensors are unpickled, and no code of a checkpoint runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetspec_core.documents import INT64, MIB, DocumentError, read_json
from hetspec_core.engine.modeling.backbones import with_older_keys
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.token_counts import TOKEN_COUNTS
from hetspec_core.engine.reporting import first_line
from hetspec_core.errors import CheckpointError
from hetspec_core.files import explain, new_folder
from hetspec_core.spec import AlgorithmSpec

FORMAT_VERSION = 1
VOCAB_KEY = "draft_vocab_ids"
"""Tensor [Vd]: sorted token ids of the base that a reduced vocabulary consists of."""


@dataclass(frozen=True)
class StoredDraft:
    """One draft in HetSpec's own layout.

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
        return int(self.settings.get("base_vocab_size") or self.config["vocab_size"])


def reduce_stored(stored: StoredDraft, ids: Tensor) -> StoredDraft:
    """A draft that proposes only some of its tokens, as plain data.

    Args:
        stored: the draft.
        ids: [N] int64, sorted base token ids of its vocabulary.
    """
    own = stored.vocab_ids
    rows = ids if own is None else torch.searchsorted(own.to(torch.int64), ids)
    tensors, settings = stored.tensors | {VOCAB_KEY: ids}, stored.settings
    if "lm_head.weight" in tensors:  # an output head of the draft's own
        tensors["lm_head.weight"] = tensors["lm_head.weight"][rows]
        settings = settings | {"head": stored.head | {"vocab_size": len(ids)}}
    return StoredDraft(stored.config, settings, tensors)


@dataclass(frozen=True)
class LoadReport:
    """The result of reading a draft directory.

    Attributes:
        stored: the draft.
        layout: card of the layout that it was in.
        inferred: a fact that the files do not state -> what was assumed, and why.
        renamed: tensor in the files -> its name here, where the two differ.
        dropped: tensor in the files -> why it is not needed. Every other tensor is in `stored`.
        warnings: doubts about the files, one sentence each.
    """

    stored: StoredDraft
    layout: str
    inferred: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "states.pt")
_INDEX_BYTES = 64 * MIB
_DAMAGED = "the file is damaged; fetch or write the draft again"
_LARGEST = {
    "num_hidden_layers": 1 << 10,
    "hidden_size": 1 << 20,
    "target_hidden_size": 1 << 20,
    "base_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "moe_intermediate_size": 1 << 22,
    "vocab_size": 1 << 24,
    "draft_vocab_size": 1 << 24,
    "base_vocab_size": 1 << 24,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "head_dim": 1 << 14,
    "num_experts": 1 << 14,
    "num_local_experts": 1 << 14,
    "n_routed_experts": 1 << 14,
}
"""Sizes by their keys, and the largest value that is accepted: far above any published model."""
_ABOVE_ZERO = frozenset({"rope_theta", "factor", "partial_rotary_factor", "original_max_position_embeddings"})
_NOT_NEGATIVE = frozenset({"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"})
"""Keys whose other values make angles or norms NaN."""


class DraftFiles:
    """A directory whose files are read at their first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`.

        Raises:
            CheckpointError: it is missing or damaged, or a key has a number that no architecture has.
        """
        config = self.json(CONFIG)
        if config is None:
            raise CheckpointError(
                f"no draft in {self.folder}: {CONFIG} is missing", hint="name a draft directory or a run"
            )
        for key, value in _numbers(config):
            if problem := _problem(key.rpartition(".")[2], value):
                raise CheckpointError(
                    f"{self.folder / CONFIG}: {key} is {_short(value)}, {problem}",
                    hint="write the number as the draft was trained with it, or fetch the draft again",
                )
        return config

    @property
    def architecture(self) -> str:
        """The first of `architectures`; empty where the configuration names none."""
        named = self.config.get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the weights; None when there is no such file.

        Raises:
            CheckpointError: it is damaged, too large, or cannot be read.
        """
        file = self.folder / name
        try:
            found = read_json(file, limit_bytes=_INDEX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DocumentError as error:
            raise CheckpointError(f"{file} {error}", hint=_DAMAGED) from error
        except OSError as error:
            raise explain(error, doing=f"{file} was not read", path=file) or _unreadable(file, error) from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{file} holds no table", hint=_DAMAGED)
        return found

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU.

        Raises:
            CheckpointError: there are none, or a file is damaged or holds something else.
        """
        single = self.folder / WEIGHTS
        if single.is_file():
            return _read_safetensors(single)
        index = self.json(_INDEX)
        if index is not None:
            return self._read_shards(index)
        for name in _PICKLED:
            if (self.folder / name).is_file():
                return _read_pickled(self.folder / name)
        raise CheckpointError(
            f"{self.folder} has neither {WEIGHTS} nor {' nor '.join(_PICKLED)}", hint="name a draft directory or a run"
        )

    def _read_shards(self, index: dict[str, Any]) -> dict[str, Tensor]:
        places = index.get("weight_map")
        if not isinstance(places, dict) or not all(map(_is_file_name, places.values())):
            raise CheckpointError(
                f"{self.folder / _INDEX} has no weight_map from tensors to names of files beside it", hint=_DAMAGED
            )
        found: dict[str, Tensor] = {}
        for name in sorted(set(places.values())):
            found |= _read_safetensors(self.folder / name)
        missing = sorted(places.keys() - found.keys())
        if missing:
            raise CheckpointError(f"the shards in {self.folder} lack {', '.join(missing[:4])}", hint="fetch them again")
        return found


def check_finite(tensors: Mapping[str, Tensor], folder: object) -> None:
    """Raises CheckpointError for weights with NaN or infinity; the message names the first tensors."""
    bad = not_finite(tensors)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(
            f"the weights in {folder} are not finite: {', '.join(bad[:3])}{more} holds NaN or infinity",
            hint="take an earlier step of the training, or fetch the draft again",
        )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\\", "\0"} & set(value)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number of a document with the dotted name of its key."""
    pending = [(key, value)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, dict):
            pending.extend((f"{name}.{part}" if name else part, each) for part, each in item.items())
        elif isinstance(item, list):
            pending.extend((name, each) for each in item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield name, item


def _problem(key: str, value: float) -> str:
    """What is wrong with a number of a configuration; empty = nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return "which is not a finite number"
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return "which is beyond 64 bits"
    most = _LARGEST.get(key)
    if most is not None and not 0 <= value <= most:
        return f"and must be from 0 to {most:,}"
    if key in _ABOVE_ZERO and value <= 0:
        return "and must be above 0"
    if key in _NOT_NEGATIVE and value < 0:
        return "and must not be negative"
    return ""


def _short(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**24:
        return f"about 10^{len(str(abs(value))) - 1}"
    return str(value)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from error


def _read_pickled(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler anywhere; code that is not allowed also ends here
        raise _unreadable(file, error) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{file} does not hold tensors by name", hint="name a draft directory or a run")
    return tensors


def read_token_ids(file: Path) -> Tensor | None:
    """[n] token ids that `torch.save` wrote, as a tensor or as a list of numbers; None when there is no such file.

    Raises:
        CheckpointError: the file is damaged, or holds something else.
    """
    if not file.is_file():
        return None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        ids = found if isinstance(found, Tensor) else torch.tensor(found)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes lead the unpickler anywhere; code that is not allowed also ends here
        raise CheckpointError(
            f"the tokens of the reduced vocabulary in {file} cannot be read: {first_line(error)}",
            hint="export the draft again, or take the file away to use the whole vocabulary",
        ) from error
    if ids.ndim != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise CheckpointError(f"{file} holds no list of token ids", hint="export the draft again")
    return ids


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the draft's weights in {file} cannot be read: {first_line(error)}",
        hint="the file is truncated, damaged or no plain checkpoint; use an older checkpoint, or fetch it again",
    )


ACCEPTANCE_RATES = "acceptance_rates"
"""Fact of a draft: the rates of acceptance by depth that its training simulated, each given the depth before."""


def save_draft(
    draft: DraftLM, folder: Path, *, algorithm: AlgorithmSpec, facts: dict[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Write a draft directory; it appears whole or not at all, and replaces an older one of the same name.

    Args:
        draft: what to save.
        folder: where.
        algorithm: recorded, so that the directory alone is enough to load.
        facts: further facts to record (base name and fingerprint, recipe, step, metrics).
        dtype: type on disk; the weights' own when absent.
    """
    tensors = {name: parameter.to(dtype or parameter.dtype) for name, parameter in native_names(draft).items()}
    if draft.vocab is not None:
        tensors[VOCAB_KEY] = draft.vocab.ids.to(torch.int64)
    backbone = draft.backbone
    first_norm = getattr(backbone.layers[0], "input_layernorm", None)
    record = with_older_keys(draft.config.to_dict()) | {
        "architectures": ["HetSpecDraft"],
        "hetspec": {
            "format_version": FORMAT_VERSION,
            "algorithm": algorithm.model_dump(mode="json", exclude={"summary"}),
            "head": draft.head.settings,
            "backbone": backbone.card_name,
            "skip_first_input_norm": isinstance(first_norm, torch.nn.Identity),
            "skip_output_norm": isinstance(backbone.decoder.norm, torch.nn.Identity),
            "tie_layer_norms": draft.ties.layers,
            "tie_output_norm": draft.ties.output,
            "base_vocab_size": draft.ends.vocab_size,
            "base_hidden_size": draft.ends.hidden_size,
            "captured_layers": list(draft.captured_layers),
            **facts,
        },
    }
    counts = draft.token_counts
    more = {} if counts is None else {TOKEN_COUNTS: counts.write}
    write_draft_folder(folder, record, tensors, more, make_parents=False)


def native_names(draft: DraftLM) -> dict[str, Tensor]:
    """Every tensor of head and backbone by the name that it has on disk."""
    return parameters_and_buffers(draft.head) | parameters_and_buffers(draft.backbone.decoder)


def parameters_and_buffers(module: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors of a plain `state_dict`, also inside `unsharded`, where the `state_dict` of FSDP has shards."""
    found = {name: parameter.detach() for name, parameter in module.named_parameters(remove_duplicate=False)}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}".lstrip(".")] = buffer
    return found


def write_draft_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    more: Mapping[str, Callable[[Path], None]] | None = None,
    *,
    make_parents: bool = True,
) -> None:
    """Write a directory of `config.json` and `model.safetensors`; it appears whole or not at all, and replaces an older
    one of the same name.

    Args:
        folder: where.
        config: for `config.json`.
        tensors: by name.
        more: further files by name, each with a function that writes it.
        make_parents: make the folders above it. False for a run, so that a deleted run is not made again.

    Raises:
        OSError: the disk is full or cannot be written; an older directory is intact.
    """
    if make_parents:
        folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as staging:
        own = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, staging / WEIGHTS, metadata={"format": "pt"})
        (staging / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True, default=str))
        for name, write in (more or {}).items():
            write(staging / name)
