"""The one front door of command line and dashboard: submit runs, follow them, stop them, look at them.

Every name is imported when it is first asked for: a dashboard that only wants to know where its settings are does not
wait for pydantic and SQLite.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetspec_core.jobs import PARENT_ENDED, Waiting
    from hetspec_core.service.curves import Curve, CurvePoint, curve
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.inputs import InputKind
    from hetspec_core.service.library import Comparison, Discarded, Library, Relative
    from hetspec_core.service.overview import Concern, LiveRun, Observer, Overview
    from hetspec_core.service.report import RunReport, RunSummary
    from hetspec_core.service.watch import Watch
    from hetspec_core.service.workbench import RESUMABLE, RunHandle, Workbench

_HOME_OF = {
    "Comparison": "hetspec_core.service.library",
    "Concern": "hetspec_core.service.overview",
    "Curve": "hetspec_core.service.curves",
    "CurvePoint": "hetspec_core.service.curves",
    "Discarded": "hetspec_core.service.library",
    "GpuReport": "hetspec_core.service.gpus",
    "InputKind": "hetspec_core.service.inputs",
    "Library": "hetspec_core.service.library",
    "LiveRun": "hetspec_core.service.overview",
    "Observer": "hetspec_core.service.overview",
    "Overview": "hetspec_core.service.overview",
    "PARENT_ENDED": "hetspec_core.jobs",
    "RESUMABLE": "hetspec_core.service.workbench",
    "Relative": "hetspec_core.service.library",
    "RunHandle": "hetspec_core.service.workbench",
    "RunReport": "hetspec_core.service.report",
    "RunSummary": "hetspec_core.service.report",
    "Waiting": "hetspec_core.jobs",
    "Watch": "hetspec_core.service.watch",
    "Workbench": "hetspec_core.service.workbench",
    "curve": "hetspec_core.service.curves",
}

__all__ = [
    "PARENT_ENDED",
    "RESUMABLE",
    "Comparison",
    "Concern",
    "Curve",
    "CurvePoint",
    "Discarded",
    "GpuReport",
    "InputKind",
    "Library",
    "LiveRun",
    "Observer",
    "Overview",
    "Relative",
    "RunHandle",
    "RunReport",
    "RunSummary",
    "Waiting",
    "Watch",
    "Workbench",
    "curve",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found
