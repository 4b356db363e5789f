"""What pyproject.toml declares, what the code imports and what constraints.txt pins agree."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OURS = {"hetspec_core", "hetspec_tui", "tests", "benchmarks"}


def declared(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pinned() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def imported(folder: Path, *, leave_out: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Every third-party top-level module that the code below `folder` imports, with one file that does."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.py")):
        if any(path.is_relative_to(left_out) for left_out in leave_out):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            else:
                continue
            found |= {module.partition(".")[0]: path for module in modules}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | OURS}


CORE = REPOSITORY / "hetspec_core"


@pytest.mark.parametrize(
    ("folder", "leave_out", "extras"),
    [
        (CORE, (CORE / "engine", CORE / "sglang"), ()),
        (REPOSITORY / "hetspec_tui", (), ()),
        (CORE / "engine", (), ("engine", "kernels")),
        (CORE / "sglang", (), ("engine", "sglang")),  # what runs inside SGLang may import what is there
    ],
    ids=["desk", "dashboard", "engine", "sglang"],
)
def test_every_import_is_declared(folder: Path, leave_out: tuple[Path, ...], extras: tuple[str, ...]) -> None:
    distributions = packages_distributions()
    allowed = set(declared(*extras)) | {"msgspec"}  # SGLang's own; the tree plugin runs inside it only
    seen = imported(folder, leave_out=leave_out)
    assert seen
    missing = {
        module: str(path.relative_to(REPOSITORY))
        for module, path in seen.items()
        if not {canonicalize_name(name) for name in distributions.get(module, [module])} & allowed
    }
    assert missing == {}


def test_every_declared_dependency_is_pinned_inside_its_range() -> None:
    pins = pinned()
    for name, requirement in declared("engine", "dev").items():
        assert name in pins, f"{name} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{name}: {pins[name]} is outside"


def test_torch_is_a_range_and_not_a_pin() -> None:
    torch = declared("engine")["torch"].specifier
    assert torch.contains("2.11.0")
    assert torch.contains(pinned()["torch"])
