"""Runs under a real supervisor with the worker of `tests.fakes.worker`: start them, wait for them, look at them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil

from hetspec_core.events import Event, Progress, read_events
from hetspec_core.jobs.workers import MARK
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec
from tests.fakes.specs import small_spec

PATIENCE_S = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"timed out while waiting for {what}"
        time.sleep(0.02)


def submit(workbench: Workbench, deed: str, **resources: object) -> str:
    spec = small_spec(deed)
    if resources:
        spec = spec.model_copy(update={"resources": ResourcesSpec.model_validate(resources)})
    return workbench.submit(spec).run_id


def start(workbench: Workbench, deed: str, **resources: object) -> str:
    run_id = submit(workbench, deed, **resources)
    workbench.start(run_id)
    return run_id


def said(path: Path, kind: type[Event]) -> list[Event]:
    return [event for event in read_events(path)[0] if isinstance(event, kind)]


def works(workbench: Workbench, run_id: str) -> None:
    until(lambda: said(workbench.paths(run_id).events, Progress), "progress")


def left_over(home: Path) -> list[psutil.Process]:
    """Processes of any worker below this home."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in process.environ().get(MARK, "") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def supervisor_of(workbench: Workbench, run_id: str) -> ProcessIdentity:
    process = workbench.look(run_id)[0].facts.launched_process
    assert process is not None
    return process


def dump(workbench: Workbench) -> list[tuple[object, ...]]:
    workbench.registry.sync_all()
    return workbench.registry._rows("SELECT * FROM runs ORDER BY run_id") + workbench.registry._rows(
        "SELECT * FROM metrics ORDER BY run_id, name, step"
    )
