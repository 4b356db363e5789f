"""Curves of several runs over each other: which metric first, and the same colour for a run wherever it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hetspec_tui.widgets.curves import Series

if TYPE_CHECKING:
    from hetspec_core.service.pages import MetricSeries


def usual_metric(names: Sequence[str]) -> str:
    """The metric that is looked at first; empty when there is none."""
    for wanted in ("loss", "accept_length"):
        for name in names:
            if name.rsplit("/", 1)[-1] == wanted:
                return name
    return names[0] if names else ""


def series_of(curve: MetricSeries) -> Series:
    """The curve of a run, by the run's id."""
    return Series(curve.run.run_id, curve.run.name or curve.run.run_id, curve.xs, curve.ys)
