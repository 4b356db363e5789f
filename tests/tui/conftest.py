"""What several of the dashboard's tests begin with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hetspec_core.events import Marked
from tests.fakes.run_folders import add_run


@pytest.fixture
def runs(home: Path) -> Path:
    """Four runs, newest first: alpha (running), beta (failed), gamma (succeeded, tagged), delta (lost)."""
    now = time.time()
    add_run(home, "run-a", "running", name="alpha", created=now - 60, curve=(3.0, 2.0, 1.5), lr=0.1)
    add_run(home, "run-b", "failed", name="beta", created=now - 3600, curve=(3.0, 2.5), lr=0.2)
    add_run(home, "run-c", "succeeded", name="gamma", created=now - 7200, curve=(3.0, 1.0), lr=0.3,
            marked=Marked(add_tags=("best",), note="tree of 60"))  # fmt: skip
    add_run(home, "run-d", "lost", name="delta", created=now - 90000)
    return home
