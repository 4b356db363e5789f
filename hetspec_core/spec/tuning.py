"""Spec of tuning: which shapes and batch sizes are tried, and for how long."""

from __future__ import annotations

from pydantic import Field

from hetspec_core.spec._base import Spec
from hetspec_core.spec.decoding import TreeSpec

_SHAPES = ("1/1/1", "2/1/2", "3/1/3", "4/1/4", "3/4/7", "5/4/7", "4/8/15", "5/8/31", "6/10/59")


class TuneSpec(Spec):
    """A search over tree shapes and batch sizes."""

    trees: tuple[TreeSpec, ...] = Field(
        default=tuple(TreeSpec.parse(shape) for shape in _SHAPES), min_length=1, description="Shapes to try, in order."
    )
    batch_sizes: tuple[int, ...] = Field(default=(1,), min_length=1, description="Prompts at once.")
    repeats: int = Field(
        default=3, gt=0, description="Times that every prompt is answered by every shape, as far as the time allows."
    )
    budget_s: float = Field(default=900.0, gt=0, description="Seconds for all of it; what does not fit is left out.")
