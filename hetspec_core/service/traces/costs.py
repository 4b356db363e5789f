"""What a verify step of any tree costs on this machine, from a few that were measured. It knows numbers only.

A measured shape costs what was measured. Between them: proposing is linear in the levels below the first and in the
nodes expanded there (depth - 1 and (depth - 1) * top_k), verifying is linear between the measured numbers of nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hetspec_core.events.chat import Calibrated, ShapeCost
from hetspec_core.spec import TreeSpec

CALIBRATION_TREES = ("1/1/1", "4/1/4", "3/4/12", "6/4/24", "6/10/60")
"""Shapes that pin the model down: chain and tree, shallow and deep, few nodes and many."""


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step; `measured` = exactly this shape was."""

    step_s: float
    measured: bool


class Costs:
    """Costs of steps, from a calibration.

    Args:
        calibration: with one measured shape or more.
    """

    def __init__(self, calibration: Calibrated) -> None:
        self.plain_token_s = calibration.plain_token_s
        self._shapes = list(calibration.shapes)
        self._by_label = {cost.tree: cost for cost in self._shapes}
        self._propose = _fit_propose(self._shapes)
        self._other_s = sum(cost.other_s for cost in self._shapes) / len(self._shapes) if self._shapes else 0.0

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def step(self, shape: TreeSpec) -> StepCost:
        """Cost of a step of this shape."""
        known = self._by_label.get(shape.label)
        if known is not None:
            return StepCost(known.step_s, True)
        features = _features(shape)[: len(self._propose)]
        propose_s = max(0.0, sum(weight * value for weight, value in zip(self._propose, features)))
        return StepCost(propose_s + self._verify_s(shape.num_nodes) + self._other_s, False)

    def tokens_per_s(self, shape: TreeSpec, accept_length: float) -> float | None:
        """Decode tokens/s with this accept length."""
        step_s = self.step(shape).step_s
        return accept_length / step_s if step_s > 0 else None

    def _verify_s(self, nodes: int) -> float:
        groups: dict[int, list[float]] = {}
        for cost in self._shapes:
            groups.setdefault(cost.nodes, []).append(cost.verify_s)
        points = sorted((count, sum(values) / len(values)) for count, values in groups.items())
        if len(points) == 1:
            return points[0][1]
        right = next((i for i, (count, _) in enumerate(points) if count >= nodes), len(points) - 1)
        (x0, y0), (x1, y1) = points[max(0, right - 1)], points[max(1, right)]
        return max(0.0, y0 + (y1 - y0) * (nodes - x0) / (x1 - x0))


def _features(shape: TreeSpec) -> tuple[float, float, float]:
    return (1.0, shape.depth - 1.0, (shape.depth - 1.0) * shape.top_k)


def _fit_propose(shapes: Sequence[ShapeCost]) -> list[float]:
    """Weights of the features by least squares; of fewer features when there are not enough different shapes."""
    rows = [_features(TreeSpec.parse(cost.tree)) for cost in shapes]
    values = [cost.propose_s for cost in shapes]
    for count in (3, 2):
        if len({row[:count] for row in rows}) >= count:
            found = _least_squares([row[:count] for row in rows], values)
            if found is not None:
                return found
    return [sum(values) / len(values)] if values else [0.0]


def _least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float] | None:
    """Solve the normal equations by elimination; None when they have no single solution."""
    size = len(rows[0])
    table = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(r[i] * v for r, v in zip(rows, values))]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda line: abs(table[line][column]))
        if abs(table[pivot][column]) < 1e-9:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        for line in range(size):
            if line != column:
                factor = table[line][column] / table[column][column]
                table[line] = [a - factor * b for a, b in zip(table[line], table[column])]
    return [table[i][size] / table[i][i] for i in range(size)]
