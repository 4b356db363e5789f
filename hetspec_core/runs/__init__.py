"""The index of runs: their folders, and a database that can be made again from these at any time."""

from hetspec_core.runs.registry import Registry
from hetspec_core.runs.rows import MetricPoint, RunName, RunRow
from hetspec_core.runs.tables import Axis

__all__ = ["Axis", "MetricPoint", "Registry", "RunName", "RunRow"]
