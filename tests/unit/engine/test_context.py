"""What a stage says through its context reaches the folder as it should."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from hetspec_core.engine import context as module
from hetspec_core.engine.context import RunContext, open_context, resolve_device, resolve_dtype
from hetspec_core.errors import Cancelled, NotFoundError, ResourceError, SpecError
from hetspec_core.events import Artifact, CheckpointSaved, Metric, Progress, Result, read_events
from hetspec_core.spec import ResourcesSpec
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run-1"
    run.mkdir()
    (run / "spec.toml").write_text(to_toml(small_spec("some")))
    return run


def progress_of(context: RunContext) -> list[tuple[str, float]]:
    return [(e.task, e.done) for e in read_events(context.paths.events)[0] if isinstance(e, Progress)]


def test_progress_is_limited_but_its_first_and_last_are_always_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with open_context(folder) as context:
        for done in range(101):
            now += 0.01
            context.progress("train", done, 100, "steps")
        for done in range(50):
            context.progress("count", done)
        seen = progress_of(context)
    train = [done for task, done in seen if task == "train"]
    assert train[0] == 0 and train[-1] == 100 and 5 <= len(train) <= 8
    assert [done for task, done in seen if task == "count"] == [0]
    assert ("count", 49) in progress_of(context)


def test_a_task_that_begins_again_is_said_at_once(folder: Path) -> None:
    with open_context(folder) as context:
        context.progress("eval", 7, 10)
        context.progress("eval", 0, 10)
        assert progress_of(context) == [("eval", 7), ("eval", 0)]


def test_what_is_on_disk_is_named_relative_to_the_run_folder(folder: Path, tmp_path: Path) -> None:
    with open_context(folder) as context:
        context.checkpoint(context.paths.checkpoints / "step-5", 5, {"loss": math.nan}, best=True)
        context.artifact("draft", context.paths.draft, {"parameters": 3})
        context.artifact("hidden_states", tmp_path / "elsewhere")
    checkpoint, draft, states = read_events(context.paths.events)[0]
    assert isinstance(checkpoint, CheckpointSaved) and checkpoint.path == "checkpoints/step-5" and checkpoint.best
    assert checkpoint.values == {"loss": None}
    assert isinstance(draft, Artifact) and draft.path == "draft"
    assert isinstance(states, Artifact) and states.path == str(tmp_path / "elsewhere")


def test_a_result_is_an_event_and_a_file(folder: Path) -> None:
    with open_context(folder) as context:
        context.metric(3, {"loss": 1.0}, tokens=5, wall_s=0.5)
        context.result("bench", {"accept_length": 2.5, "ratio": math.inf})
    metric, result = read_events(context.paths.events)[0]
    assert isinstance(metric, Metric) and (metric.step, metric.tokens, metric.wall_s) == (3, 5, 0.5)
    assert isinstance(result, Result)
    written = json.loads(context.paths.result.read_text())
    assert written["data"] == result.data == {"accept_length": 2.5, "ratio": None}
    assert (written["kind"], written["run_id"], written["stage"]) == ("bench", "run-1", "train")


def test_resolved_says_what_became_of_the_spec_and_takes_further_facts(folder: Path) -> None:
    with open_context(folder, attempt=2) as context:
        context.record(base_fingerprint="abc")
    facts = json.loads(context.paths.resolved.read_text())
    assert facts["spec_hash"] == context.spec.spec_hash
    assert facts["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (facts["dtype"], facts["attempt"], facts["base_fingerprint"]) == (
        str(context.dtype).removeprefix("torch."),
        2,
        "abc",
    )


def test_only_the_first_worker_writes_resolved(folder: Path) -> None:
    with open_context(folder, "worker-1") as context:
        context.log("hello")
    assert not context.paths.resolved.exists()
    assert read_events(context.paths.events)[0][0].worker == "worker-1"


def test_a_cancelled_context_stops_where_it_is_asked(folder: Path) -> None:
    with open_context(folder) as context:
        context.check_cancelled()
        context.cancelled.set()
        with pytest.raises(Cancelled):
            context.check_cancelled()


def test_threads_are_those_of_the_spec(folder: Path) -> None:
    before = torch.get_num_threads()
    spec = small_spec("some").model_copy(update={"resources": ResourcesSpec(num_threads=1)})
    (folder / "spec.toml").write_text(to_toml(spec))
    try:
        with open_context(folder):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_device_and_number_type_follow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(ResourcesSpec()) == torch.device("cpu")
    with pytest.raises(ResourceError, match="no CUDA device"):
        resolve_device(ResourcesSpec(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # a worker that sees its own GPU only
    assert resolve_device(ResourcesSpec()) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert resolve_device(ResourcesSpec()) == torch.device("cuda", 3)
    assert resolve_device(ResourcesSpec(device="cpu")) == torch.device("cpu")
    assert resolve_dtype(ResourcesSpec(), torch.device("cpu")) == torch.float32
    assert resolve_dtype(ResourcesSpec(), torch.device("cuda", 0)) == torch.bfloat16
    assert resolve_dtype(ResourcesSpec(dtype="float16"), torch.device("cpu")) == torch.float16


def test_a_folder_without_a_spec_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no spec\.toml"):
        open_context(tmp_path)
    (tmp_path / "spec.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="UTF-8"):
        open_context(tmp_path)
