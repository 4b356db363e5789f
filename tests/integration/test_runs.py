"""Runs with a real worker process and a stage that needs no model: they end well, badly, or are taken up again."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hetspec_core.errors import RunError
from hetspec_core.events import Event, Progress, RunEnded, RunStarted, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec
from tests.fakes.terminal import own_terminal

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench


def start(workbench: Workbench, deed: str) -> str:
    run_id = workbench.submit(small_spec(deed)).run_id
    workbench.start(run_id)
    return run_id


def until(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.02)


def says(workbench: Workbench, run_id: str, kind: type[Event]) -> bool:
    return any(isinstance(event, kind) for event in read_events(workbench.paths(run_id).events)[0])


def dump(workbench: Workbench) -> list[tuple[object, ...]]:
    workbench.registry.sync_all()  # the supervisor's last word comes after the worker's
    return workbench.registry._rows("SELECT * FROM runs ORDER BY run_id") + workbench.registry._rows(
        "SELECT * FROM metrics ORDER BY run_id, name, step"
    )


def test_a_run_that_succeeds(workbench: Workbench) -> None:
    run_id = start(workbench, "succeed")
    with pytest.raises(RunError, match="already"):
        workbench.start(run_id)
    events = list(workbench.watch(run_id))
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded) and events[-1].state == "succeeded"
    assert workbench.wait(run_id) == "succeeded"
    report = workbench.show(run_id)
    assert (report.summary.progress, report.summary.accept_length) == (1.0, 2.0)
    assert report.results["training"] == {"accept_length": 2.0, "bad": None}
    assert {point.name: point.step for point in report.metrics} == {"loss": 10, "eval/accept_length": 10}
    assert report.artifacts[0].path == "draft"
    assert workbench.resolve_input("succeed", "draft") == workbench.paths(run_id).draft
    with pytest.raises(RunError, match="succeeded"):
        workbench.resume(run_id)
    live = dump(workbench)
    assert workbench.rebuild() == 1
    assert dump(workbench) == live


@pytest.mark.parametrize(
    ("deed", "kind", "status"), [("fail", "DataError", 5), ("crash", "crash", 1), ("full", "ResourceError", 8)]
)
def test_a_run_that_fails_says_why(workbench: Workbench, deed: str, kind: str, status: int) -> None:
    run_id = start(workbench, deed)
    ended = list(workbench.watch(run_id))[-1]
    assert isinstance(ended, RunEnded) and ended.error is not None
    assert (ended.state, ended.error.kind, ended.error.exit_code) == ("failed", kind, status)
    assert ended.error.hint
    assert workbench.wait(run_id) == "failed"
    assert "Traceback" in workbench.paths(run_id).log("worker-0").read_text()
    assert workbench.runs(state="failed")[0].error == {
        "kind": kind,
        "message": ended.error.message,
        "hint": ended.error.hint,
    }


def test_a_killed_worker_is_told_by_its_supervisor_and_its_run_can_be_resumed(workbench: Workbench, home: Path) -> None:
    run_id = start(workbench, "die")
    last = list(workbench.watch(run_id))[-1]
    assert isinstance(last, RunEnded) and last.error is not None
    assert "SIGKILL" in last.error.message
    with workbench.paths(run_id).events.open("ab") as journal:
        journal.write(b'{"type":"progr')  # the kernel took a part of a line
    with Workbench(home) as other:  # who did not see it die knows too
        assert other.state(run_id) == "failed"
    workbench.resume(run_id)
    events = list(workbench.watch(run_id))
    assert isinstance(events[0], RunStarted) and events[0].attempt == 2
    assert workbench.wait(run_id) == "succeeded"
    live = dump(workbench)
    workbench.rebuild()
    assert dump(workbench) == live


def test_a_run_that_is_asked_to_stop_does_so_and_goes_on_later(workbench: Workbench) -> None:
    run_id = start(workbench, "wait")
    until(lambda: says(workbench, run_id, Progress), "progress")
    assert workbench.state(run_id) == "running"
    assert workbench.cancel(run_id) is True
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"
    ended = list(workbench.watch(run_id))[-1]
    assert isinstance(ended, RunEnded) and ended.state == "cancelled"
    workbench.resume(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded"


def test_a_run_that_does_not_listen_is_killed_with_everything_it_started(workbench: Workbench) -> None:
    run_id = start(workbench, "stubborn")
    until(lambda: says(workbench, run_id, Progress), "progress")
    workbench.cancel(run_id)
    assert workbench.wait(run_id, 0.5) == "running"
    helper = int(workbench.paths(run_id).folder.joinpath("helper.pid").read_text())
    assert ProcessIdentity.of(helper).is_alive()
    workbench.cancel(run_id, force=True)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"
    assert isinstance(list(workbench.watch(run_id))[-1], RunEnded)

    def gone() -> bool:
        try:
            ProcessIdentity.of(helper)
        except ProcessLookupError:
            return True
        return False

    until(gone, "the end of the helper")


def test_two_desks_start_a_run_once(workbench: Workbench, home: Path) -> None:
    run_id = workbench.submit(small_spec("wait")).run_id
    refused: list[RunError] = []
    barrier = threading.Barrier(2)

    def desk() -> None:
        with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
            barrier.wait()
            try:
                bench.start(run_id)
            except RunError as error:
                refused.append(error)

    desks = [threading.Thread(target=desk) for _ in range(2)]
    for thread in desks:
        thread.start()
    for thread in desks:
        thread.join()
    assert len(refused) == 1
    workbench.cancel(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "cancelled"


FOLLOW = """
import sys
from hetspec_core.cli import main as cli
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.cli.follow import launch
from tests.fakes.specs import small_spec

def run(words):
    with Workbench(executor=LocalExecutor("tests.fakes.worker")) as bench:
        launch(bench, small_spec(words[0]), json="--json" in words)
    return 0

cli._run = run
sys.exit(cli.main())
"""


def follow_command(*words: str) -> list[str]:
    return [sys.executable, "-c", FOLLOW, *words]


def the_run(workbench: Workbench) -> str:
    until(lambda: workbench.runs(), "the run")
    return workbench.runs()[0].run_id


def test_a_run_followed_in_a_pipe_is_plain_lines_on_stderr(workbench: Workbench) -> None:
    done = subprocess.run(follow_command("succeed"), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "work: 10/10 steps (100%)" in done.stderr
    assert "step 10  loss 0.09091  eval/accept_length 2" in done.stderr
    assert "\x1b" not in done.stderr
    assert f"run {the_run(workbench)} succeeded in" in done.stderr


def test_a_run_followed_as_json_is_its_events_and_then_the_error() -> None:
    import json

    done = subprocess.run(follow_command("fail", "--json"), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("type") for line in lines[:-1]] == ["run_started", "log", "run_ended"]
    assert lines[-1]["error"]["kind"] == "DataError"
    assert (done.returncode, done.stderr) == (5, "")


def test_a_failed_run_is_the_workers_sentence_its_hint_and_its_log(workbench: Workbench) -> None:
    done = subprocess.run(follow_command("fail"), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 5
    assert "error: prompts.jsonl has no assistant turn" in done.stderr
    assert f"hint: use --answers base; log: {workbench.paths(the_run(workbench)).log('worker-0')}" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(follow_command("die"), capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 10
    assert "SIGKILL" in done.stderr and "hetspec-core runs resume" in done.stderr


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, env=environment, preexec_fn=own_terminal
        )
        os.close(slave)
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def wait(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._reader.join(2)
        os.close(self.master)
        return status


def test_ctrl_c_stops_the_run_at_a_safe_point_and_says_how_to_go_on(workbench: Workbench) -> None:
    terminal = Terminal(follow_command("wait"))
    until(lambda: "steps" in terminal.text, "a progress bar")
    terminal.press_ctrl_c()
    assert terminal.wait() == 130, terminal.text
    run_id = the_run(workbench)
    assert "stopping at the next safe point" in terminal.text
    assert f"hetspec-core runs resume {run_id}" in terminal.text.replace("\r\n", "\n")
    assert "Traceback" not in terminal.text
    assert workbench.state(run_id) == "cancelled"
    assert isinstance(read_events(workbench.paths(run_id).events)[0][-1], RunEnded)


def test_a_second_ctrl_c_kills_a_run_that_does_not_listen(workbench: Workbench) -> None:
    terminal = Terminal(follow_command("stubborn"))
    until(lambda: "steps" in terminal.text, "a progress bar")
    terminal.press_ctrl_c()
    until(lambda: "Ctrl-C again" in terminal.text, "the first answer")
    terminal.press_ctrl_c()
    assert terminal.wait() == 130, terminal.text
    assert workbench.state(the_run(workbench)) == "cancelled"


def test_a_run_goes_on_when_whoever_launched_it_is_killed(workbench: Workbench) -> None:
    terminal = Terminal(follow_command("wait"))
    until(lambda: "steps" in terminal.text, "a progress bar")
    terminal.process.kill()
    terminal.wait()
    run_id = the_run(workbench)
    assert workbench.state(run_id) == "running"
    workbench.cancel(run_id)
    assert [event.type for event in workbench.watch(run_id)][-1] == "run_ended"
    assert workbench.state(run_id) == "cancelled"
