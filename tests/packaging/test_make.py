"""The Makefile: what a bare clone meets first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def make(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def program(path: Path, *, version: str, status: int) -> Path:
    path.write_text(f'#!/bin/sh\n[ "$1" = -V ] && echo "Python {version}" && exit 0\nexit {status}\n')
    path.chmod(0o755)
    return path


def test_without_a_target_it_prints_the_targets_and_does_nothing() -> None:
    done = make()
    assert done.returncode == 0
    for target in ("help", "install", "demo", "run", "test", "check", "bench", "clean"):
        assert f"make {target} " in done.stdout


def test_an_old_python_is_refused_with_its_version_and_the_way_out(tmp_path: Path) -> None:
    done = make("install", f"PYTHON={program(tmp_path / 'old', version='3.10.2', status=1)}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "Python 3.10.2" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    done = make("install", f"PYTHON={tmp_path / 'nowhere'}")
    assert done.returncode != 0
    assert str(tmp_path / "nowhere") in done.stderr


def test_clean_removes_what_was_made_and_nothing_else(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in (".venv/bin", ".cache/tests", "hetspec_core/__pycache__", "hetspec_core/runs"):
        (clone / name).mkdir(parents=True)
    shutil.copy(REPOSITORY / "Makefile", clone)
    assert make("clean", folder=clone).returncode == 0
    left = sorted(path.relative_to(clone).as_posix() for path in clone.rglob("*"))
    assert left == ["Makefile", "hetspec_core", "hetspec_core/runs"]
