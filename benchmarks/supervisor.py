"""What the supervisor costs: `python -m benchmarks.supervisor`. Prints one JSON line.

A run is submitted and started some times with the tests' worker, which needs no model. Measured are the time that
`Workbench.start` takes, the time from there to the worker's first word, and the supervisor's resident memory.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from hetspec_core.events import RunStarted, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec

TIMES = 9


def main() -> None:
    start_s, speaks_s, resident = [], [], []
    with (
        tempfile.TemporaryDirectory() as home,
        Workbench(Path(home), LocalExecutor("tests.fakes.worker")) as workbench,
    ):
        for _ in range(TIMES):
            run_id = workbench.submit(small_spec("wait")).run_id
            began = time.perf_counter()
            workbench.start(run_id)
            start_s.append(time.perf_counter() - began)
            events = workbench.paths(run_id).events
            while not any(isinstance(event, RunStarted) for event in read_events(events)[0]):
                time.sleep(0.002)
            speaks_s.append(time.perf_counter() - began)
            holder = json.loads((workbench.paths(run_id).folder / ".supervisor.lock").read_text())
            resident.append(psutil.Process(holder["pid"]).memory_info().rss / 2**20)
            workbench.cancel(run_id)
            workbench.wait(run_id)
    print(
        json.dumps(
            {
                "start_s": {"median": round(statistics.median(start_s), 3), "max": round(max(start_s), 3)},
                "worker_speaks_s": {"median": round(statistics.median(speaks_s), 3), "max": round(max(speaks_s), 3)},
                "supervisor_mib": round(max(resident), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
