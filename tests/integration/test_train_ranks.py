"""Ranks under the supervisor: together they train what one worker does, and the rank that fails first is heard."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hetspec_core.engine.stages.train import run
from hetspec_core.errors import RunError
from hetspec_core.events import Event, Log, Metric, Progress, RunEnded, WorkerEnded, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BaseSpec, ResourcesSpec, RunSpec
from tests.fakes.supervised import left_over, until
from tests.fakes.tiny_training import (
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    series,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, Path]:
    folder = tmp_path_factory.mktemp("data")
    base = write_tiny_base(folder / "base")
    return base, write_tiny_store(folder / "store", load_tiny_base(base))


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home) as bench:
        yield bench
    for process in left_over(home):  # of a test that failed
        process.kill()


def spec_of(data: tuple[BaseSpec, Path], resources: dict[str, Any], **training: Any) -> RunSpec:
    base, store = data
    settings: dict[str, Any] = {"tokens_per_batch": 36, "gradient_accumulation": 2, "log_every": 2, "max_steps": 6}
    settings |= {"save_every": 6, "eval_every": 6, "algorithm": {"options": {"noise": 0.0}}} | training
    spec = tiny_run_spec(base, [store], **settings)
    wanted = ResourcesSpec.model_validate({"device": "cpu", "num_threads": 1, **resources})
    return spec.model_copy(update={"resources": wanted})


def go(workbench: Workbench, spec: RunSpec) -> RunPaths:
    run_id = workbench.submit(spec).run_id
    workbench.start(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
    return workbench.paths(run_id)


def weights(paths: RunPaths) -> dict[str, torch.Tensor]:
    return load_file(paths.checkpoints / "step-000006/draft/model.safetensors")


def events(paths: RunPaths) -> list[Event]:
    return list(read_events(paths.events)[0])


def assert_alike(one: RunPaths, two: RunPaths) -> None:
    mine, theirs = series(one), series(two)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert theirs[key] == pytest.approx(value, rel=2e-3, abs=2e-4), key
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def alone(data: tuple[BaseSpec, Path], tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """One worker that takes four micro-batches a step, as two ranks with two each do."""
    paths = make_run_folder(tmp_path_factory.mktemp("alone") / "run", spec_of(data, {}, gradient_accumulation=4))
    AcceleratorState._reset_state(True)
    with open_tiny_context(paths) as context:
        run(context)
    AcceleratorState._reset_state(True)
    return paths


@pytest.mark.slow
def test_two_ranks_train_what_one_worker_does(
    workbench: Workbench, data: tuple[BaseSpec, Path], alone: RunPaths
) -> None:
    both = go(workbench, spec_of(data, {"num_workers": 2}))
    assert_alike(alone, both)
    facts = json.loads(both.resolved.read_text())
    assert facts["training"]["processes"] == 2 and facts["workers"] == 2
    assert facts["training"]["draft_parameters_per_rank"] == facts["training"]["draft_parameters"]
    ends = [event for event in events(both) if isinstance(event, RunEnded)]
    assert [(event.state, event.worker) for event in ends] == [("succeeded", "supervisor")]
    ended = [event for event in read_events(both.desk)[0] if isinstance(event, WorkerEnded)]
    assert {(event.name, event.exit_status) for event in ended} == {("worker-0", 0), ("worker-1", 0)}
    assert sum(isinstance(event, Metric) and "loss" in event.values for event in events(both)) == 3


@pytest.mark.slow
def test_a_draft_cut_up_over_two_ranks_is_trained_alike_and_goes_on_from_a_checkpoint(
    workbench: Workbench, data: tuple[BaseSpec, Path], alone: RunPaths
) -> None:
    paths = go(workbench, spec_of(data, {"num_workers": 2}, strategy="fsdp", save_every=3))
    assert_alike(alone, paths)
    facts = json.loads(paths.resolved.read_text())["training"]
    assert facts["draft_parameters_per_rank"] < 0.6 * facts["draft_parameters"]
    unbroken = weights(paths)
    shutil.rmtree(paths.checkpoints / "step-000006")
    for journal in (paths.desk, paths.events):  # as if it had never come to its end
        journal.write_text("")
    workbench.rebuild()
    workbench.start(paths.run_id)
    assert workbench.wait(paths.run_id, PATIENCE_S) == "succeeded"
    assert any("resumed from step-000003" in event.message for event in events(paths) if isinstance(event, Log))
    for name, tensor in unbroken.items():
        torch.testing.assert_close(weights(paths)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_machines_that_meet_train_alike_each_in_a_run_of_its_own_and_go_on(
    home: Path, workbench: Workbench, data: tuple[BaseSpec, Path], alone: RunPaths
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    with Workbench(home / "other") as other:  # another machine has another home
        machines = (workbench, other)
        runs: list[str] = []
        for rank, bench in enumerate(machines):
            resources = {"num_nodes": 2, "node_rank": rank, "rendezvous": meeting}
            runs.append(bench.submit(spec_of(data, resources, save_every=2)).run_id)
            bench.start(runs[-1])
        until(lambda: list(workbench.paths(runs[0]).checkpoints.glob("step-*")), "a checkpoint")
        for bench, run_id in zip(machines, runs, strict=True):
            with contextlib.suppress(RunError):  # it may just have come to its end
                bench.cancel(run_id, force=True)
        states = [bench.wait(run_id, PATIENCE_S) for bench, run_id in zip(machines, runs, strict=True)]
        if "succeeded" not in states:
            for bench, run_id in zip(machines, runs, strict=True):
                bench.resume(run_id)
            states = [bench.wait(run_id, PATIENCE_S) for bench, run_id in zip(machines, runs, strict=True)]
        assert states == ["succeeded", "succeeded"]
        both = [bench.paths(run_id) for bench, run_id in zip(machines, runs, strict=True)]
    for name, tensor in weights(both[0]).items():
        assert torch.equal(weights(both[1])[name], tensor)
        torch.testing.assert_close(weights(alone)[name], tensor, rtol=1e-3, atol=1e-4)
    assert all((paths.draft / "config.json").is_file() for paths in both)


@pytest.mark.slow
def test_a_rank_that_fails_in_the_middle_is_the_one_that_is_heard(home: Path, data: tuple[BaseSpec, Path]) -> None:
    with Workbench(home, LocalExecutor("tests.fakes.failing_rank")) as workbench:
        spec = spec_of(data, {"num_workers": 2}, max_steps=100_000, save_every=50_000, eval_every=50_000)
        run_id = workbench.submit(spec).run_id
        workbench.start(run_id)
        assert workbench.wait(run_id, PATIENCE_S) == "failed"
        (last,) = [event for event in events(workbench.paths(run_id)) if isinstance(event, RunEnded)]
        assert last.error is not None and last.worker == "worker-1"
        assert last.error.message == "worker-1: RuntimeError: the second rank has had enough"
        assert any(isinstance(event, Progress) and event.task == "train" for event in events(workbench.paths(run_id)))
        assert left_over(home) == []


def test_an_error_is_reported_before_the_process_group_is_left(
    data: tuple[BaseSpec, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NCCL, leaving waits for the other ranks, which wait in a collective for the one that failed."""
    left: list[str] = []
    monkeypatch.setattr(Accelerator, "end_training", lambda accelerator: left.append("left"))

    def fail(training: Any) -> None:
        raise RuntimeError("the rank failed")

    monkeypatch.setattr("hetspec_core.engine.stages.train.train", fail)
    paths = make_run_folder(tmp_path / "run", spec_of(data, {"device": "cpu"}))
    with open_tiny_context(paths) as context, pytest.raises(RuntimeError, match="the rank failed"):
        run(context)
    assert left == []
