"""One attempt at one run: `python -m hetspec_core.engine.worker RUN_DIR`.

It reads the spec, runs the stage, and records how it ended; the exit status is the error's. Stages are named by the
catalogue.
"""

from __future__ import annotations

import argparse
import faulthandler
import fcntl
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hetspec_core.engine.reporting import describe_error
from hetspec_core.engine.run_folder import Share, versions
from hetspec_core.errors import Cancelled, HetSpecError, NotFoundError, RunError
from hetspec_core.events import EndState, ErrorInfo, Journal, RunEnded, RunStarted
from hetspec_core.files import write_atomic
from hetspec_core.paths import RunPaths
from hetspec_core.process import ProcessIdentity
from hetspec_core.spec.run import read_spec
from hetspec_core.terminal_text import say

if TYPE_CHECKING:
    from hetspec_core.engine.context import RunContext

StageFunction = Callable[["RunContext"], None]


def run_attempt(
    run_dir: Path,
    load_stage: Callable[[str], StageFunction],
    *,
    worker: str = "worker-0",
    attempt: int = 1,
    share: Share | None = None,
    report: Path | None = None,
) -> int:
    """Run the stage of `run_dir` once, from `RunStarted` to `RunEnded`.

    Args:
        run_dir: the run folder.
        load_stage: name of a stage -> its function.
        worker: name of this worker in the journal.
        attempt: number of this start of the run.
        share: the part of the work that this worker does; all of it when absent.
        report: of a worker that is one of several: a file for how it ended, instead of `RunEnded` in the journal.

    Returns:
        The exit status: 0, or that of the error.

    Raises:
        NotFoundError: there is no run folder.
        RunError: another worker is running in this folder.
    """
    paths = RunPaths(Path(run_dir).absolute())
    if not paths.spec.is_file():
        raise NotFoundError(f"{paths.folder} is no run folder: it has no {paths.spec.name}")
    cancelled = threading.Event()
    with _sole_worker(paths, worker), Journal(paths.events, worker) as journal, _signals_set(cancelled):
        try:
            _run_stage(paths, load_stage, journal, worker, attempt, share, cancelled)
            _end(journal, "succeeded", None, report)
        except BaseException as error:  # every end is recorded, KeyboardInterrupt and SystemExit too
            return _end_badly(journal, error, report)
        return 0


def _run_stage(
    paths: RunPaths,
    load_stage: Callable[[str], StageFunction],
    journal: Journal,
    worker: str,
    attempt: int,
    share: Share | None,
    cancelled: threading.Event,
) -> None:
    spec = read_spec(paths.spec)
    me = ProcessIdentity.of()
    journal.write(  # before torch is imported, which takes seconds: the desk sees the run begin at once
        RunStarted(stage=spec.stage, pid=me.pid, host=me.host, birth=me.birth, attempt=attempt, versions=versions())
    )
    with _uncollected():
        from hetspec_core.engine.context import open_context
    context = open_context(
        paths.folder, worker, journal=journal, attempt=attempt, share=share or Share(), cancelled=cancelled, spec=spec
    )
    context.check_cancelled()
    try:
        with _uncollected():
            stage = load_stage(context.spec.stage)
        stage(context)
    finally:
        with suppress(OSError):  # a full disk must not hide why the stage ended
            context.flush_progress()


def _end(journal: Journal, state: EndState, error: ErrorInfo | None, report: Path | None) -> None:
    """Write the end at once: to the journal, or to the report that the supervisor reads."""
    ended = RunEnded(state=state, error=error)
    if report is None:
        journal.write(ended)
    else:
        write_atomic(report, ended.to_line(), make_folder=False)


def _end_badly(journal: Journal, error: BaseException, report: Path | None) -> int:
    info = describe_error(error)
    state: EndState = "cancelled" if isinstance(error, Cancelled) else "failed"
    if report is None and state == "failed":  # before the end, so that the log is complete when the end is read
        _print_traceback(error)
    try:
        _end(journal, state, info, report)
    except OSError as failure:
        with suppress(OSError):
            say(f"the end could not be written to {report or journal.path}: {failure}", file=sys.stderr)
    if report is not None and state == "failed":
        _print_traceback(error)
    return info.exit_code


def _print_traceback(error: BaseException) -> None:
    with suppress(OSError):  # the log may be on the disk that is full
        say("".join(traceback.format_exception(error)), file=sys.stderr, end="")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from what is imported: a full collection reads 370,000 objects and frees none.

    It is off during the import, and it leaves out from then on what is there afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def _sole_worker(paths: RunPaths, worker: str) -> Iterator[None]:
    """Hold the lock of this worker in the folder; the kernel releases it when the process ends."""
    file = os.open(paths.folder / f".{worker}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is working on {paths.folder}", hint="wait for it, or cancel the run first"
            ) from None
        yield
    finally:
        os.close(file)


@contextmanager
def _signals_set(flag: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `flag`; a second SIGINT ends the process at once."""

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and flag.is_set():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        flag.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None, load_stage: Callable[[str], StageFunction] | None = None) -> int:
    """Command line of a worker; `load_stage` replaces the catalogue, for stages of one's own."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.worker", description="Run one attempt of a run folder.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--worker", default="worker-0", help="name of this worker in the journal")
    parser.add_argument("--attempt", type=int, default=1, help="number of this start of the run")
    parser.add_argument("--share", type=Share.parse, metavar="K/N", help="do only share K of N of the work")
    parser.add_argument("--report", type=Path, help="write how it ended to this file instead of the journal")
    given = parser.parse_args(arguments)
    faulthandler.enable()  # a segmentation fault in a kernel leaves its stack in the log
    try:
        return run_attempt(
            given.run_dir,
            load_stage or stage_from_catalog,
            worker=given.worker,
            attempt=given.attempt,
            share=given.share,
            report=given.report,
        )
    except HetSpecError as error:
        say(f"error: {error}", file=sys.stderr)
        return error.exit_code


def stage_from_catalog(name: str) -> StageFunction:
    """The function of a stage, imported when it is asked for."""
    from hetspec_core.catalog import load_card

    return load_card("stages", name).load()


if __name__ == "__main__":
    sys.exit(main())
