"""`hetspec-core runs retry|kill|delete` with a real worker process and a stage that needs no model."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import pytest

from hetspec_core.cli import runs, runs_edit
from hetspec_core.cli.main import main
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = functools.partial(Workbench, executor=LocalExecutor("tests.fakes.worker"))
    for module in (runs, runs_edit):
        monkeypatch.setattr(module, "Workbench", bench)


def start(home: Path, deed: str) -> str:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as workbench:
        run_id = workbench.submit(small_spec(deed)).run_id
        workbench.start(run_id)
        limit = time.monotonic() + PATIENCE_S
        while workbench.state(run_id) == "starting":
            assert time.monotonic() < limit
            time.sleep(0.02)
    return run_id


def test_a_run_is_begun_again_and_followed_to_its_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = start(home, "succeed")
    with Workbench(home) as workbench:
        assert workbench.wait(first, PATIENCE_S) == "succeeded"
    assert main(["runs", "retry", "succeed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["type"] == "run_ended"
    with Workbench(home) as workbench:
        runs = workbench.summaries(["state:succeeded"])
        assert {run.run_id for run in runs} > {first} and len(runs) == 2
    assert main(["runs", "retry", "succeed"]) == 4  # two have that name now


def test_a_running_run_is_killed_and_only_then_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = start(home, "wait")
    assert main(["runs", "delete", run_id, "--yes"]) == 9
    capsys.readouterr()
    assert main(["runs", "kill", run_id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run_id": run_id, "state": "cancelled"}
    assert main(["runs", "kill", run_id]) == 9
    assert main(["runs", "delete", run_id, "--yes"]) == 0
    assert main(["runs", "restore", run_id]) == 0
    with Workbench(home) as workbench:
        assert workbench.state(run_id) == "cancelled"
