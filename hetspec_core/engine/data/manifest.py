"""The manifest of a hidden-state store: what was captured, of which base, and in which rows each sample is.

A store is a folder with `manifest.json` and shards. A shard that the manifest does not name does not belong to the
store. The manifest is read without torch, so that merging and listing are quick.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetspec_core.errors import CorruptFileError, DataError, NotFoundError, ResourceError
from hetspec_core.files import explain, is_full, write_atomic
from hetspec_core.paths import RunPaths

MANIFEST_NAME = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"  # beside the manifest: samples can be read as text without the base
STORE_SCHEMA = 1
STATES_CHECKED = "states_are_finite"  # in `about`: no sample came in whose states are not finite


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoreIdentity(_Record):
    """What all samples of a store have in common; stores that differ in any field are never mixed."""

    base_fingerprint: str = Field(description="Identity of the base's weights.")
    tokenizer_hash: str = Field(description="Identity of the tokenizer.")
    template_hash: str = Field(description="Identity of the chat template with its variables.")
    hidden_size: int = Field(description="Width H.")
    vocab_size: int = Field(description="Vocabulary V of the base.")
    layers: tuple[int, ...] = Field(description="Further layers stored, in Hugging Face numbering (0 = embeddings).")
    norm: str = Field("after_final_norm", description="Where `hidden_states` was taken.")
    dtype: str = Field(description="Type of the stored states: bfloat16, float16 or float32.")

    def differences(self, other: StoreIdentity) -> list[str]:
        """Every field that differs, with both values: `dtype: bfloat16 / float32`."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{key}: {mine[key]} / {theirs[key]}" for key in mine if mine[key] != theirs[key]]


class ShardEntry(_Record):
    """One shard file and the samples in it. Sample i has rows starts[i] to starts[i] + lengths[i]."""

    file: str
    bytes: int = Field(description="Size of the file.")
    sha256: str = Field(description="Checksum of the file, as sha256sum prints it.")
    ids: tuple[str, ...] = Field(description="Content ids of the samples.")
    starts: tuple[int, ...] = Field(description="First row of each sample.")
    lengths: tuple[int, ...] = Field(description="Tokens of each sample.")
    supervised: tuple[int, ...] = Field(description="Supervised tokens of each sample.")


class Counts(_Record):
    """Totals over all shards."""

    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    bytes: int = 0


class Manifest(_Record):
    """The content of `manifest.json`."""

    schema_version: int = STORE_SCHEMA
    identity: StoreIdentity
    about: dict[str, Any] = Field(default_factory=dict, description="Names and settings, for people and for verify.")
    counts: Counts = Field(default_factory=Counts)
    shards: tuple[ShardEntry, ...] = ()

    @property
    def ids(self) -> set[str]:
        return {sample_id for shard in self.shards for sample_id in shard.ids}

    def with_shards(self, shards: tuple[ShardEntry, ...]) -> Manifest:
        """The same store with other shards, counted anew."""
        counts = Counts(
            samples=sum(len(shard.ids) for shard in shards),
            tokens=sum(sum(shard.lengths) for shard in shards),
            supervised_tokens=sum(sum(shard.supervised) for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
        )
        return self.model_copy(update={"shards": shards, "counts": counts})


def resolve_store(path: Path) -> Path:
    """The store at `path`: the folder itself, or the store inside a run folder.

    Raises:
        NotFoundError: neither holds a manifest.
    """
    for folder in (path, RunPaths(path).hidden_states):
        if (folder / MANIFEST_NAME).is_file():
            return folder
    raise NotFoundError(
        f"no hidden-state dataset in {path}: there is no {MANIFEST_NAME}",
        hint="make one with `hetspec-core dataset generate`, or name the run folder or dataset directory of another",
    )


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        NotFoundError: there is none.
        CorruptFileError: it cannot be read, or is of another schema.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"no hidden-state dataset in {folder}: there is no {MANIFEST_NAME}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CorruptFileError(
            f"{path} is not a manifest: {'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}",
            hint="restore it from a copy, or generate the dataset again in a new run",
        ) from None
    if manifest.schema_version != STORE_SCHEMA:
        raise DataError(
            f"{path} has schema {manifest.schema_version}; this version reads {STORE_SCHEMA}",
            hint="use the version of HetSpec that wrote it, or generate the dataset again",
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically.

    Raises:
        ResourceError: the disk is full; the earlier manifest is intact.
    """
    try:
        write_atomic(folder / MANIFEST_NAME, manifest.model_dump_json(), make_folder=False)
    except OSError as error:
        raise disk_error(error, folder / MANIFEST_NAME) from error


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Compare the size of every shard with the manifest; done whenever a store is opened.

    Raises:
        CorruptFileError: a shard is missing, truncated or longer; the file is named.
    """
    for shard in manifest.shards:
        path = folder / shard.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CorruptFileError(f"{path} is missing; the manifest names it", hint=REPAIR_HINT) from None
        if size != shard.bytes:
            seen = "truncated" if size < shard.bytes else "longer than what was written"
            raise CorruptFileError(f"{path} is {seen}: {size} bytes, {shard.bytes} were written", hint=REPAIR_HINT)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_checksum(folder: Path, shard: ShardEntry) -> None:
    """Read a whole shard and compare its checksum.

    Raises:
        CorruptFileError: it differs; the file is named.
    """
    seen = file_checksum(folder / shard.file)
    if seen != shard.sha256:
        raise CorruptFileError(
            f"{folder / shard.file} was altered: its SHA-256 is {seen[:16]}..., {shard.sha256[:16]}... was written",
            hint=REPAIR_HINT,
        )


REPAIR_HINT = (
    "restore the file from a copy; or delete it and start the same run again: its samples are captured anew, "
    "all others stay"
)


def disk_error(error: OSError, path: Path) -> Exception:
    """The exception for an OSError of a write: one for the user, or `error` itself where its meaning is not known."""
    if not is_full(error):
        return explain(error, doing=f"{path} was not written", path=path) or error
    return ResourceError(
        f"no room to write {path}: the disk is full, or a quota is used up",
        hint="free some space and start the same run again: everything written before is intact and is not made again",
    )
