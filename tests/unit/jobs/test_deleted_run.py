"""A run folder that was deleted stays deleted: no supervisor, worker or journal makes it again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hetspec_core.engine.data.shares import Workplace
from hetspec_core.engine.modeling.draft_files import write_draft_folder
from hetspec_core.engine.run_folder import Share
from hetspec_core.engine.training.checkpoints import TrainingCheckpoints
from hetspec_core.events import Launched, WorkerEnded, append_event
from hetspec_core.paths import RunPaths

_MAKES_FILES = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
limit = time.monotonic() + 60
while time.monotonic() < limit:
    if not (folder / "spec.toml").exists():  # what a stage does that checked just before the folder was deleted
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "late").write_text("x")
    time.sleep(0.01)
"""


def test_no_journal_is_begun_in_a_folder_without_a_spec(tmp_path: Path) -> None:
    launched = Launched(attempt=1, pid=1, host="here", birth="b")
    with pytest.raises(FileNotFoundError):
        append_event(tmp_path / "desk.jsonl", "supervisor", launched)
    (tmp_path / "spec.toml").touch()
    append_event(tmp_path / "desk.jsonl", "supervisor", launched)
    (tmp_path / "spec.toml").unlink()
    append_event(tmp_path / "desk.jsonl", "supervisor", WorkerEnded(attempt=1, name="worker-0", exit_status=0))
    assert len((tmp_path / "desk.jsonl").read_bytes().splitlines()) == 2


def test_no_product_of_a_stage_makes_the_folder_of_its_run(tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "runs" / "deleted")
    with pytest.raises(FileNotFoundError):
        TrainingCheckpoints(run.checkpoints, limit=1, make_parents=False)
    with pytest.raises(FileNotFoundError):
        Workplace(run, Share(0, 2))
    with pytest.raises(FileNotFoundError):
        write_draft_folder(run.draft, {}, {}, make_parents=False)
    assert not run.folder.exists()


def test_a_supervisor_that_starts_after_the_deletion_makes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "deleted"
    folder.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "hetspec_core.jobs.supervisor", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9 and "was deleted" in done.stderr
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with their supervisor on Linux")
def test_what_a_worker_makes_while_its_run_is_deleted_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "runs" / "r1"
    (folder / "logs").mkdir(parents=True)
    (folder / "spec.toml").touch()
    (tmp_path / "stubborn.py").write_text(_MAKES_FILES)
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "hetspec_core.jobs.supervisor", str(folder), "--module", "stubborn"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as supervisor:
        limit = time.monotonic() + 30
        while not (folder / "logs" / "worker-0.log").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(0.3)
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        try:
            supervisor.wait(30)
        finally:
            supervisor.kill()
    assert not folder.exists()
