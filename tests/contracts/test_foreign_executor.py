"""An executor of another package: a class with the methods of the protocol and a card are all that it takes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hetspec_core
import hetspec_tui
from hetspec_core.catalog import reload
from hetspec_core.errors import NotFoundError, RunError
from hetspec_core.jobs import open_executor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import ResourcesSpec
from tests.fakes.specs import small_spec

CODE = """
from dataclasses import dataclass, field, replace

from hetspec_core.catalog import Card
from hetspec_core.events import Launched, RunStarted, append_event
from hetspec_core.jobs import Observation

CALLS = []
PHASES = ["working"]


class Elsewhere:
    def poll(self):
        return None


@dataclass(frozen=True)
class ClusterExecutor:
    module: str = "hetspec_core.engine.worker"
    environment: dict = field(default_factory=dict)
    submitted: dict = None
    name: str = "cluster"

    def with_variables(self, variables):
        return replace(self, environment={**self.environment, **variables})

    def launch(self, paths, *, attempt, folder=None, gpus=(), slots=(), workers=None):
        CALLS.append(("launch", attempt, workers.kind))
        process = {"pid": 4711, "host": "node-7", "birth": "job 4711", "attempt": attempt}
        append_event(paths.desk, "cluster", Launched(**process))
        append_event(paths.events, "worker-0", RunStarted(stage="train", **process))
        return Elsewhere()

    def look(self, paths, process, *, supervised=True):
        assert (process.pid, process.host) == (4711, "node-7")
        return Observation(PHASES[-1])

    def request_stop(self, paths, process, *, supervised=True):
        CALLS.append(("request_stop", process.pid))
        return True

    def kill(self, paths, process, *, supervised=True):
        CALLS.append(("kill", process.pid))
        return True

    def clear(self, paths, last_attempt):
        CALLS.append(("clear", last_attempt))


card = Card(axis="executors", name="cluster", target="foreign_executor:ClusterExecutor", summary="Jobs of a cluster.")
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the executor, which is installed and chosen."""
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hetspec.cards]\ncluster = foreign_executor:card\n")
    (tmp_path / "foreign_executor.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HETSPEC_EXECUTOR", "cluster")
    reload()
    import foreign_executor  # type: ignore[import-not-found]  # it exists in this test only

    yield foreign_executor
    reload()
    sys.modules.pop("foreign_executor", None)


@pytest.mark.parametrize("slots", ["0", "1"], ids=["at once", "by the queue"])
def test_its_runs_are_started_looked_at_and_stopped_by_it(
    cluster: Any, home: Path, monkeypatch: pytest.MonkeyPatch, slots: str
) -> None:
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", slots)
    with Workbench(home) as workbench:
        spec = small_spec("one", "train").model_copy(update={"resources": ResourcesSpec(device="cpu")})
        run_id = workbench.submit(spec).run_id
        workbench.start(run_id)
        assert workbench.state(run_id) == "running"
        assert [run.state for run in workbench.runs()] == ["running"]
        assert workbench.cancel(run_id) and workbench.cancel(run_id, force=True)
        cluster.PHASES.append("unreachable")  # what cannot be asked is taken to be at work, and cannot be stopped
        assert workbench.state(run_id) == "running"
        with pytest.raises(RunError, match="works on node-7"):
            workbench.cancel(run_id)
        cluster.PHASES.append("ended")
        assert workbench.wait(run_id, 5) == "cancelled"
        workbench.resume(run_id)
    started = [("launch", 1, "alone"), ("request_stop", 4711), ("kill", 4711), ("clear", 1), ("launch", 2, "alone")]
    assert started == cluster.CALLS


def test_an_unknown_name_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_EXECUTOR", "slurmm")
    with pytest.raises(NotFoundError, match="no card 'slurmm' on axis executors"):
        open_executor()


def test_only_its_card_names_the_executor_of_this_machine() -> None:
    named = set()
    for package in (hetspec_core, hetspec_tui):
        root = Path(package.__path__[0])
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                words = [getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "value", "")]
                words += [alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)]
                if any(isinstance(word, str) and "LocalExecutor" in word for word in words):
                    named.add(str(path.relative_to(root.parent)))
    assert named == {"hetspec_core/catalog/shipped.py", "hetspec_core/jobs/local.py"}
