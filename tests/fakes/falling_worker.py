"""The real worker, killed once in the middle of its share (worker-1), and once when it puts the shares together."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from hetspec_core.engine.data import hidden_states, shares
from hetspec_core.engine.worker import main


def fall_once(name: str) -> None:
    """End as a killed process does, the first time that this is called for the run with this name."""
    mark = Path(sys.argv[1]) / f"{name}.fell"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def arrange() -> None:
    """Fall when the manifest is written that names the first shard: the shard is on the disk, and nobody knows."""
    write = hidden_states.write_manifest

    def write_or_fall(folder: Path, manifest: Any) -> None:
        if manifest.shards and folder.parent.name == "1":
            fall_once("share")
        write(folder, manifest)

    def gather_or_fall(folder: Path, manifest: Any) -> None:
        fall_once("merge")
        write(folder, manifest)

    hidden_states.write_manifest = write_or_fall
    shares.write_manifest = gather_or_fall


if __name__ == "__main__":
    arrange()
    sys.exit(main())
