"""Which draft is taken where none is named: the best by comparable benches, else the newest, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hetspec_core.errors import NotFoundError
from hetspec_core.events import EventBase, Result, RunEnded, RunStarted, Submitted
from hetspec_core.service.chat.setup import chat_config
from hetspec_core.service.drafts import default_draft, find_draft
from hetspec_core.service.workbench import Workbench
from tests.tui.homes import NOW, write_run


def trained(home: Path, number: int, name: str) -> str:
    """A training that has succeeded; the larger the number, the newer it is."""
    run_id = f"2027011{number}-071500-train-t{number}"
    paths = write_run(home, run_id, name, ended(number, "train"))
    paths.draft.mkdir()
    (paths.draft / "config.json").write_text("{}")
    return run_id


def ended(number: int, stage: str, *more: EventBase) -> list[EventBase]:
    begin = NOW + 1000 * number
    return [
        Submitted(time=begin),
        RunStarted(time=begin + 1, stage=stage, pid=1, host="h"),
        *more,
        RunEnded(time=begin + 100, attempt=1, state="succeeded"),
    ]


def measured(
    home: Path, number: int, draft: str, histogram: dict[str, int], *, tree: str = "6/10/60", **setup: Any
) -> None:
    """A bench of a draft that has succeeded."""
    about = {"draft": draft, "prompt_ids_hash": "p", "sampling": {"temperature": 0.0}, "max_new_tokens": 64} | setup
    length = sum(int(key) * count for key, count in histogram.items()) / sum(histogram.values())
    result = {"setup": about, "plain": None, "trees": [{"tree": tree, "accept_length": length, "histogram": histogram}]}
    done = ended(number, "bench", Result(time=NOW, kind="bench", data=result))
    write_run(home, f"2027011{number}-081500-bench-b{number}", "", done, "bench")


def test_the_best_of_comparable_benches_is_taken_and_the_others_are_named(home: Path) -> None:
    good, bad, unknown = (trained(home, number, name) for number, name in ((1, "good"), (2, "bad"), (3, "new")))
    measured(home, 4, str(home / "runs" / good / "draft"), {"2": 10, "3": 10})
    measured(home, 5, bad, {"1": 10, "2": 10})
    with Workbench() as workbench:
        found = default_draft(workbench, "tiny")
        assert found.measured and found.draft.run_id == good
        assert "good t1" in found.reason and "2.50" in found.reason and "6/10/60" in found.reason
        assert "bad t2 (1.50)" in found.reason and "not measured like that: new t3" in found.reason
        heard: list[str] = []
        assert find_draft(workbench, None, "tiny", say=heard.append) == found.draft.folder
        assert heard == [found.reason]
        assert find_draft(workbench, unknown, "tiny", say=heard.append).parent.name == unknown
        assert len(heard) == 1, "a draft that is named needs no reason"


@pytest.mark.parametrize(
    "other",
    [
        {"tree": "3/2/6"},
        {"prompt_ids_hash": "q"},
        {"sampling": {"temperature": 0.7}},
        {"max_new_tokens": 8},
        {"prompt_ids_hash": None},
    ],
)
def test_benches_under_other_conditions_do_not_decide(home: Path, other: dict[str, Any]) -> None:
    old, new = trained(home, 1, "old"), trained(home, 2, "new")
    measured(home, 3, old, {"5": 10})
    measured(home, 4, new, {"1": 10}, **other)
    with Workbench() as workbench:
        found = default_draft(workbench, "tiny")
        assert (found.draft.run_id, found.measured) == (new, False)
        assert found.reason.startswith("warning") and "old t1" in found.reason and "--draft" in found.reason


def test_benches_of_one_draft_are_pooled_over_their_verify_steps(home: Path) -> None:
    first, second = trained(home, 1, "first"), trained(home, 2, "second")
    measured(home, 3, first, {"4": 1})
    measured(home, 4, first, {"1": 99})
    measured(home, 5, second, {"2": 10})
    with Workbench() as workbench:
        assert default_draft(workbench, "tiny").draft.run_id == second


def test_a_damaged_bench_decides_nothing(home: Path) -> None:
    good, hurt = trained(home, 1, "good"), trained(home, 2, "hurt")
    measured(home, 3, good, {"3": 10})
    measured(home, 4, hurt, {"9": 10}, questions="no number")
    with Workbench() as workbench:
        assert not default_draft(workbench, "tiny").measured


def test_a_bench_from_before_a_training_ended_says_nothing_of_its_draft(home: Path) -> None:
    old, new = trained(home, 1, "old"), trained(home, 5, "new")
    measured(home, 2, old, {"3": 10})
    measured(home, 3, new, {"9": 10})
    with Workbench() as workbench:
        assert not default_draft(workbench, "tiny").measured


def test_a_single_draft_is_taken_without_words_and_none_is_an_error(home: Path) -> None:
    with Workbench() as workbench:
        with pytest.raises(NotFoundError, match="no draft has been trained"):
            default_draft(workbench, "tiny")
        only = trained(home, 1, "only")
        found = default_draft(workbench, "tiny")
        assert (found.draft.run_id, found.reason) == (only, "")


def test_a_chat_says_why_it_takes_a_draft(home: Path) -> None:
    for number in (1, 2):
        run_id = trained(home, number, f"run{number}")
        spec = home / "runs" / run_id / "spec.toml"
        spec.write_text(spec.read_text().replace('name = "tiny"', 'name = "smollm2-135m-instruct"'))
    with Workbench() as workbench:
        config = chat_config(workbench, "smollm2-llama-eagle")
        assert config.settings.draft.endswith("train-t2/draft")
        assert len(config.notes) == 1 and "run1 t1" in config.notes[0]
