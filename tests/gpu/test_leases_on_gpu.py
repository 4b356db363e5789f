"""GPUs as the driver tells of them: the inventory, leases of real UUIDs, and processes of somebody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec
from tests.fakes.specs import small_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]
PATIENCE_S = 90.0
_HOLD = "import torch, time; held = torch.ones(1 << 28, device='cuda'); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker_on_gpu")) as bench:
        yield bench
        for run in bench.runs():
            if run.state in ("running", "starting", "queued"):
                bench.cancel(run.run_id, force=True)
        for run in bench.runs():
            bench.wait(run.run_id, PATIENCE_S)


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.1)


def start(workbench: Workbench, deed: str, **resources: object) -> str:
    wanted = ResourcesSpec.model_validate({"device": "cuda"} | resources)
    run_id = workbench.submit(small_spec(deed).model_copy(update={"resources": wanted})).run_id
    workbench.start(run_id)
    return run_id


def states(workbench: Workbench) -> dict[str, str]:
    return {status.gpu.uuid: status.state for status in workbench.gpus().gpus}


def test_the_inventory_says_what_torch_sees(workbench: Workbench) -> None:
    gpus = [status.gpu for status in workbench.gpus().gpus]
    assert len(gpus) == torch.cuda.device_count()
    for index, gpu in enumerate(gpus):
        seen = torch.cuda.get_device_properties(index)
        assert gpu.name == seen.name and gpu.uuid.endswith(str(seen.uuid))
        assert abs(gpu.memory_mib * 2**20 - seen.total_memory) < 0.05 * seen.total_memory
        print(gpu)  # utilisation, temperature and power depend on the machine


def test_a_gpu_is_leased_until_its_supervisor_is_gone(workbench: Workbench) -> None:
    count = len(workbench.gpus().gpus)
    first = start(workbench, "wait", num_gpus=count)
    until(lambda: workbench.state(first) == "running", "the first run")
    assert set(states(workbench).values()) == {"leased"}
    second = start(workbench, "wait", num_gpus=1)
    assert workbench.state(second) == "queued"
    lock = (workbench.paths(first).folder / ".supervisor.lock").read_text()
    os.kill(int(lock.split('"pid": ')[1].split(",")[0].strip("} ")), signal.SIGKILL)
    until(lambda: workbench.state(first) == "lost", "the first run to be found lost")
    workbench.dispatch()
    until(lambda: workbench.state(second) == "running", "the second run")


def test_a_gpu_with_somebody_elses_process_is_not_taken_unless_forced(workbench: Workbench) -> None:
    foreign = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE)
    try:
        assert foreign.stdout is not None and foreign.stdout.readline() == b"held\n"
        until(lambda: "busy" in states(workbench).values(), "the driver to name the process")
        count = len(workbench.gpus().gpus)
        modest = start(workbench, "wait", num_gpus=count)
        assert workbench.state(modest) == "queued"
        bold = start(workbench, "wait", num_gpus=count, share_busy=True, priority=1)
        until(lambda: workbench.state(bold) == "running", "the run that shares")
        workbench.cancel(bold, force=True)
        workbench.wait(bold, PATIENCE_S)
    finally:
        foreign.kill()
        foreign.wait()
    until(lambda: workbench.dispatch() or workbench.state(modest) == "running", "the run that waited")
