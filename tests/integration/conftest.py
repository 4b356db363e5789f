"""What several files of these tests stand on."""

from __future__ import annotations

from pathlib import Path
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
