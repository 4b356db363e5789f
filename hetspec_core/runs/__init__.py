"""The index of runs: states derived from journals, and a database that can be made again from the run folders."""

from hetspec_core.runs.found import Found, flatten
from hetspec_core.runs.ingest import Registry
from hetspec_core.runs.rows import MetricPoint, RunRow
from hetspec_core.runs.state import RunFacts, RunState, derive_state, fold

__all__ = ["Found", "MetricPoint", "Registry", "RunFacts", "RunRow", "RunState", "derive_state", "flatten", "fold"]
