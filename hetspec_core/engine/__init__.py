"""The engine: the only part that may import torch and its kin. It runs in a worker process."""

import os
import sys
from pathlib import Path

from hetspec_core.terminal_text import say

_CACHE = "TORCHINDUCTOR_CACHE_DIR"


def _check_compile_cache() -> None:
    """Leave out a folder for compiled programs that cannot be one: torch cannot even be imported with it."""
    folder = os.environ.get(_CACHE)
    if not folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        del os.environ[_CACHE]
        say(f"{_CACHE} is not used: {folder} is no folder and cannot be made one ({error.strerror})", file=sys.stderr)


_check_compile_cache()
