"""What a worker reads before it imports torch: the spec in its run folder, and the versions it runs on."""

from __future__ import annotations

import platform
from importlib import metadata

import hetspec_core
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.paths import RunPaths
from hetspec_core.spec import RunSpec
from hetspec_core.spec.document import from_toml

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "safetensors")


def read_spec(paths: RunPaths) -> RunSpec:
    """The spec of a run folder.

    Raises:
        NotFoundError: there is no spec.toml.
        SpecError: it does not hold; every problem is listed.
    """
    try:
        text = paths.spec.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{paths.folder} is no run folder: it has no {paths.spec.name}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{paths.spec} is not UTF-8 text: {error}") from None
    return from_toml(text, name=str(paths.spec))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result may depend on (those that are installed)."""
    found = {"hetspec": hetspec_core.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
