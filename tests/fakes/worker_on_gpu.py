"""The worker of `tests.fakes.worker` with the real torch, which takes the GPU that the run asks for."""

from __future__ import annotations

import sys

from hetspec_core.engine.worker import main
from tests.fakes.worker import act

if __name__ == "__main__":
    sys.exit(main(load_stage=lambda name: act))
