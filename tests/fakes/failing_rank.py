"""The real worker, whose second rank fails in the middle of training."""

from __future__ import annotations

import os
import sys
from typing import Any

from hetspec_core.engine.training.feed import BatchFeed
from hetspec_core.engine.worker import main


def arrange() -> None:
    """Fail at the fourth step."""
    give, steps = BatchFeed.next_step, 0

    def give_or_fail(feed: BatchFeed) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4 and os.environ["RANK"] == "1":
            raise RuntimeError("the second rank has had enough")
        return give(feed)

    BatchFeed.next_step = give_or_fail  # type: ignore[method-assign]


if __name__ == "__main__":
    arrange()
    sys.exit(main())
