"""Training on a CUDA device: the same losses as on the CPU, and a resumed run that goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hetspec_core.engine.stages.train import run
from hetspec_core.paths import RunPaths
from hetspec_core.spec import BaseSpec, RunSpec
from tests.fakes.tiny_training import (
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    series,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)

pytestmark = pytest.mark.gpu
CLEAN: dict[str, Any] = {"algorithm": {"options": {"noise": 0.0}}, "max_steps": 12}


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps device and precision of a process for good; a run has a process of its own, tests share one."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, Path]:
    folder = tmp_path_factory.mktemp("data")
    base = write_tiny_base(folder / "base")
    return base, write_tiny_store(folder / "store", load_tiny_base(base))


def on(device: str, data: tuple[BaseSpec, Path], **options: Any) -> RunSpec:
    base, store = data
    spec = tiny_run_spec(base, [store], **options)
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"device": device})})


def train(folder: Path, spec: RunSpec) -> RunPaths:
    paths = make_run_folder(folder, spec)
    with open_tiny_context(paths) as context:
        run(context)
    return paths


def losses(paths: RunPaths, name: str = "loss") -> list[float]:
    return [value for (_, key), value in sorted(series(paths).items()) if key == name and value is not None]


def test_float32_on_the_gpu_gives_the_losses_of_the_cpu(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    on_cpu = train(tmp_path / "cpu", on("cpu", data, **CLEAN))
    AcceleratorState._reset_state(True)
    on_gpu = train(tmp_path / "gpu", on("cuda", data, **CLEAN))
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=2e-3)
    assert losses(on_gpu, "eval/accept_length_bound") == pytest.approx(
        losses(on_cpu, "eval/accept_length_bound"), abs=0.2
    )


def test_bfloat16_autocast_and_a_reduced_vocabulary_train(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    options = CLEAN | {"precision": "auto", "max_steps": 60, "draft": {"vocab_size": 24}, "eval_every": 20}
    paths = train(tmp_path / "run", on("cuda", data, **options, optimizer={"lr": 1e-2, "warmup_steps": 2}))
    assert losses(paths)[-1] < losses(paths)[0]
    assert {
        tensor.dtype for name, tensor in load_file(paths.draft / "model.safetensors").items() if "vocab" not in name
    } == {torch.float32}


def test_a_run_that_stops_on_the_gpu_goes_on_with_the_same_noise(data: tuple[BaseSpec, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 12, "save_every": 5, "precision": "float32"}
    whole = train(tmp_path / "whole", on("cuda", data, **options))
    AcceleratorState._reset_state(True)
    paths = make_run_folder(tmp_path / "run", on("cuda", data, **options))
    with open_tiny_context(paths) as context:
        check = context.check_cancelled
        steps = 0

        def die() -> None:
            nonlocal steps
            steps += 1
            if steps == 7:
                raise KeyboardInterrupt
            check()

        context.check_cancelled = die  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run(context)
    AcceleratorState._reset_state(True)
    torch.cuda.manual_seed(999)
    with open_tiny_context(paths) as context:
        run(context)
    assert losses(paths) == pytest.approx(losses(whole), rel=1e-4)
