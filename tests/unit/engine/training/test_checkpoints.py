from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hetspec_core.engine.training.checkpoints import RECORD, TENSORS, TrainingCheckpoints, publish_draft
from hetspec_core.errors import CheckpointError, ResourceError


def write_draft(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "config.json").write_text("{}")


def save(checkpoints: TrainingCheckpoints, step: int, size: int = 10) -> Path:
    tensors = {"optimizer/a/step": torch.tensor(float(step)), "rng/0/torch": torch.arange(size, dtype=torch.uint8)}
    return checkpoints.save(step, write_draft=write_draft, tensors=tensors, record={"note": f"step {step}"})


def never(error: CheckpointError) -> None:
    raise AssertionError(f"nothing should be skipped: {error}")


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path / "checkpoints", limit=2)
    assert checkpoints.load_newest(never) is None
    path = save(checkpoints, 7)
    found = checkpoints.load_newest(never)
    assert found is not None and found.path == path and path.name == "step-000007"
    assert found.step == 7 and found.record["note"] == "step 7"
    assert torch.equal(found.tensors["rng/0/torch"], torch.arange(10, dtype=torch.uint8))
    assert (found.draft / "config.json").is_file()
    assert not list(path.glob("**/*.p*kl*")) and not list(path.glob("**/*.bin"))


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=2)
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step)
    checkpoints.prune(best_step=2)
    assert checkpoints.steps() == [2, 4, 5]
    checkpoints.prune(best_step=5)
    assert checkpoints.steps() == [4, 5]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=2)
    save(checkpoints, 3, size=5)
    save(checkpoints, 3, size=9)
    assert checkpoints.load(3).tensors["rng/0/torch"].numel() == 9


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) * 3 // 4] ^= 0x10
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("name", [RECORD, TENSORS, "draft/model.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(tmp_path: Path, name: str, how: str) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=5)
    save(checkpoints, 1)
    damage(save(checkpoints, 2) / name, how)
    skipped: list[CheckpointError] = []
    found = checkpoints.load_newest(skipped.append)
    assert found is not None and found.step == 1
    assert len(skipped) == 1 and str(tmp_path / "step-000002" / name) in skipped[0].message


def test_no_whole_checkpoint_at_all_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=2)
    damage(save(checkpoints, 2) / TENSORS, "truncated")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints") as caught:
        checkpoints.load_newest(lambda error: None)
    assert "delete" in caught.value.hint


def test_a_checkpoint_of_a_newer_format_says_so(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=2)
    path = save(checkpoints, 2) / RECORD
    record = json.loads(path.read_text())
    record["format_version"] = 99
    from hetspec_core.engine.training.checkpoints import _record_checksum

    record.pop("checksum")
    path.write_text(json.dumps(record | {"checksum": _record_checksum(record)}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoints.load(2)


def test_what_a_kill_left_half_written_is_no_checkpoint_and_is_removed(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path, limit=2)
    save(checkpoints, 1)
    half = tmp_path / ".step-000002.abc"
    write_draft(half)
    again = TrainingCheckpoints(tmp_path, limit=2)
    assert again.steps() == [1] and not half.exists()


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from hetspec_core.engine.training.checkpoints import TrainingCheckpoints
from hetspec_core.errors import ResourceError

def write_draft(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")

checkpoints = TrainingCheckpoints(Path(sys.argv[1]), limit=2)
checkpoints.save(1, write_draft=write_draft, tensors={"a": torch.zeros(10)}, record={})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(2, write_draft=write_draft, tensors={"a": torch.zeros(1_000_000)}, record={})
except ResourceError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before_intact(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == ResourceError.exit_code, done.stderr
    assert "step-000002" in done.stdout and "free some space" in done.stdout
    found = TrainingCheckpoints(folder, limit=2).load_newest(never)
    assert found is not None and found.step == 1
    assert [path.name for path in folder.iterdir()] == ["step-000001"]


def test_too_little_room_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints = TrainingCheckpoints(folder, limit=2)
    usage = type("Usage", (), {"free": 3})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="no room on the disk"):
        save(checkpoints, 1)
    assert not list(folder.iterdir())


def test_publishing_replaces_the_draft_whole_and_leaves_no_trace(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = TrainingCheckpoints(run / "checkpoints", limit=2)
    target = run / "draft"
    target.mkdir()
    (target / "old.txt").write_text("old")
    first = save(checkpoints, 1)
    publish_draft(first, target)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    checkpoints.prune(best_step=None)
    publish_draft(save(checkpoints, 2), target)
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "draft"]


def test_a_published_draft_outlives_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = TrainingCheckpoints(tmp_path / "checkpoints", limit=1)
    publish_draft(save(checkpoints, 1), tmp_path / "draft")
    save(checkpoints, 2)
    checkpoints.prune(best_step=2)
    assert checkpoints.steps() == [2]
    assert (tmp_path / "draft" / "model.safetensors").read_bytes() == b"weights" * 100


def test_a_kill_in_the_middle_of_saving_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    script = (
        "import sys, torch\nfrom pathlib import Path\n"
        "from hetspec_core.engine.training.checkpoints import TrainingCheckpoints\n"
        "def write_draft(folder):\n    folder.mkdir()\n    (folder / 'config.json').write_text('{}')\n"
        "checkpoints = TrainingCheckpoints(Path(sys.argv[1]), limit=3)\n"
        "tensors = {'a': torch.zeros(200_000)}\n"
        "for step in range(1, 100_000):\n"
        "    checkpoints.save(step, write_draft=write_draft, tensors=tensors, record={})\n"
        "    checkpoints.prune(None)\n"
        "    print(step, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    saved = 0
    while saved < 5:
        saved = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    saved = max([saved, *(int(line) for line in child.stdout.read().split())])
    child.wait()
    found = TrainingCheckpoints(tmp_path, limit=3).load_newest(never)
    assert found is not None and found.step >= saved
