"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them."""

from hetspec_core.service.inputs import InputKind
from hetspec_core.service.report import RunReport, RunSummary
from hetspec_core.service.watch import Watch
from hetspec_core.service.workbench import RESUMABLE, RunHandle, Workbench

__all__ = ["RESUMABLE", "InputKind", "RunHandle", "RunReport", "RunSummary", "Watch", "Workbench"]
