"""A disk that becomes full while a run is at work: a clear failure, nothing lost, and on it goes when there is room."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hetspec_core.engine.stages.dataset_verify import verify
from hetspec_core.errors import ResourceError
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.conftest import REPOSITORY
from tests.fakes.real_runs import assert_same_outcome, progress_on_disk, tiny_dataset_run, tiny_train_run, work_here
from tests.fakes.supervised import dump, until
from tests.fakes.tiny_training import make_run_folder

PATIENCE_S = 120.0
DISK_BYTES = 48 << 20


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """The home of this test on a disk of its own; skips where no disk can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"needs a small tmpfs: there is no mount ({error.strerror})")
    if done.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {done.stderr.strip()}")
    try:
        yield home
    finally:
        subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(disk: Path) -> Path:
    """Take every byte that is left."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hetspec_core.cli.main", *words]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_dataset_run, tiny_train_run])
def test_a_full_disk_stops_a_real_run_and_costs_it_nothing(
    small_disk: Path, tmp_path: Path, make: Callable[[Path], RunSpec]
) -> None:
    spec = make(tmp_path / "data")
    whole = make_run_folder(tmp_path / "whole", spec)
    work_here(whole)
    with Workbench(small_disk) as workbench:
        run_id, other = (workbench.submit(spec).run_id for _ in range(2))
        paths = workbench.paths(run_id)
        workbench.start(run_id)
        until(lambda: progress_on_disk(paths), "something on disk")
        ballast = fill(small_disk)
        until(lambda: not supervisor_lives(paths), "the end of the run")  # the registry is on the full disk too
    saved = content_of(paths)

    fill(small_disk)  # what the worker could not finish, and the room for last words, is free again
    for words in (["runs", "list"], ["runs", "show", run_id]):  # one must see then which runs there are
        shown = command(*words)
        assert shown.returncode == 0 and run_id in shown.stdout, shown.stderr
    labelled = command("runs", "note", run_id, "x" * 9000)
    assert labelled.returncode == ResourceError.exit_code and "the disk is full" in labelled.stderr, labelled.stderr
    for words in (["runs", "delete", other, "--yes"], ["runs", "trash", "--empty", "--yes"]):  # how room is made
        assert command(*words).returncode == 0
    fill(small_disk)
    with Workbench(small_disk) as workbench, pytest.raises(ResourceError, match="cannot be written"):
        workbench.submit(spec)

    ballast.unlink()
    with Workbench(small_disk) as workbench:
        assert workbench.state(run_id) == "failed"
        error = workbench.show(run_id).summary.error
        assert error is not None and error["kind"] == "ResourceError", error
        assert "room" in error["hint"] or "space" in error["hint"]
        assert [folder.name for folder in paths.folder.parent.iterdir()] == [run_id]
        assert content_of(paths) == saved
        if paths.hidden_states.is_dir():
            assert verify(paths.hidden_states, samples=2)["ok"]
        workbench.resume(run_id)
        assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
        assert_same_outcome(paths, whole)
        live = dump(workbench)
        workbench.rebuild()
        assert dump(workbench) == live


def supervisor_lives(paths: RunPaths) -> bool:
    from hetspec_core.files import is_locked

    return is_locked(paths.folder / ".supervisor.lock")


def content_of(paths: RunPaths) -> dict[str, int]:
    """Shards and checkpoints with their sizes."""
    found = [*paths.hidden_states.glob("shard-*"), *paths.checkpoints.glob("step-*/**/*")]
    return {str(path.relative_to(paths.folder)): path.stat().st_size for path in found if path.is_file()}


def test_the_disk_of_these_tests_becomes_full(small_disk: Path) -> None:
    ballast = fill(small_disk)
    with pytest.raises(OSError) as caught:
        (small_disk / "more").write_bytes(b"x" * 5000)
    assert caught.value.errno == errno.ENOSPC
    ballast.unlink()
    (small_disk / "more").write_bytes(b"x" * 5000)
