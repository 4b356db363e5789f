"""Algorithms: a loss for a draft and, where it has its own, a head."""

from __future__ import annotations

from hetspec_core.catalog import load_card
from hetspec_core.engine.algorithms.losses import Algorithm, LossOutput
from hetspec_core.spec import AlgorithmSpec


def build_algorithm(spec: AlgorithmSpec) -> Algorithm:
    """The algorithm that a spec names, with its options checked against its card.

    Raises:
        NotFoundError: no card of this name.
        SpecError: an option does not hold.
    """
    card = load_card("algorithms", spec.name)
    return card.load()(card.check_options(spec.options))


__all__ = ["Algorithm", "LossOutput", "build_algorithm"]
