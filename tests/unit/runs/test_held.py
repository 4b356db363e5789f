"""A registry that cannot be written is replaced by a copy within seconds, and stopping a run needs no registry."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.errors import RunError
from hetspec_core.events import Launched
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.workbench import Workbench
from tests.fakes.registries import STARTED, deny_writes, make_run, metric, open_registry, say
from tests.fakes.specs import small_spec

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Another program that holds the registry of a home with one run."""
    with Workbench(home) as workbench:
        workbench.submit(small_spec("held"))
        workbench.registry.sync_all()
    command = [sys.executable, "-c", _HOLD, str(home / "registry.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_a_locked_registry_is_answered_for_within_seconds_and_its_holder_is_named(
    home: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    with Workbench(home) as workbench, caplog.at_level(logging.WARNING, "hetspec.registry"):
        new = workbench.submit(small_spec("new")).run_id
        began = time.monotonic()
        found = workbench.summaries()
        assert time.monotonic() - began < 10.0  # two and a half seconds of waiting, on a busy machine
        assert {run.name for run in found} == {"held", "new"}
        assert workbench.summary(new).state == "queued"
        assert workbench.registry.in_memory and "locked" in workbench.registry.trouble
    assert str(holder.pid) in caplog.text


def test_cancelling_by_id_opens_no_registry(home: Path, holder: subprocess.Popen[str]) -> None:
    with Workbench(home) as workbench:
        (run_id,) = (path.name for path in (home / "runs").iterdir())
        began = time.monotonic()
        assert workbench.resolve_run(run_id) == run_id
        assert workbench.cancel(run_id) is False
        assert workbench._registry is None
        assert time.monotonic() - began < 2.0
        with pytest.raises(RunError, match="is cancelled"):
            workbench.cancel(run_id)


def test_a_run_is_killed_by_its_own_journals_alone(home: Path) -> None:
    with Workbench(home) as workbench:
        handle = workbench.submit(small_spec("at-work"))
    (home / "registry.db").mkdir()  # no registry can be opened here
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        me = ProcessIdentity.of(process.pid)
        say(handle.paths.desk, Launched(attempt=1, pid=me.pid, host=me.host, birth=me.birth))
        with Workbench(home) as workbench:
            try:
                workbench.cancel(handle.run_id, force=True)
            except (
                RunError
            ) as error:  # it is told that no supervisor of this folder lives; the registry is not the reason
                assert "registry" not in error.message
            assert workbench._registry is None
        process.kill()


def test_a_home_that_cannot_be_written_can_be_looked_at(stranger: Path) -> None:
    say(make_run(stranger, "r1").events, STARTED, metric(3, loss=2.0))
    with open_registry(stranger) as registry:
        registry.sync_all()
    say(make_run(stranger, "r2").events, STARTED, metric(4, loss=5.0))
    files = [path for path in stranger.iterdir() if path.is_file()]
    for path in files:
        path.chmod(0o444)
    deny_writes(stranger)
    with Workbench(stranger) as workbench:
        runs = {run.run_id for run in workbench.summaries()}
        assert runs == {"r1", "r2"}
        assert [point.value for point in workbench.show("r2").metrics] == [5.0]
        assert [point.value for point in workbench.show("r1").metrics] == [2.0]
        assert "cannot be written" in workbench.registry.trouble
        workbench.dispatch()


def test_a_registry_that_was_locked_is_used_again_when_it_is_free(home: Path, holder: subprocess.Popen[str]) -> None:
    with Workbench(home) as workbench:
        workbench.submit(small_spec("new"))
        workbench.registry.sync_all()
        assert workbench.registry.in_memory
        holder.communicate()
        workbench.registry._retry_at = 0.0
        workbench.registry.sync_all()
        assert not workbench.registry.in_memory and workbench.registry.trouble == ""
    connection = sqlite3.connect(home / "registry.db")
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    connection.close()
