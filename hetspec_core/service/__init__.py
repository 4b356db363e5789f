"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them."""

from hetspec_core.jobs import PARENT_ENDED, Waiting
from hetspec_core.service.gpus import GpuReport
from hetspec_core.service.inputs import InputKind
from hetspec_core.service.library import Comparison, Discarded, Library, Relative
from hetspec_core.service.report import RunReport, RunSummary
from hetspec_core.service.watch import Watch
from hetspec_core.service.workbench import RESUMABLE, RunHandle, Workbench

__all__ = [
    "PARENT_ENDED",
    "RESUMABLE",
    "Comparison",
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
]
