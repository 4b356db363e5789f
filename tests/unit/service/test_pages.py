"""Lists of runs by page: the same runs in the same order as `Workbench.summaries`, whatever is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetspec_core.errors import UsageError
from hetspec_core.events import Marked
from hetspec_core.events.state import STATES
from hetspec_core.service.pages import Pages, split_query
from hetspec_core.service.workbench import Workbench
from tests.fakes.run_folders import add_run
from tests.fakes.specs import small_spec

COUNT = 40
WORDS = ("state:failed", "state:running", "state:lost,queued", "state!=succeeded", "tag:a", "tag!=b", "loss>1.5",
         "accept_length>2", "starred:yes", "name:sweep", "archived:yes", "age<2d", "training.optimizer.lr=0.5", "sweep",
         "text:state", "step>=2")  # fmt: skip
SORTS = ("created", "created:asc", "name", "state:desc", "loss", "loss:asc", "age", "took:asc", "training.optimizer.lr",
         "tokens", "starred")  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    home = tmp_path_factory.mktemp("many")
    now = time.time()
    for number in range(COUNT):
        marks = Marked(
            add_tags=("a",) if number % 3 == 0 else ("b",) if number % 5 == 0 else (),
            starred=number % 7 == 0 or None,
            archived=number % 11 == 5 or None,
        )
        add_run(
            home,
            f"run-{number:02}",
            STATES[number % len(STATES)],
            name=("sweep", "state of the art", "Ωmega")[number % 3],
            created=now - 9000.0 * number,
            curve=tuple(1 + (number * 7 % 10) / 10 for _ in range(number % 4)),
            marked=marks,
            lr=0.5 if number % 2 else None,
        )
    with Workbench(home) as workbench:
        workbench.registry.sync_all()  # as the listing does that a screen begins with; any test may be the first here
        yield workbench


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=3, unique=True),
    sort=st.sampled_from(SORTS),
    archived=st.booleans(),
)
def test_a_listing_has_the_runs_of_the_summaries(many: Workbench, words: list[str], sort: str, archived: bool) -> None:
    expected = many.summaries(words, sort=sort, archived=archived)
    pages = Pages(many)
    listing = pages.listing(words, sort=sort, archived=archived)
    assert list(listing.run_ids) == [run.run_id for run in expected]
    assert listing.total >= len(listing.run_ids)
    assert [line.summary for line in pages.lines(listing.run_ids[3:9])] == expected[3:9]


def test_lost_runs_are_told_from_those_at_work(many: Workbench) -> None:
    pages = Pages(many)
    states = {line.summary.run_id: line.summary.state for line in pages.lines([f"run-{n:02}" for n in range(7)])}
    assert states == {f"run-{number:02}": state for number, state in enumerate(STATES[:7])} | {"run-01": "running"}


def test_a_run_that_waits_again_is_queued(many: Workbench) -> None:
    folder = many.queue.folder
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / "run-04.json"
    assert STATES[4] == "failed"
    entry.write_text("{}")
    try:
        assert "run-04" in Pages(many).listing(["state:queued"]).run_ids
        assert "run-04" not in Pages(many).listing(["state:failed"]).run_ids
        assert Pages(many).lines(["run-04"])[0].summary.state == "queued"
    finally:
        entry.unlink()


def test_lines_have_the_values_that_are_asked_for(many: Workbench) -> None:
    line = Pages(many).lines(["run-03"], ["loss", "training.optimizer.lr", "no.such"])[0]
    assert line.values == {"loss": pytest.approx(1.1), "training.optimizer.lr": 0.5, "no.such": None}


def test_lines_of_runs_that_are_gone_are_left_out(many: Workbench) -> None:
    assert [line.summary.run_id for line in Pages(many).lines(["nowhere", "run-01"])] == ["run-01"]


def test_a_wrong_query_says_what_was_meant(many: Workbench) -> None:
    with pytest.raises(UsageError, match="did you mean 'failed'"):
        Pages(many).listing(["state:faild"])


def test_curves_come_over_steps_tokens_and_time(many: Workbench) -> None:
    pages = Pages(many)
    assert pages.curves(["run-03", "run-04"], "loss")[0].xs == [0, 1, 2]
    assert pages.curves(["run-03"], "loss", "tokens")[0].xs == [0, 100, 200]
    assert pages.curves(["run-03"], "loss", "wall_s")[0].xs == [0, 2, 4]
    assert pages.metrics(["run-03", "run-02", "run-04"]) == {"loss": 2}


def test_what_a_deletion_takes_along_is_counted(home: Path) -> None:
    paths = add_run(home, "parent", "succeeded", name="p")
    (paths.folder / "checkpoints" / "step-10").mkdir(parents=True)
    (paths.folder / "checkpoints" / "step-10" / "weights").write_bytes(b"x" * 5000)
    (paths.folder / "draft").mkdir()
    child = small_spec("c").model_copy(update={"parents": ("parent",)})
    add_run(home, "child", "succeeded", spec=child)
    with Workbench(home) as workbench:
        workbench.registry.sync_all()
        loss = Pages(workbench).loss(["parent"])
        assert [run.run_id for run in loss.runs] == ["parent"]
        assert loss.bytes >= 5000
        assert loss.checkpoints == 2
        assert loss.dependents == ["child"]
        assert Pages(workbench).loss(["parent", "child"]).dependents == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  state:failed   x ", ("state:failed", "x")),
        ('"two words" name:"a b" c', ("two words", 'name:"a b"', "c")),
        ('still "open', ("still", '"open')),
        ('""', ()),
    ],
)
def test_a_line_is_split_into_words(text: str, words: tuple[str, ...]) -> None:
    assert split_query(text) == words


@given(st.text(max_size=40))
def test_any_line_can_be_split(text: str) -> None:
    assert all(word.strip() for word in split_query(text))
