"""Curves for drawing: one metric of one run along steps, tokens or seconds, thinned so that every peak is still there.

It knows the workbench, and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.runs import AXES, Axis
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec.decode import did_you_mean


class CurvePoint(NamedTuple):
    """One point: where it lies on the axis, its value, and the step at which it was measured."""

    x: float
    value: float
    step: int


@dataclass(frozen=True)
class MetricCurve:
    """A metric of a run, ready to be drawn.

    Attributes:
        axis: what `x` of the points counts: steps, training tokens, or seconds of work over all attempts.
        points: by step; those without a value (it was not finite) or without an `x` are left out.
        total: how many points the run has of this metric, drawn or not.
    """

    run_id: str
    metric: str
    axis: Axis
    points: tuple[CurvePoint, ...]
    total: int

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        points = [point._asdict() for point in self.points]
        return {"run_id": self.run_id, "metric": self.metric, "x": self.axis, "total": self.total, "points": points}


def curve(workbench: Workbench, run_id: str, metric: str, points: int, x: Axis = "step") -> MetricCurve:
    """A metric of a run in about `points` points, with what its journal has said until now.

    A longer curve is cut into equal stretches of the axis, and of each the lowest and the highest point are taken, and
    of all the first and the last: no peak is lost, however few points are asked for.

    Args:
        workbench: whose run.
        run_id: which.
        metric: its name.
        points: about how many, at least 4; two for each column of a screen say all that can be drawn.
        x: the axis.

    Raises:
        NotFoundError: there is no such run, or it has no such metric.
        UsageError: `points` or `x` is none that can be.
    """
    if x not in AXES:
        raise UsageError(f"a curve has no axis {x!r}{did_you_mean(x, AXES)}", hint=f"it is one of {', '.join(AXES)}")
    if points < 4:
        raise UsageError(f"a curve cannot be drawn in {points} points", hint="ask for at least 4")
    workbench.state(run_id)  # takes in what is new, and says so when the run is not there
    found = workbench.registry.curve(run_id, metric, most=points, axis=x)
    if not found:
        known = workbench.registry.metric_names(run_id)
        raise NotFoundError(
            f"run {run_id} has no metric {metric!r}{did_you_mean(metric, known)}",
            hint=f"it has {', '.join(known) or 'none yet'}",
        )
    drawn = []
    for point in found:
        place = getattr(point, x)
        if place is not None and point.value is not None:
            drawn.append(CurvePoint(place, point.value, point.step))
    return MetricCurve(run_id, metric, x, tuple(drawn), workbench.registry.count_points(run_id, metric))
