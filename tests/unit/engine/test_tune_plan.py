"""What a tuning still has time for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hetspec_core.engine.decoding.measure import Track
from hetspec_core.engine.stages import tune
from hetspec_core.spec import DecodingSpec


def tried(monkeypatch: pytest.MonkeyPatch, budget_s: float, *, start_s: float, trial_s: float) -> list[str]:
    """Trials that the plan has time for, of three ways at two batch sizes, by a clock of our own."""
    now = [0.0]
    monkeypatch.setattr(tune.time, "monotonic", lambda: now[0])
    settings = SimpleNamespace(tune=SimpleNamespace(budget_s=budget_s, batch_sizes=(1, 8)))
    context: Any = SimpleNamespace(spec=settings, check_cancelled=lambda: None)
    ways = [Track(label, DecodingSpec()) for label in ("plain", "3/1/3", "6/10/59")]
    done: list[str] = []
    started: set[str] = set()
    for way, size, reason in tune._plan(context, ways):
        if reason:
            continue
        now[0] += trial_s + (0.0 if way.label in started else start_s)
        started.add(way.label)
        done.append(f"{way.label} {size}")
    return done


def test_a_trial_at_a_server_that_stands_need_not_fit_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(monkeypatch, 100, start_s=80, trial_s=5) == ["plain 1", "plain 8"]
    assert tried(monkeypatch, 200, start_s=80, trial_s=5) == ["plain 1", "plain 8", "3/1/3 1", "3/1/3 8"]
    assert len(tried(monkeypatch, 300, start_s=80, trial_s=5)) == 6


def test_what_does_not_fit_any_more_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(monkeypatch, 0, start_s=80, trial_s=5) == ["plain 1"], "the first is always tried"
    assert tried(monkeypatch, 24, start_s=0, trial_s=5) == ["plain 1", "plain 8", "3/1/3 1", "3/1/3 8"]
