"""A power cut in effigy: a run folder copied at a random instant, torn files included, opens and goes on."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hetspec_core.errors import CheckpointError, CorruptFileError
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.fakes.real_runs import (
    assert_same_outcome,
    copy_torn,
    progress_on_disk,
    tiny_dataset_run,
    tiny_train_run,
    work_here,
)
from tests.fakes.supervised import dump, start, until, works

COPIES = int(os.environ.get("HETSPEC_POWER_CUTS", "2"))
"""How many copies of each kind are gone on from; 30 before a release."""
PATIENCE_S = 120.0


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench


def after_reboot(folder: Path) -> None:
    """Nobody who was there before lives: the kernel's boot has another name."""
    boot = ProcessIdentity.of().birth.partition(":")[0]
    for journal in folder.glob("*.jsonl"):
        journal.write_bytes(journal.read_bytes().replace(boot.encode(), b"x" * len(boot)))


@pytest.mark.parametrize("deed", ["wait", "die"])
def test_a_run_copied_at_any_instant_opens_and_goes_on(workbench: Workbench, tmp_path: Path, deed: str) -> None:
    chance = random.Random(deed)
    run_id = start(workbench, deed)
    if deed == "wait":
        works(workbench, run_id)
    places = []
    for number in range(COPIES):
        time.sleep(chance.uniform(0.0, 0.15))
        places.append(tmp_path / f"copy{number}")
        copy_torn(workbench.paths(run_id).folder, places[-1] / "runs" / run_id, chance)
    if deed == "wait":
        workbench.cancel(run_id)
    workbench.wait(run_id, PATIENCE_S)
    for place in places:
        after_reboot(place / "runs" / run_id)
        with Workbench(place, LocalExecutor("tests.fakes.worker")) as copy:
            state = copy.state(run_id)
            assert state in ("queued", "lost", "failed", "succeeded", "cancelled"), state
            if state != "succeeded":
                copy.resume(run_id)
                assert copy.wait(run_id, PATIENCE_S) in ("succeeded", "failed")
                if copy.state(run_id) == "failed":  # its journal did not know of any attempt: this one was the first
                    assert deed == "die"
                    copy.resume(run_id)
                    assert copy.wait(run_id, PATIENCE_S) == "succeeded"
            live = dump(copy)
            copy.rebuild()
            assert dump(copy) == live


def undo_damage(paths: RunPaths, error: CorruptFileError | CheckpointError) -> None:
    """Do what the hint says."""
    if isinstance(error, CorruptFileError):
        named = [path for path in paths.hidden_states.glob("shard-*") if str(path) in error.message]
        assert len(named) == 1 and "delete" in error.hint, error
        named[0].unlink()
    else:
        assert f"delete {paths.checkpoints}" in error.hint
        shutil.rmtree(paths.checkpoints)


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * COPIES)
@pytest.mark.parametrize("make", [tiny_dataset_run, tiny_train_run])
def test_a_real_stage_copied_at_any_instant_comes_to_the_same_result(
    home: Path, tmp_path: Path, make: Callable[[Path], RunSpec]
) -> None:
    chance = random.Random(7)
    with Workbench(home) as workbench:
        run_id = workbench.submit(make(tmp_path / "data")).run_id
        source = workbench.paths(run_id)
        workbench.start(run_id)
        until(lambda: source.events.exists(), "the worker")
        copies: list[Path] = []
        while workbench.state(run_id) in ("starting", "running"):  # as many as can be had; then some of them
            copies.append(tmp_path / "copies" / str(len(copies)) / run_id)
            copy_torn(source.folder, copies[-1], chance)
            time.sleep(chance.uniform(0.0, 0.1))
        assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
    begun = [copy for copy in copies if progress_on_disk(RunPaths(copy))]
    assert len(begun) >= 2, f"{len(copies)} copies, and none has a shard or a checkpoint"
    for number, copy in enumerate(chance.sample(begun, min(COPIES, len(begun)))):
        paths = RunPaths(copy)
        if number % 2:  # a disk that has lost even what was forced to it
            kept = [*paths.hidden_states.rglob("*.safetensors"), *paths.checkpoints.rglob("*.safetensors")]
            newest = max(kept)  # their names count up
            newest.write_bytes(newest.read_bytes()[: chance.randrange(newest.stat().st_size)])
        try:
            work_here(paths)
        except (CorruptFileError, CheckpointError) as error:
            undo_damage(paths, error)
            work_here(paths)
        assert_same_outcome(paths, source)
