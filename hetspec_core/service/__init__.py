"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them."""

from hetspec_core.jobs import Waiting
from hetspec_core.service.curves import Curve, CurvePoint, curve
from hetspec_core.service.failure_report import PostMortem, log_names, post_mortem
from hetspec_core.service.gpus import GpuReport
from hetspec_core.service.inputs import InputKind
from hetspec_core.service.library import Comparison, Discarded, Library, Relative
from hetspec_core.service.logs import LogFile, LogState
from hetspec_core.service.report import RunReport, RunSummary
from hetspec_core.service.run_news import RunNews, RunReader, WorkerFacts, exit_words
from hetspec_core.service.saved_files import save_export
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
    "LogFile",
    "LogState",
    "PostMortem",
    "Relative",
    "RunHandle",
    "RunNews",
    "RunReader",
    "RunReport",
    "RunSummary",
    "Waiting",
    "Watch",
    "Workbench",
    "WorkerFacts",
    "curve",
    "exit_words",
    "log_names",
    "post_mortem",
    "save_export",
]
