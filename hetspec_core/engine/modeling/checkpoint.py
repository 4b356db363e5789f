"""Building, saving and loading drafts.

A draft directory is `config.json` (the backbone's Hugging Face configuration, plus a `hetspec` block that says how head
and backbone are put together) and `model.safetensors` with the names that the field uses for EAGLE-1/2 drafts
(`fc.weight`, `layers.0...`). Directories without the `hetspec` block are read as EAGLE-1/2 checkpoints in the layout of
SGLang and of the authors. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hetspec_core.engine.modeling.backbones import HFBackbone, backbone_config
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM, DraftVocab, FusionHead
from hetspec_core.errors import CheckpointError, ModelError
from hetspec_core.paths import sync_folder
from hetspec_core.spec import AlgorithmSpec, DraftSpec

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
_VOCAB_KEY = "draft_vocab_ids"
_EAGLE_ARCHITECTURES = re.compile(r"ForCausalLM(Eagle)?$")


def build_draft(
    spec: DraftSpec, algorithm: AlgorithmSpec, base: BaseLM, *, seed: int = 0, vocab: Tensor | None = None
) -> DraftLM:
    """A new draft, initialised as its spec says and bound to the base.

    Args:
        spec: sizes, number of layers and the way of initialisation.
        algorithm: names the head.
        base: gives embedding, head and, for `base_last_layers`, the last decoder layers.
        seed: of the random weights.
        vocab: [Vd] sorted base token ids of a reduced vocabulary.

    Raises:
        ModelError: draft and base do not fit, or the base's last layers have another shape.
    """
    if spec.architecture.vocab_size != base.vocab_size:
        raise ModelError(
            f"draft {spec.name} has vocab_size {spec.architecture.vocab_size}, base {base.name} has {base.vocab_size}",
            hint='set draft.architecture.vocab_size = "base.vocab_size"',
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = HFBackbone(
            backbone_config(spec.architecture, spec.architecture.num_hidden_layers),
            skip_first_input_norm=spec.skip_first_input_norm,
            skip_output_norm=spec.skip_output_norm,
        )
        head = FusionHead(base.hidden_size, base.hidden_size, bias=bool(algorithm.options.get("fusion_bias", True)))
    draft = DraftLM(backbone, head, vocab=DraftVocab(vocab, base.vocab_size) if vocab is not None else None)
    if spec.init == "base_last_layers":
        _copy_last_layers(base, draft)
        head.pass_feature_through()
    return draft.bind(base)


def _copy_last_layers(base: BaseLM, draft: DraftLM) -> None:
    """Copy the base's last layers into the backbone, tensor by tensor; the first layer may lack its input norm."""
    source, target = base.decoder.layers, draft.backbone.layers
    if len(source) < len(target):
        raise ModelError(
            f"the base has {len(source)} layers, the draft {len(target)}", hint="set draft.init = 'random'"
        )
    for have, want in zip(list(source)[len(source) - len(target) :], target, strict=True):
        tensors = have.state_dict()
        for name, parameter in want.named_parameters():
            given = tensors.get(name)
            if given is None or given.shape != parameter.shape:
                seen = "is missing" if given is None else f"has shape {list(given.shape)}"
                raise ModelError(
                    f"cannot start from the base's last layers: {name} {list(parameter.shape)} {seen} there",
                    hint="set draft.init = 'random', or give the draft the base's architecture",
                )
            with torch.no_grad():
                parameter.copy_(given)


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
    tensors = {name: _stored(parameter, dtype) for name, parameter in _native_names(draft).items()}
    if draft.vocab is not None:
        tensors[_VOCAB_KEY] = draft.vocab.ids.to("cpu", torch.int64).contiguous()
    backbone = draft.backbone
    record = draft.config.to_dict() | {
        "architectures": ["HetSpecDraft"],
        "hetspec": {
            "format_version": FORMAT_VERSION,
            "algorithm": algorithm.model_dump(mode="json", exclude={"summary"}),
            "skip_first_input_norm": isinstance(backbone.layers[0].input_layernorm, torch.nn.Identity),
            "skip_output_norm": isinstance(backbone.decoder.norm, torch.nn.Identity),
            "fusion_bias": draft.head.fc.bias is not None,
            "base_vocab_size": draft.ends.vocab_size,
            **facts,
        },
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        (staging / "config.json").write_text(json.dumps(record, indent=1, sort_keys=True, default=str))
        for file in staging.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(staging)
        staging.chmod(0o755)
        replace_folder(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def replace_folder(staging: Path, folder: Path) -> None:
    """Put a finished directory in the place of another. The old one stands until the new one is complete."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_draft(folder: Path | str, base: BaseLM, *, dtype: torch.dtype | None = None) -> DraftLM:
    """Load a draft directory (ours, or an EAGLE-1/2 checkpoint) and bind it to a base, on the base's device.

    Args:
        folder: the draft directory.
        base: what it drafts for.
        dtype: type of the weights; the base's when absent. Training asks for float32, so that nothing is rounded away.

    Raises:
        CheckpointError: a file is missing, truncated, or has tensors that do not fit.
        ModelError: hidden size or vocabulary differ from the base's.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    ours = config.get("hetspec")
    if ours is not None and not isinstance(ours, dict):
        raise CheckpointError(
            f"{folder / 'config.json'}: hetspec is not a table", hint="fetch or write the draft again"
        )
    if ours is None:
        tensors = _adapt_eagle(tensors, config, folder)
    settings = ours or {}
    version = settings.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has draft format {version}; this version reads {FORMAT_VERSION}", hint="update HetSpec"
        )
    vocab_ids = tensors.pop(_VOCAB_KEY, None)
    vocab = None
    if vocab_ids is not None:
        vocab = DraftVocab(vocab_ids.to(base.device), int(settings.get("base_vocab_size", config["vocab_size"])))
    fusion = tensors.get("fc.weight")
    if fusion is None or fusion.ndim != 2:
        raise CheckpointError(
            f"{folder / WEIGHTS} has no fc.weight: it is not an EAGLE-1/2 draft", hint="see docs/drafts.md"
        )
    hidden_size, fused = fusion.shape
    if hidden_size != base.hidden_size:
        raise ModelError(
            f"the draft in {folder} has hidden size {hidden_size}, base {base.name} has {base.hidden_size}",
            hint="use a draft that was made for this base",
        )
    if fused != 2 * hidden_size:
        raise CheckpointError(
            f"fc.weight in {folder / WEIGHTS} is {hidden_size} x {fused}; an EAGLE-1/2 draft has {hidden_size} x "
            f"{2 * hidden_size}, for an embedding and a feature",
            hint="see docs/drafts.md",
        )
    backbone = _build_backbone(
        config,
        folder,
        skip_first_input_norm=settings.get("skip_first_input_norm", "layers.0.input_layernorm.weight" not in tensors),
        skip_output_norm=settings.get("skip_output_norm", "norm.weight" not in tensors),
    )
    draft = DraftLM(backbone, FusionHead(hidden_size, fused - hidden_size, bias="fc.bias" in tensors), vocab=vocab)
    _fill(draft, tensors, folder)
    draft.bind(base)
    return draft.to(base.device, dtype or base.dtype).eval()


def read_settings(folder: Path | str) -> dict[str, Any]:
    """The `hetspec` block of a draft directory; empty for foreign checkpoints."""
    return _read_config(Path(folder)).get("hetspec", {})


def _native_names(draft: DraftLM) -> dict[str, Tensor]:
    names = {f"fc.{name}": tensor for name, tensor in _state(draft.head.fc).items()}
    return names | _state(draft.backbone.decoder)


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    """What `state_dict` gives of a plain module; of one that FSDP has put together for the moment, that gives parts."""
    found = {name: parameter.detach() for name, parameter in module.named_parameters(remove_duplicate=False)}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                found[f"{prefix}.{name}".lstrip(".")] = buffer
    return found


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().clone()


def _fill(draft: DraftLM, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy every tensor into its place; nothing may be missing and nothing left over."""
    wanted = _native_names(draft)
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} has no place" for name in sorted(tensors.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, its place {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"the tensors in {folder} do not fit its config.json: {'; '.join(problems[:6])}"
            + (f" and {len(problems) - 6} more" if len(problems) > 6 else ""),
            hint="check that config.json and the weights belong together",
        )
    with torch.no_grad():
        for name, place in wanted.items():
            place.copy_(tensors[name])


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no draft in {folder}: config.json is missing", hint="name a draft directory or a run"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{file} is not JSON: {error}", hint="the file is damaged; fetch or write the draft again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no table", hint="the file is damaged; fetch or write the draft again")
    missing = [key for key in ("model_type", "hidden_size", "vocab_size") if key not in config]
    if missing:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}", hint="it is not the configuration of a draft")
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    try:
        if file.is_file():
            return load_file(file)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _unreadable(file, error) from error
    legacy = folder / "pytorch_model.bin"
    if legacy.is_file():
        try:
            tensors = torch.load(legacy, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes lead the unpickler anywhere; code that is not allowed also ends here
            raise _unreadable(legacy, error) from error
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise CheckpointError(f"{legacy} does not hold tensors by name", hint="name a draft directory or a run")
        return tensors
    raise CheckpointError(
        f"{folder} has neither {WEIGHTS} nor pytorch_model.bin", hint="name a draft directory or a run"
    )


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the draft's weights in {file} cannot be read: {_first_line(error)}",
        hint="the file is truncated, damaged or no plain checkpoint; use an older checkpoint, or fetch it again",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _adapt_eagle(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """EAGLE-1/2 as its authors and SGLang write it: the embedding is the base's copy and is dropped."""
    named = config.get("architectures") or ["?"]
    if not _EAGLE_ARCHITECTURES.search(named[0]) or "midlayer.hidden_norm.weight" in tensors:
        raise CheckpointError(
            f"{folder} is a {named[0]} checkpoint; EAGLE-1/2 layouts and HetSpec's own can be loaded",
            hint="see docs/drafts.md",
        )
    plain = {re.sub(r"^(model\.|eagle_)", "", name): tensor for name, tensor in tensors.items()}
    plain.pop("embed_tokens.weight", None)
    return plain


def _build_backbone(record: dict[str, Any], folder: Path, **norms: bool) -> HFBackbone:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    values = {key: value for key, value in record.items() if key not in ("hetspec", "model_type", "architectures")}
    values.pop("transformers_version", None)
    values.pop("dtype", None)
    values.pop("torch_dtype", None)
    try:
        return HFBackbone(AutoConfig.for_model(record["model_type"], **values), **norms)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} describes no architecture of a draft: {_first_line(error)}",
            hint="see `hetspec-core catalog backbones`",
        ) from error
