"""Measuring instead of assuming: a real dataset run of a few conversations, and what it says.

It knows runs through the Workbench only.
"""

from __future__ import annotations

from typing import Any

from hetspec_core.errors import StageFailed
from hetspec_core.events import Progress, read_events
from hetspec_core.paths import RunPaths
from hetspec_core.service.planning.facts import ProbeFacts
from hetspec_core.service.report import RunReport
from hetspec_core.spec import RunSpec

PROBE_SAMPLES = 20
_WRITING = ("prompts", "answers")  # tasks in which the base writes


def probe_spec(spec: RunSpec) -> RunSpec:
    """The dataset run that measures for a spec: the same base and data, `PROBE_SAMPLES` conversations at most, by one
    worker.
    """
    limit = min(PROBE_SAMPLES, spec.dataset.limit or PROBE_SAMPLES)
    dataset = spec.dataset.model_copy(update={"limit": limit})
    alone = {"num_workers": None, "num_nodes": 1, "node_rank": 0, "rendezvous": None}
    resources = spec.resources.model_copy(
        update=alone | {"num_gpus": min(1, spec.resources.num_gpus), "gpus": spec.resources.gpus[:1]}
    )
    return spec.model_copy(
        update={
            "stage": "dataset",
            "name": f"probe {spec.recipe}".strip(),
            "dataset": dataset,
            "resources": resources,
            "parents": (),
        }
    )


def read_probe(report: RunReport, paths: RunPaths) -> ProbeFacts:
    """What a finished probe run measured.

    Raises:
        StageFailed: it left no result.
    """
    result: dict[str, Any] = report.results.get("dataset", {})
    try:
        return ProbeFacts(
            run_id=paths.run_id,
            samples=int(result["samples"]),
            tokens=int(result["tokens"]),
            supervised_tokens=int(result["supervised_tokens"]),
            bytes=int(result["bytes"]),
            capture_s=float(result["capture_s"]),
            answers_s=_writing_s(paths),
            memory_bytes=dict(result["peak_memory_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailed(f"the probe run {paths.run_id} left no usable result: {error}") from None


def _writing_s(paths: RunPaths) -> float:
    """Seconds between the first and the last word of each task in which the base writes."""
    times: dict[str, list[float]] = {}
    for event in read_events(paths.events)[0]:
        if isinstance(event, Progress) and event.task in _WRITING:
            times.setdefault(event.task, []).append(event.time)
    return sum(max(found) - min(found) for found in times.values())
