"""What several of the dashboard's tests begin with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet

from hetspec_core.events import Marked
from tests.fakes.run_folders import add_run


@pytest.fixture(scope="session", autouse=True)
def parsed_once() -> None:
    """Every style sheet is parsed once for all apps: each app would parse all of them several times."""
    parse, known = Stylesheet._parse_rules, dict[Any, list[RuleSet]]()

    def parse_once(self: Stylesheet, css: str, *where: Any, **options: Any) -> list[RuleSet]:
        key = (css, where, *options.items(), *sorted(self._variables.items()))
        if key not in known:
            known[key] = parse(self, css, *where, **options)
        return known[key]

    Stylesheet._parse_rules = parse_once


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
