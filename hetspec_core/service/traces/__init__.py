"""Recorded answers: found, exported, and used to predict what other tree shapes would do."""

from hetspec_core.events.trace import Trace, TraceHeader, read_trace
from hetspec_core.service.traces.costs import CALIBRATION_TREES, Costs
from hetspec_core.service.traces.export import FORMATS, export, to_svg
from hetspec_core.service.traces.files import TraceSummary, find_trace, list_traces, load_trace, trace_folder
from hetspec_core.service.traces.positions import Positions, read_positions
from hetspec_core.service.traces.simulation import Prediction, Simulation, grid, predict, simulate

__all__ = [
    "CALIBRATION_TREES",
    "FORMATS",
    "Costs",
    "Positions",
    "Prediction",
    "Simulation",
    "Trace",
    "TraceHeader",
    "TraceSummary",
    "export",
    "find_trace",
    "grid",
    "list_traces",
    "load_trace",
    "predict",
    "read_positions",
    "read_trace",
    "simulate",
    "to_svg",
    "trace_folder",
]
