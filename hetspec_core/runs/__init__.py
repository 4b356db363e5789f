"""The index of runs: their folders, and a database that can be made again from these at any time."""

from hetspec_core.events.state import RunFacts, RunState, derive_state, fold
from hetspec_core.runs.registry import Found, Registry
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow
from hetspec_core.runs.tables import AXES, Axis

__all__ = [
    "AXES",
    "Axis",
    "Found",
    "MetricPoint",
    "Registry",
    "RunFacts",
    "RunName",
    "RunRow",
    "RunState",
    "derive_state",
    "fold",
]
