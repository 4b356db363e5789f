"""A training run that is stopped and resumed is bit by bit the run that was never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetspec_core.catalog import list_cards
from hetspec_core.engine.stages.train import run
from hetspec_core.errors import Cancelled, CheckpointError, ResourceError
from hetspec_core.events import CheckpointSaved, Log, Metric, RunEnded
from hetspec_core.paths import RunPaths
from hetspec_core.spec import BaseSpec, RunSpec
from tests.fakes.tiny_training import (
    events_of,
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    series,
    tiny_architecture,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)

STEPS = 12  # with accumulation 2 over 5 micro-batches an epoch: four epoch borders, most of them inside a step


class Stopped(BaseException):
    """Stands for a process that dies: nobody may catch it."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, Path]:
    folder = tmp_path_factory.mktemp("data")
    base = write_tiny_base(folder / "base")
    return base, write_tiny_store(folder / "store", load_tiny_base(base), samples=14)


def spec_of(data: tuple[BaseSpec, Path], **training: Any) -> RunSpec:
    base, store = data
    settings: dict[str, Any] = {"max_steps": STEPS, "log_every": 3, "eval_every": 4, "save_every": 5} | training
    return tiny_run_spec(base, [store], **settings)


def train_all(paths: RunPaths) -> None:
    with open_tiny_context(paths) as context:
        run(context)


def train_until(paths: RunPaths, step: int) -> None:
    """Train, and die once this step is done (before anything is saved about it that is not saved anyway)."""
    with open_tiny_context(paths) as context:
        checks = 0

        def die() -> None:
            nonlocal checks
            checks += 1
            if checks == step:
                raise Stopped

        context.check_cancelled = die  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            run(context)


def weights(paths: RunPaths, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(paths.checkpoints / f"step-{step:06d}" / "draft" / "model.safetensors")


def state(paths: RunPaths, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(paths.checkpoints / f"step-{step:06d}" / "training_state.safetensors")


EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXTURE = {"extra": {"zero_compute_experts": 2, "shared_experts": 1, "router_aux_loss_coef": 0.01}, **EXPERTS}
BACKBONES: dict[str, dict[str, Any]] = {"llama": {}, "qwen3-moe": {"model_type": "qwen3_moe", **MIXTURE}}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("algorithm", [card.name for card in list_cards("algorithms")])
def test_every_algorithm_goes_on_exactly(tmp_path: Path, algorithm: str, backbone: str) -> None:
    """Narrow, with noise, of a reduced vocabulary; the dataset has what all of them read."""
    base = write_tiny_base(tmp_path / "base")
    store = write_tiny_store(tmp_path / "store", load_tiny_base(base), samples=10, layers=(0, 1))
    sizes = tiny_architecture(layers=1).model_copy(update={"hidden_size": 24, "head_dim": 8, **BACKBONES[backbone]})
    spec = tiny_run_spec(
        base,
        [store],
        max_steps=7,
        save_every=3,
        draft={"backbone": backbone, "architecture": sizes, "vocab_size": 30},
        algorithm={"name": algorithm, "options": {"noise": 0.1}},
    )
    whole, broken = (make_run_folder(tmp_path / name, spec) for name in ("whole", "broken"))
    train_all(whole)
    train_until(broken, 5)
    train_all(broken)
    assert series(broken) == series(whole)
    for stored in (weights, state):
        mine, theirs = stored(broken, 7), stored(whole, 7)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    names = {name for _, name in series(whole)}
    assert {"loss", "eval/accept_length", "out_of_vocabulary"} <= names
    assert ("eval/zero_compute_share" in names and "expert_load_max" in names) == (backbone == "qwen3-moe")


@pytest.fixture(scope="module")
def unbroken(data: tuple[BaseSpec, Path], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    paths = make_run_folder(tmp_path_factory.mktemp("unbroken") / "run", spec_of(data))
    train_all(paths)
    return paths


def assert_same(paths: RunPaths, unbroken: RunPaths) -> None:
    assert series(paths) == series(unbroken)
    for mine, theirs in ((weights(paths), weights(unbroken)), (state(paths), state(unbroken))):
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    best = load_file(paths.draft / "model.safetensors")
    assert all(
        torch.equal(best[name], tensor) for name, tensor in load_file(unbroken.draft / "model.safetensors").items()
    )


def test_the_run_crosses_epochs_inside_a_step(data: tuple[BaseSpec, Path], unbroken: RunPaths) -> None:
    import json

    facts = json.loads(unbroken.resolved.read_text())["training"]
    assert facts["micro_batches_per_epoch"] % 2 == 1
    assert 3 * facts["micro_batches_per_epoch"] < STEPS * 2
    assert {step for step, name in series(unbroken) if name == "loss"} == {3, 6, 9, 12}


@pytest.mark.parametrize("steps", [(4,), (5,), (7,), (11,), (6, 3, 2)])
def test_dying_after_any_step_and_resuming_changes_nothing(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    for step in steps:  # counted from each start
        train_until(paths, step)
    torch.manual_seed(12345)  # another process would not have these generators in this state either
    train_all(paths)
    assert_same(paths, unbroken)


def test_dying_before_the_first_checkpoint_begins_again(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    train_until(paths, 2)
    train_all(paths)
    assert_same(paths, unbroken)


def worker(paths: RunPaths) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hetspec_core.engine.worker", str(paths.folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_step(paths: RunPaths, step: int) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        if paths.events.exists() and any(isinstance(e, Metric) and e.step >= step for e in events_of(paths)):
            return
        time.sleep(0.002)
    raise AssertionError("the worker did not come that far")


@pytest.mark.slow
def test_a_worker_killed_outright_resumes_to_the_same_numbers(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    spec = spec_of(data, max_steps=60, log_every=1, save_every=7)
    whole = make_run_folder(tmp_path / "whole", spec)
    train_all(whole)
    paths = make_run_folder(tmp_path / "run", spec)
    for step in (10, 30):
        child = worker(paths)
        wait_for_step(paths, step)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    child = worker(paths)
    assert child.wait() == 0, child.stderr.read().decode() if child.stderr else ""
    assert series(paths) == series(whole)
    mine, theirs = weights(paths, 60), weights(whole, 60)
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


@pytest.mark.slow
def test_a_cancelled_worker_leaves_a_checkpoint_and_resumes(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data, max_steps=100_000, log_every=1, save_every=100_000))
    child = worker(paths)
    wait_for_step(paths, 3)
    child.terminate()
    assert child.wait() == Cancelled.exit_code
    events = events_of(paths)
    ended = events[-1]
    assert isinstance(ended, RunEnded) and ended.state == "cancelled"
    saved = [event for event in events if isinstance(event, CheckpointSaved)]
    last = max(event.step for event in events if isinstance(event, Metric))
    assert saved and saved[-1].step == last


def test_cancelling_saves_the_step_that_was_done(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    with open_tiny_context(paths) as context:
        context.cancelled.set()
        with pytest.raises(Cancelled):
            run(context)
    assert [event.step for event in events_of(paths) if isinstance(event, CheckpointSaved)] == [1]
    assert not paths.draft.exists()
    train_all(paths)
    assert_same(paths, unbroken)


def test_a_damaged_newest_checkpoint_is_skipped_by_name_and_made_again(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data, save_every=3))
    train_until(paths, 7)
    file = paths.checkpoints / "step-000006" / "training_state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    train_all(paths)
    warnings = [event.message for event in events_of(paths) if isinstance(event, Log) and event.level == "warning"]
    assert any("skipped" in message and str(file) in message for message in warnings)
    assert any("resumed from step-000004" in event.message for event in events_of(paths) if isinstance(event, Log))
    assert series(paths) == series(unbroken)
    assert all(torch.equal(weights(paths)[name], tensor) for name, tensor in weights(unbroken).items())


def test_with_no_whole_checkpoint_left_nothing_is_overwritten(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    train_until(paths, 6)
    for file in paths.checkpoints.glob("*/state.json"):
        file.write_text("{")
    with open_tiny_context(paths) as context, pytest.raises(CheckpointError, match="none of the") as caught:
        run(context)
    assert str(paths.checkpoints) in caught.value.hint


def test_other_data_than_before_is_refused(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    base, store = data
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    train_until(paths, 6)
    more = write_tiny_store(tmp_path / "more", load_tiny_base(base), samples=3, seed=5)
    other = make_run_folder(tmp_path / "other", tiny_run_spec(base, [store, more]))
    paths.checkpoints.rename(other.checkpoints)
    with open_tiny_context(other) as context, pytest.raises(CheckpointError, match="training data is not the one"):
        run(context)


def test_a_finished_run_that_is_resumed_only_publishes_its_draft_again(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    train_all(paths)
    (paths.draft / "model.safetensors").unlink()
    train_all(paths)
    assert_same(paths, unbroken)


def test_a_full_disk_stops_the_run_and_the_checkpoint_before_it_resumes(
    data: tuple[BaseSpec, Path], unbroken: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_run_folder(tmp_path / "run", spec_of(data))
    train_until(paths, 6)
    before = sorted(path.name for path in paths.checkpoints.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 0}))
        with open_tiny_context(paths) as context, pytest.raises(ResourceError, match="no room"):
            run(context)
    assert sorted(path.name for path in paths.checkpoints.iterdir()) == before
    train_all(paths)
    assert_same(paths, unbroken)


def test_only_the_newest_checkpoints_and_the_best_one_are_left(unbroken: RunPaths) -> None:
    kept = {int(path.name[5:]) for path in unbroken.checkpoints.iterdir()}
    saved = [event for event in events_of(unbroken) if isinstance(event, CheckpointSaved)]
    best = [event.step for event in saved if event.best]
    assert kept == {*sorted(event.step for event in saved)[-2:], best[-1]}
    scores = {step: value for (step, name), value in series(unbroken).items() if name == "eval/accept_length"}
    assert scores[best[-1]] == max(value for value in scores.values() if value is not None)
