"""One shard: a safetensors file with the hidden states of many samples, one after another, without padding.

input_ids [T] int32, assistant_mask [T] uint8, hidden_states [T, H] (after the final norm), layer_{i} [T, H],
offsets [n + 1] int64 (first row of each sample, and the end); metadata: sample ids, schema, identity.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hetspec_core.engine.data.manifest import (
    REPAIR_HINT,
    STORE_SCHEMA,
    ShardEntry,
    StoreIdentity,
    disk_error,
    file_checksum,
)
from hetspec_core.errors import CorruptFileError, DataError
from hetspec_core.files import sync_folder

STORE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FIRST_SUPERVISED = 2  # the draft predicts x_{t+2}: tokens 0 and 1 can never be supervised
_SAFETENSORS_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}
TEMPORARY_PREFIX = ".writing-"


@dataclass(frozen=True)
class Sample:
    """One stored conversation.

    Attributes:
        id: content id.
        input_ids: [T] int32.
        assistant_mask: [T] bool, True where the token was written by the assistant (its end-of-turn token included).
        hidden: [T, H] final states of the base, after the final norm.
        layers: further states [T, H] by Hugging Face layer id.
    """

    id: str
    input_ids: Tensor
    assistant_mask: Tensor
    hidden: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)

    def not_finite(self) -> str:
        """Where the first infinity or NaN among the states is (`final state, token 5`); empty when there is none."""
        for name, state in [("final state", self.hidden), *((f"layer {i}", s) for i, s in self.layers.items())]:
            wrong = ~state.isfinite().all(-1)
            if wrong.any():
                return f"{name}, token {int(wrong.nonzero()[0])}"
        return ""


def count_supervised(assistant_mask: Sequence[bool] | Tensor) -> int:
    """Tokens of a [T] assistant mask that a draft can be asked to predict: those from x_2 on."""
    tail = assistant_mask[FIRST_SUPERVISED:]
    return int(tail.sum()) if isinstance(tail, Tensor) else sum(tail)


class Shard:
    """A mapped shard file; its samples are views of it.

    Raises:
        CorruptFileError: the file cannot be read.
    """

    def __init__(self, path: Path, identity: StoreIdentity) -> None:
        try:
            file = safe_open(path, framework="pt")
            self.input_ids = file.get_tensor("input_ids")
            self.assistant_mask = file.get_tensor("assistant_mask")
            self.hidden = file.get_tensor("hidden_states")
            self.layers = {layer: file.get_tensor(f"layer_{layer}") for layer in identity.layers}
        except (SafetensorError, OSError, KeyError) as error:
            raise CorruptFileError(f"{path} cannot be read: {error}", hint=REPAIR_HINT) from error

    def sample(self, sample_id: str, start: int, length: int) -> Sample:
        """The sample whose rows are start to start + length."""
        rows = slice(start, start + length)
        return Sample(
            id=sample_id,
            input_ids=self.input_ids[rows],
            assistant_mask=self.assistant_mask[rows].view(torch.bool),
            hidden=self.hidden[rows],
            layers={layer: tensor[rows] for layer, tensor in self.layers.items()},
        )


def write_shard(path: Path, samples: Sequence[Sample], identity: StoreIdentity) -> ShardEntry:
    """Write samples as a safetensors file, hashing on the way; nothing is concatenated in memory.

    The layout is safetensors' own: 8 bytes of header length, a JSON header padded with spaces, the tensors.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    columns: dict[str, Callable[[Sample], Tensor]] = {
        "input_ids": lambda sample: sample.input_ids.to(torch.int32),
        "assistant_mask": lambda sample: sample.assistant_mask.to(torch.uint8),
        "hidden_states": lambda sample: sample.hidden,
    }
    for layer in identity.layers:
        columns[f"layer_{layer}"] = lambda sample, layer=layer: sample.layers[layer]
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            "schema": str(STORE_SCHEMA),
            "ids": json.dumps([sample.id for sample in samples]),
            "identity": identity.model_dump_json(),
        }
    }
    position = 0
    offsets = torch.tensor(starts, dtype=torch.int64)
    for name, first in [("offsets", offsets), *((name, column(samples[0])) for name, column in columns.items())]:
        shape = [len(starts)] if name == "offsets" else [starts[-1], *first.shape[1:]]
        size = torch.Size(shape).numel() * first.element_size()
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[first.dtype],
            "shape": shape,
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    digest = hashlib.sha256()
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        with temporary.open("wb") as file:

            def put(data: bytes | memoryview) -> None:
                digest.update(data)
                file.write(data)

            put(len(text).to_bytes(8, "little"))
            put(text)
            put(_bytes_of(offsets))
            for column in columns.values():
                for sample in samples:
                    put(_bytes_of(column(sample)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return ShardEntry(
        file=path.name,
        bytes=8 + len(text) + position,
        sha256=digest.hexdigest(),
        ids=tuple(sample.id for sample in samples),
        starts=tuple(starts[:-1]),
        lengths=tuple(lengths),
        supervised=tuple(count_supervised(sample.assistant_mask) for sample in samples),
    )


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_entry(path: Path, identity: StoreIdentity) -> ShardEntry:
    """The manifest entry of a complete shard."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            offsets = file.get_tensor("offsets").tolist()
            mask = file.get_tensor("assistant_mask")
        written = StoreIdentity.model_validate_json(metadata.get("identity", ""))
        ids = tuple(json.loads(metadata["ids"]))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptFileError(
            f"{path} is not a complete shard, and the manifest does not name it", hint="delete it, then start again"
        ) from error
    if differences := identity.differences(written):
        raise DataError(
            f"{path} does not belong to its store (store / shard): {'; '.join(differences)}", hint="move it away"
        )
    return ShardEntry(
        file=path.name,
        bytes=path.stat().st_size,
        sha256=file_checksum(path),
        ids=ids,
        starts=tuple(offsets[:-1]),
        lengths=tuple(end - start for start, end in itertools.pairwise(offsets)),
        supervised=tuple(count_supervised(mask[a:b]) for a, b in itertools.pairwise(offsets)),
    )
