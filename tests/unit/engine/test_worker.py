"""However a stage ends, the journal says so and the exit status is the error's."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.worker import describe_error, main, run_attempt, stage_from_catalog
from hetspec_core.errors import Cancelled, DataError, NotFoundError, SpecError
from hetspec_core.events import Progress, RunEnded, RunStarted, read_events
from hetspec_core.spec import run
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run-1"
    run.mkdir()
    (run / "spec.toml").write_text(to_toml(small_spec("some")))
    return run


def attempt(folder: Path, stage: Callable[[RunContext], None]) -> tuple[int, RunStarted, RunEnded]:
    status = run_attempt(folder, lambda name: stage, attempt=3)
    events = read_events(folder / "events.jsonl")[0]
    assert isinstance(events[0], RunStarted) and isinstance(events[-1], RunEnded)
    return status, events[0], events[-1]


def test_a_stage_that_returns_has_succeeded(folder: Path) -> None:
    status, started, ended = attempt(folder, lambda context: context.log("hello"))
    assert (status, ended.state, ended.error) == (0, "succeeded", None)
    assert (started.stage, started.attempt, started.pid) == ("train", 3, os.getpid())
    assert started.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_worker_reads_the_spec_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    real = run.from_toml
    monkeypatch.setattr(run, "from_toml", lambda text, name: (reads.append(name), real(text, name=name))[1])
    stages: list[str] = []
    attempt(folder, lambda context: stages.append(context.spec.stage))
    assert (stages, reads) == (["train"], [str(folder / "spec.toml")])


def test_garbage_is_collected_while_a_stage_works_and_not_while_it_is_imported(folder: Path) -> None:
    seen: list[bool] = []

    def load(name: str) -> Callable[[RunContext], None]:
        seen.append(gc.isenabled())
        return lambda context: seen.append(gc.isenabled() and gc.get_freeze_count() > before)

    before = gc.get_freeze_count()
    assert run_attempt(folder, load) == 0
    assert seen == [False, True]


def test_progress_held_back_is_there_before_the_end(folder: Path) -> None:
    def stage(context: RunContext) -> None:
        for done in range(5):
            context.progress("work", done, 10)
        raise DataError("broken")

    attempt(folder, stage)
    events = read_events(folder / "events.jsonl")[0]
    assert isinstance(events[-2], Progress) and events[-2].done == 4


def raising(error: BaseException) -> Callable[[RunContext], None]:
    def stage(context: RunContext) -> None:
        raise error

    return stage


def test_an_error_of_ours_is_reported_as_it_is(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, ended = attempt(folder, raising(DataError("no assistant turn", hint="use answers=base")))
    assert ended.error is not None
    assert (status, ended.state, ended.error.kind) == (5, "failed", "DataError")
    assert (ended.error.message, ended.error.hint) == ("no assistant turn", "use answers=base")
    assert "Traceback" in capfd.readouterr().err


def test_cancelled_is_an_end_of_its_own_without_a_traceback(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, ended = attempt(folder, raising(Cancelled()))
    assert (status, ended.state) == (130, "cancelled")
    assert "Traceback" not in capfd.readouterr().err


def test_any_other_exception_is_a_crash_with_its_traceback_in_the_log(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, ended = attempt(folder, raising(ZeroDivisionError("by zero")))
    assert ended.error is not None
    assert (status, ended.error.kind, ended.error.message) == (1, "crash", "ZeroDivisionError: by zero")
    assert "raise error" in capfd.readouterr().err
    folder.joinpath("events.jsonl").unlink()
    status, _, ended = attempt(folder, raising(SystemExit(0)))
    assert (status, ended.state) == (1, "failed")


def chained(inner: BaseException) -> RuntimeError:
    try:
        raise RuntimeError("while saving") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x.safetensors"), "disk is full while writing /data/x"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (chained(OSError(errno.ENOSPC, "No space left on device")), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory on the device"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    ],
)
def test_exhausted_resources_are_named_with_a_way_out(error: BaseException, words: str) -> None:
    info = describe_error(error)
    assert (info.kind, info.exit_code) == ("ResourceError", 8)
    assert words in info.message
    assert info.hint


def test_every_problem_of_a_spec_is_told() -> None:
    info = describe_error(SpecError("it does not hold", problems=["a: wrong", "b: missing"]))
    assert "a: wrong" in info.message and "b: missing" in info.message


def test_a_spec_that_does_not_hold_ends_the_run_with_that(folder: Path) -> None:
    (folder / "spec.toml").write_text('stage = "train"\n')
    assert run_attempt(folder, lambda name: raising(AssertionError())) == 3
    (ended,) = read_events(folder / "events.jsonl")[0]
    assert isinstance(ended, RunEnded) and ended.error is not None and ended.error.kind == "SpecError"


def test_a_second_worker_on_one_folder_is_refused(folder: Path) -> None:
    # The lock belongs to a process, so the second worker is one.
    def stage(context: RunContext) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "hetspec_core.engine.worker", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
        )
        context.record(second=done.returncode, words=done.stderr)

    attempt(folder, stage)
    assert '"second": 9' in (folder / "resolved.json").read_text()
    assert "another process is working on" in (folder / "resolved.json").read_text()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFoundError):
        run_attempt(tmp_path, stage_from_catalog)
    assert main([str(tmp_path)]) == 4
    assert "no spec.toml" in capfd.readouterr().err


def test_a_signal_is_an_order_to_stop_only_while_the_stage_runs(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stage(context: RunContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        context.check_cancelled()

    status, _, ended = attempt(folder, stage)
    assert (status, ended.state) == (130, "cancelled")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_ends_a_stage_that_does_not_listen(folder: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from hetspec_core.engine.worker import run_attempt
        def stage(context):
            context.log("deaf")
            while True:
                time.sleep(0.01)
        sys.exit(run_attempt(Path(sys.argv[1]), lambda name: stage))
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=REPOSITORY)
    while not any(event.type == "log" for event in read_events(folder / "events.jsonl")[0]):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == -signal.SIGINT
