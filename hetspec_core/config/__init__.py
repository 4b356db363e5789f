"""From presets, files and `--set` to one frozen run spec, with the origin of every key. Nothing read is executed."""

from hetspec_core.config.origins import Origin
from hetspec_core.config.resolve import Resolved, load_base, resolve

__all__ = ["Origin", "Resolved", "load_base", "resolve"]
