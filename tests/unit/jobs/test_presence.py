"""A process works on the run in one folder; a copy of that folder names the same process and has no part in it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hetspec_core.jobs import Observation
from hetspec_core.jobs.local import LocalExecutor, run_folder_of
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity

HOLD = """
import fcntl, pathlib, sys, time
file = open(pathlib.Path(sys.argv[1]) / ".supervisor.lock", "w")
if sys.argv[2] == "supervisor":
    fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""


@dataclass
class Case:
    original: RunPaths
    copy: RunPaths
    process: subprocess.Popen[str]
    identity: ProcessIdentity
    supervised: bool


@pytest.fixture(params=["supervisor", "worker"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """A run folder at which a real process works, and a copy of it."""
    original, copy = RunPaths(tmp_path / "home/runs/one"), RunPaths(tmp_path / "copy/runs/one")
    original.folder.mkdir(parents=True)
    original.spec.touch()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, str(original.folder), request.param], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        shutil.copytree(original.folder, copy.folder)
        yield Case(original, copy, process, ProcessIdentity.of(process.pid), request.param == "supervisor")
    finally:
        process.kill()
        process.communicate()


def test_a_process_works_in_its_own_folder_and_not_in_a_copy_of_it(case: Case) -> None:
    supervised = case.supervised
    here = LocalExecutor().look(case.original, case.identity, supervised=supervised)
    assert here == Observation("working") and here.is_at_work is True
    there = LocalExecutor().look(case.copy, case.identity, supervised=supervised)
    assert there == Observation("copied", case.original.folder) and there.is_at_work is False
    assert run_folder_of(case.identity) == case.original.folder


@pytest.mark.parametrize("deed", ["request_stop", "kill"])
def test_no_signal_is_sent_for_a_copy(case: Case, deed: str) -> None:
    act = getattr(LocalExecutor(), deed)
    assert act(case.copy, case.identity, supervised=case.supervised) is False
    with pytest.raises(subprocess.TimeoutExpired):
        case.process.wait(0.2)
    assert act(case.original, case.identity, supervised=case.supervised) is True
    assert case.process.wait(10) == -(signal.SIGTERM if deed == "request_stop" else signal.SIGUSR1)


def test_a_process_that_has_ended_is_at_work_nowhere(case: Case) -> None:
    case.process.kill()
    case.process.wait()
    for folder in (case.original, case.copy):
        seen = LocalExecutor().look(folder, case.identity, supervised=case.supervised)
        assert seen == Observation("ended") and seen.is_at_work is False
