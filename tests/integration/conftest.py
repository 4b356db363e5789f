"""What several files of these tests stand on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny base and a draft for it, as specs."""
    from tests.fakes.sglang_pair import make_pair

    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder from which the fake SGLang is imported."""
    from tests.fakes.sglang_site import make_site

    return make_site(tmp_path / "site")


@pytest.fixture
def engine_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engine commands of the command line run in this process, which has torch already."""
    from tests.fakes.engine_here import run_here

    monkeypatch.setattr("hetspec_core.cli.engine_command.subprocess", SimpleNamespace(run=run_here))
