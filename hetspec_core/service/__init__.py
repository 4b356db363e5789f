"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them."""

from hetspec_core.jobs import Waiting
from hetspec_core.service.curves import Curve, CurvePoint, curve
from hetspec_core.service.gpus import GpuReport
from hetspec_core.service.inputs import InputKind
from hetspec_core.service.library import Comparison, Discarded, Library, Relative
from hetspec_core.service.report import RunReport, RunSummary
from hetspec_core.service.watch import Watch
from hetspec_core.service.workbench import RESUMABLE, RunHandle, Workbench

__all__ = [
    "RESUMABLE",
    "Comparison",
    "Curve",
    "CurvePoint",
    "Discarded",
    "GpuReport",
    "InputKind",
    "Library",
    "Relative",
    "RunHandle",
    "RunReport",
    "RunSummary",
    "Waiting",
    "Watch",
    "Workbench",
    "curve",
]
