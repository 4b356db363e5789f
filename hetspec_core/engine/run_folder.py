"""What a worker reads before it imports torch: the spec in its run folder, and the versions it runs on."""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata

from pydantic import ValidationError

from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.paths import RunPaths
from hetspec_core.spec import RunSpec

_PACKAGES = ("hetspec", "torch", "transformers", "datasets", "accelerate", "safetensors")


def read_spec(paths: RunPaths) -> RunSpec:
    """The spec of a run folder.

    Raises:
        NotFoundError: there is no spec.toml.
        SpecError: it does not hold; every problem is listed.
    """
    try:
        return RunSpec.model_validate(tomllib.loads(paths.spec.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise NotFoundError(f"{paths.folder} is no run folder: it has no {paths.spec.name}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{paths.spec} is not TOML: {error}") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SpecError(f"{paths.spec} does not hold", problems=problems) from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result may depend on (those that are installed)."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
