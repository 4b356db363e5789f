"""Ten desks on one home: they submit, start, cancel, label, list, search and take in at once, and nothing gets lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.events import Launched, RunEnded
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from tests.conftest import REPOSITORY
from tests.fakes.supervised import dump, left_over, said, until

CROWD_S = float(os.environ.get("HETSPEC_CROWD_SECONDS", "4"))
"""For how long; 60 before a release."""
DESKS, GPUS = 10, 4

DESK = """
import json, random, sys, time
from pathlib import Path
from hetspec_core.errors import HetSpecError, RunError
from hetspec_core.events import Marked
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec
from tests.fakes.specs import small_spec

home, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(seed)
limit = time.monotonic() + seconds
mine, acts, most_leased = [], 0, 0
while time.monotonic() < limit or not mine:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:  # as a command does: open, act, close
        library = Library(bench)
        for _ in range(chance.randint(1, 6)):
            act = chance.choice(["submit", "cancel", "list", "search", "label", "gpus", "sync", "rebuild"])
            acts += 1
            if act == "submit" and len(mine) < 3 + seconds / 4:
                resources = ResourcesSpec(num_gpus=chance.choice([1, 1, 2, 4]), priority=chance.choice([0, 0, 5]))
                deed = chance.choice(["succeed", "wait", "die"])
                spec = small_spec(f"{deed}-{seed}-{len(mine)}").model_copy(update={"resources": resources})
                mine.append(bench.submit(spec).run_id)
                bench.start(mine[-1])
            elif act == "cancel" and mine:
                try:
                    bench.cancel(chance.choice(mine), force=chance.random() < 0.3)
                except RunError as error:
                    assert "nothing to cancel" in str(error), error
            elif act == "list":
                there = {run.run_id for run in bench.runs()}
                assert set(mine) <= there, set(mine) - there
            elif act == "search" and mine:
                found = {run.run_id for run in bench.summaries([f"name:-{seed}-"])}
                assert found == set(mine), (found, mine)
            elif act == "label" and mine:
                library.mark(chance.choice(mine), Marked(add_tags=(f"tag{acts}",)))
            elif act == "gpus":
                leased = [one.gpu.uuid for one in bench.gpus().gpus if one.run_id]
                most_leased = max(most_leased, len(leased))
            elif act == "sync":
                bench.registry.sync_all()
            elif act == "rebuild" and seed == 0:
                bench.rebuild()
with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
    states = {}
    for run_id in mine:
        try:
            bench.cancel(run_id)
        except RunError as error:
            assert "nothing to cancel" in str(error), error
        states[run_id] = bench.wait(run_id, 240)
        assert states[run_id] in ("succeeded", "cancelled", "failed"), (run_id, states[run_id])
print(json.dumps({"runs": mine, "acts": acts, "leased": most_leased}))
"""


@pytest.fixture
def workbench(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", str(GPUS))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench
    for process in left_over(home):  # of a test that failed
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(300 + 6 * CROWD_S)
def test_ten_desks_at_once_lose_no_run_and_lease_no_gpu_twice(workbench: Workbench, home: Path) -> None:
    desks = [
        subprocess.Popen(
            [sys.executable, "-c", DESK, str(home), str(seed), str(CROWD_S)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(DESKS)
    ]
    made: set[str] = set()
    for desk in desks:
        told, errors = desk.communicate()
        assert desk.returncode == 0, errors  # "database is locked" among them
        made |= set(json.loads(told)["runs"])
    until(lambda: left_over(home) == [], "the end of all workers")
    assert {run.run_id for run in workbench.runs()} == made
    assert workbench.queue.entries() == []
    until(lambda: {one.state for one in workbench.gpus().gpus} == {"free"}, "the leases")
    assert_no_gpu_was_leased_twice(workbench, made)
    live = dump(workbench)
    workbench.rebuild()
    assert dump(workbench) == live


def assert_no_gpu_was_leased_twice(workbench: Workbench, run_ids: set[str]) -> None:
    """From the journals alone: at no moment did the runs at work want more GPUs than there are."""
    held: list[tuple[float, float, int]] = []
    for run_id in run_ids:
        begins = [event.time for event in said(workbench.paths(run_id).desk, Launched)]
        ends = [event.time for event in said(workbench.paths(run_id).events, RunEnded)]
        assert len(begins) <= 1 and len(ends) >= len(begins), run_id
        spec = workbench.show(run_id).spec
        assert spec is not None
        held += [(begin, ends[-1], spec.resources.num_gpus) for begin in begins]
    for moment, _, _ in held:
        assert sum(gpus for begin, end, gpus in held if begin <= moment < end) <= GPUS
