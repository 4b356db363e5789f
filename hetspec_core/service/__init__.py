"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them.

Every name is imported when it is first asked for: a dashboard that only wants to know where its settings are does not
wait for pydantic and SQLite.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetspec_core.config.origins import key_lines, nearest_line
    from hetspec_core.jobs import PARENT_ENDED, Waiting
    from hetspec_core.service.curves import CurvePoint, MetricCurve, curve
    from hetspec_core.service.failure_report import PostMortem, log_names, post_mortem
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.inputs import InputKind
    from hetspec_core.service.library import Discarded, Library, Relative, RunComparison
    from hetspec_core.service.logs import LogFile, LogState
    from hetspec_core.service.overview import Concern, LiveRun, Observer, Overview
    from hetspec_core.service.presets import ResolvedValue
    from hetspec_core.service.report import RunReport, RunSummary
    from hetspec_core.service.run_news import RunNews, RunReader, WorkerFacts, exit_words
    from hetspec_core.service.saved_files import save_export
    from hetspec_core.service.watch import Watch
    from hetspec_core.service.workbench import RESUMABLE, RunHandle, Workbench

_HOME_OF = {
    "RunComparison": "hetspec_core.service.library",
    "Concern": "hetspec_core.service.overview",
    "MetricCurve": "hetspec_core.service.curves",
    "CurvePoint": "hetspec_core.service.curves",
    "Discarded": "hetspec_core.service.library",
    "GpuReport": "hetspec_core.service.gpus",
    "InputKind": "hetspec_core.service.inputs",
    "Library": "hetspec_core.service.library",
    "LiveRun": "hetspec_core.service.overview",
    "LogFile": "hetspec_core.service.logs",
    "LogState": "hetspec_core.service.logs",
    "Observer": "hetspec_core.service.overview",
    "Overview": "hetspec_core.service.overview",
    "PARENT_ENDED": "hetspec_core.jobs",
    "PostMortem": "hetspec_core.service.failure_report",
    "RESUMABLE": "hetspec_core.service.workbench",
    "Relative": "hetspec_core.service.library",
    "ResolvedValue": "hetspec_core.service.presets",
    "RunHandle": "hetspec_core.service.workbench",
    "RunNews": "hetspec_core.service.run_news",
    "RunReader": "hetspec_core.service.run_news",
    "RunReport": "hetspec_core.service.report",
    "RunSummary": "hetspec_core.service.report",
    "Waiting": "hetspec_core.jobs",
    "Watch": "hetspec_core.service.watch",
    "Workbench": "hetspec_core.service.workbench",
    "WorkerFacts": "hetspec_core.service.run_news",
    "curve": "hetspec_core.service.curves",
    "exit_words": "hetspec_core.service.run_news",
    "key_lines": "hetspec_core.config.origins",
    "log_names": "hetspec_core.service.failure_report",
    "nearest_line": "hetspec_core.config.origins",
    "post_mortem": "hetspec_core.service.failure_report",
    "save_export": "hetspec_core.service.saved_files",
}

__all__ = [
    "PARENT_ENDED",
    "RESUMABLE",
    "Concern",
    "CurvePoint",
    "Discarded",
    "GpuReport",
    "InputKind",
    "Library",
    "LiveRun",
    "LogFile",
    "LogState",
    "MetricCurve",
    "Observer",
    "Overview",
    "PostMortem",
    "Relative",
    "ResolvedValue",
    "RunComparison",
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
    "key_lines",
    "log_names",
    "nearest_line",
    "post_mortem",
    "save_export",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found
