"""Fixtures of the tests of run folders and registry."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A home that this process uses without the rights of root, which may read everything."""
    home = Path(tempfile.mkdtemp())
    home.chmod(0o777)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield home
    finally:
        if is_root:
            os.seteuid(0)
        for folder, _, _ in os.walk(home):
            Path(folder).chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)
