"""The index of runs: states derived from journals, and a database that can be made again from the run folders."""

from hetspec_core.events.state import RunFacts, RunState, derive_state, fold
from hetspec_core.runs.found import Found
from hetspec_core.runs.ingest import Registry
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow
from hetspec_core.runs.thin import AXES, Axis

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
