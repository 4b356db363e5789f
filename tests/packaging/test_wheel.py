"""What a user gets from the index: the wheel has everything that the checkout has and the program reads."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, ending: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ending))
        return archive.read(name).decode()


def files(folder: str) -> set[str]:
    """Files below a folder of the checkout, without what Python caches there."""
    found = (path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(REPOSITORY).as_posix() for path in found}


@pytest.mark.parametrize("package", ["hetspec_core", "hetspec_tui"])
def test_it_holds_every_file_of_both_packages(names: set[str], package: str) -> None:
    expected = files(package)
    assert f"{package}/__init__.py" in expected
    assert sorted(expected - names) == []


def test_it_holds_every_preset_inside_the_core(names: set[str]) -> None:
    presets = files("presets")
    for kind in ("base", "draft", "algorithm", "recipe"):
        assert any(name.startswith(f"presets/{kind}/") for name in presets)
    assert sorted({f"hetspec_core/{name}" for name in presets} - names) == []


@pytest.mark.parametrize(
    ("ending", "place"),
    [
        (".jinja", "hetspec_core/engine/"),
        (".jsonl", "hetspec_core/prompts/"),
        (".jsonl", "hetspec_core/service/traces/shipped/"),
        (".tcss", "hetspec_tui/screens/"),
    ],
)
def test_it_holds_the_data_that_the_program_reads(names: set[str], ending: str, place: str) -> None:
    assert any(name.startswith(place) and name.endswith(ending) for name in names)


def test_it_says_that_it_is_typed_and_carries_its_licence(wheel: Path, names: set[str]) -> None:
    assert {"hetspec_core/py.typed", "hetspec_tui/py.typed"} <= names
    assert read(wheel, ".dist-info/licenses/LICENSE") == (REPOSITORY / "LICENSE").read_text()


def test_it_holds_nothing_but_the_two_packages(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hetspec_core", "hetspec_tui"}


def test_it_installs_the_two_commands(wheel: Path) -> None:
    lines = read(wheel, ".dist-info/entry_points.txt").splitlines()
    assert "hetspec = hetspec_tui.app:main" in lines
    assert "hetspec-core = hetspec_core.cli.main:main" in lines


def test_the_desk_asks_for_nothing_of_the_engine(wheel: Path) -> None:
    metadata = message_from_string(read(wheel, ".dist-info/METADATA"))
    plain = {line.split(";")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert any(line.startswith("pydantic") for line in plain)
    heavy = ("torch", "transformers", "numpy", "datasets", "accelerate", "safetensors", "gguf", "sglang")
    assert [line for line in plain if line.startswith(heavy)] == []


def test_the_installed_wheel_finds_its_presets_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    probe = (
        "import hetspec_core; from hetspec_core.cli.main import main; print(hetspec_core.__file__);"
        "raise SystemExit(main(['presets', 'list', '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    recipes = {path.stem for path in (REPOSITORY / "presets" / "recipe").glob("*.toml")}
    assert recipes
    assert [name for name in recipes if name not in done.stdout] == []
