"""What can be asked of the registry, and how it answers a question that it does not understand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import UsageError
from hetspec_core.events import Event, Journal, Marked, Metric, RunEnded, RunStarted, Submitted
from hetspec_core.events.state import STATES
from hetspec_core.paths import RunPaths
from hetspec_core.runs import Registry
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec

STARTED = RunStarted(time=10.0, stage="train", pid=1, host="nowhere.example", birth="b")


def add(home: Path, run_id: str, spec: RunSpec, created: float, *events: Event, marks: tuple[Marked, ...] = ()) -> None:
    paths = RunPaths(home / "runs" / run_id)
    paths.folder.mkdir(parents=True)
    paths.spec.write_text(to_toml(spec))
    with Journal(paths.desk, "desk") as desk, Journal(paths.events, "worker-0") as journal:
        for event in (Submitted(time=created), *marks):
            desk.write(event)
        for event in events:
            journal.write(event)


@pytest.fixture
def registry(home: Path) -> Registry:
    now = time.time()
    warm = small_spec("Warm start")
    warm = warm.model_copy(
        update={
            "training": warm.training.model_copy(
                update={"optimizer": warm.training.optimizer.model_copy(update={"lr": 0.5})}
            )
        }
    )
    add(home, "r1", warm, now - 7200, STARTED, Metric(step=3, values={"loss": 2.0, "eval/accept_length": 2.6}),
        RunEnded(time=70.0, state="succeeded"),
        marks=(Marked(add_tags=("good", "x"), note="the best_so far"),))  # fmt: skip
    add(home, "r2", small_spec("cold"), now - 3600, STARTED, Metric(step=9, values={"loss": 3.0, "accept_length": 2.0}),
        RunEnded(time=20.0, state="failed"), marks=(Marked(starred=True),))  # fmt: skip
    add(home, "r3", small_spec("data", "dataset"), now - 60, marks=(Marked(archived=True, add_tags=("good",)),))
    opened = Registry(home / "registry.db", home / "runs")
    opened.sync_all()
    return opened


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["!warm start"], ["r2"]),
        (["!best_so"], ["r2"]),
        (["!nothing like it"], ["r2", "r1"]),
        (["cold", "!cold"], []),
        (["!"], ["r2", "r1"]),
        ([], ["r2", "r1"]),
        (["archived:yes"], ["r3"]),
        (["state:failed"], ["r2"]),
        (["state!=failed"], ["r1"]),
        (["state:failed,succeeded"], ["r2", "r1"]),
        (["accept_length>2.5"], ["r1"]),
        (["accept_length<=2.6", "loss>=3"], ["r2"]),
        (["eval/accept_length=2.6"], ["r1"]),
        (["tag:x"], ["r1"]),
        (["tag:x,y"], ["r1"]),
        (["tag!=x"], ["r2"]),
        (["starred:yes"], ["r2"]),
        (["starred!=yes"], ["r1"]),
        (["name:WARM"], ["r1"]),
        (["name=warm"], []),
        (['name="Warm start"'], ["r1"]),
        (["name!=cold"], ["r1"]),
        (["stage:train", "algorithm:eagle", "id:r1"], ["r1"]),
        (["training.optimizer.lr>0.1"], ["r1"]),
        (["base.name:tin"], ["r2", "r1"]),
        (["age<90m"], ["r2"]),
        (["took>30s"], ["r1"]),
        (["created>2020-01-01"], ["r2", "r1"]),
        (["created<2020-01-01T10:30"], []),
        (["best"], ["r1"]),
        (["best_so", "far"], ["r1"]),
        (["the best_so far"], ["r1"]),
        (["warm st"], ["r1"]),
        (["text:cold"], ["r2"]),
        (["nothing-like-it"], []),
        (['quote"in'], []),
        (["***"], ["r2", "r1"]),
    ],
)
def test_a_query_finds(registry: Registry, words: list[str], expected: list[str]) -> None:
    found = registry.find(words)
    assert [row.run_id for row in found if found.accepts(row.state)] == expected


def test_a_run_that_waits_for_its_next_attempt_is_queued(registry: Registry) -> None:
    assert registry.find(["state:queued"], waiting={"r2"}).run_ids == ["r2"]
    assert registry.find(["state:queued"]).run_ids == []


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("created", ["r3", "r2", "r1"]),
        ("created:asc", ["r1", "r2", "r3"]),
        ("name", ["r2", "r3", "r1"]),
        ("name:desc", ["r1", "r3", "r2"]),
        ("loss", ["r2", "r1", "r3"]),
        ("loss:asc", ["r1", "r2", "r3"]),
        ("eval/accept_length", ["r1", "r3", "r2"]),
        ("training.optimizer.lr", ["r1", "r3", "r2"]),
        ("took", ["r1", "r2", "r3"]),
    ],
)
def test_runs_are_sorted_by_column_metric_or_setting_and_those_without_come_last(
    registry: Registry, sort: str, expected: list[str]
) -> None:
    assert registry.find(sort=sort, archived=True).run_ids == expected


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("state:faild", "did you mean 'failed'"),
        ("stage:training", "did you mean 'train'"),
        ("accept_lenght>2", "did you mean 'accept_length'"),
        ("training.optimiser.lr>1", "did you mean 'training.optimizer.lr'"),
        ("accept_length>two", "is a number like 2.5"),
        ("age<2y", "3h"),
        ("created>yesterday", "2026-11-23"),
        ("starred:maybe", "yes or no"),
        ("name>a", "no order"),
        ("tag>a", "no order"),
        ("state:", "no value"),
        ("http://x", "text:"),
    ],
)
def test_a_query_that_cannot_be_understood_says_why(registry: Registry, word: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.find([word])
    assert said in str(caught.value)


def test_an_order_that_cannot_be_understood_says_why(registry: Registry) -> None:
    for sort, said in (("lss", "did you mean 'loss'"), ("loss:up", "asc or desc")):
        with pytest.raises(UsageError, match=said):
            registry.find(sort=sort)


def test_a_run_at_work_is_not_taken_for_a_lost_one(registry: Registry) -> None:
    found = registry.find(["state:lost"])
    assert [state for state in STATES if found.accepts(state)] == ["lost"]
    found = registry.find(["state!=succeeded,cancelled"])
    assert [state for state in STATES if not found.accepts(state)] == ["succeeded", "cancelled"]


@given(words=st.lists(st.text(max_size=12), max_size=3))
def test_no_text_breaks_a_query(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    with Registry(tmp_path_factory.mktemp("home") / "registry.db", Path("nowhere")) as empty:
        try:
            assert empty.find(words).run_ids == []
        except UsageError as error:
            assert error.message
