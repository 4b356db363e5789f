"""The latent recurrence's loss: that of EAGLE-1/2 on the state after every refinement, the last one weighing most.

The recurrence itself is in the head. It is a loss and nothing more.
"""

from __future__ import annotations

from hetspec_core.engine.algorithms.eagle import Eagle
from hetspec_core.spec import LatentOptions


class Latent(Eagle):
    """Deep supervision: the state after refinement i of H weighs `deep_supervision` ** (H - i).

    Args:
        options: as of EAGLE, and how the draft recurs.
    """

    options: LatentOptions

    def step_weights(self, count: int) -> tuple[float, ...]:
        return tuple(self.options.deep_supervision**before for before in reversed(range(count)))
