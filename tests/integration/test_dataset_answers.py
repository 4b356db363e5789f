"""Answers of the base in a dataset: where they end, what of them is supervised, and what is told of the others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.engine.data.hidden_states import HiddenStateStore
from hetspec_core.engine.modeling.base_lm import load_tokenizer
from hetspec_core.events import Log, Progress, Result
from hetspec_core.runs import RunRow
from hetspec_core.runs.rows import apply
from hetspec_core.spec import BaseSpec
from tests.fakes.dataset_runs import events, go, make_run, write_rows
from tests.fakes.tiny_base import PLAIN_CHATML, make_reciting_base, make_tiny_base, make_tiny_tokenizer

TWO_TURNS = {"turns": ["What is up?", "And then?"]}


def make(folder: Path, base: BaseSpec, rows: list[Any], **dataset: Any) -> tuple[Path, HiddenStateStore]:
    source = write_rows(folder / "rows.jsonl", rows)
    run = make_run(folder / "run", base, source=source, **{"answers": "base", **dataset})
    return run, go(run)


def supervised(base: BaseSpec, store: HiddenStateStore, number: int = 0) -> list[str]:
    """The text of every run of supervised tokens of a sample."""
    tokenizer, sample = load_tokenizer(base), store[number]
    pairs = zip(sample.input_ids.tolist(), sample.assistant_mask.tolist(), strict=True)
    groups = itertools.groupby(pairs, key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in group]) for mark, group in groups if mark]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "conversations.jsonl").read_text().splitlines()]


def result(run: Path) -> dict[str, Any]:
    return next(event for event in events(run) if isinstance(event, Result)).data


def said(run: Path, level: str = "warning") -> str:
    return "\n".join(event.message for event in events(run) if isinstance(event, Log) and event.level == level)


def test_a_whole_answer_is_supervised_with_its_end(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")

    run, store = make(tmp_path, base, [TWO_TURNS])

    assert supervised(base, store) == ["Five apples<|im_end|>"] * 2
    assert not result(run)["cut_answers"] and not said(run)


def test_the_end_of_turn_behind_an_answer_that_was_cut_is_not_supervised(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")
    words = load_tokenizer(base).decode(load_tokenizer(base)("Five apples")["input_ids"][:2])

    run, store = make(tmp_path, base, [TWO_TURNS], max_new_tokens=2)

    assert supervised(base, store) == [words, words]
    assert [record["messages"][-1]["finish_reason"] for record in records(run)] == ["length", "length"]
    assert result(run)["cut_answers"] == {"dataset.max_new_tokens": 2}
    assert "2 of 2 answers are cut (2 by dataset.max_new_tokens)" in said(run)


def test_an_answer_ends_at_the_templates_end_though_the_base_goes_on(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>", eos_token="<|endoftext|>")

    run, store = make(tmp_path, base, [TWO_TURNS], max_new_tokens=60)

    assert supervised(base, store) == ["Five apples<|im_end|>"] * 2
    assert [record["messages"][-1]["content"] for record in records(run)] == ["Five apples"] * 2
    assert not result(run)["cut_answers"]


def test_an_end_that_is_not_the_templates_is_supervised_where_the_base_wrote_it(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|endoftext|>", eos_token="<|endoftext|>")

    run, store = make(tmp_path, base, [TWO_TURNS])

    assert supervised(base, store) == ["Five apples", "Five apples<|endoftext|>"]
    assert records(run)[0]["messages"][-1]["finish_reason"] == "other_stop_token"
    assert not result(run)["cut_answers"]


def test_answers_are_not_written_beyond_the_longest_length(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples", eos_token="<|endoftext|>")  # never ends

    run, store = make(tmp_path, base, [TWO_TURNS], max_new_tokens=200, max_length=40)

    (record,) = records(run)
    assert len(record["input_ids"]) == store.lengths[0] == 40
    assert result(run)["cut_answers"] == {"dataset.max_length": 1}
    assert result(run)["unasked_questions"] == 1
    assert "1 by dataset.max_length" in said(run) and "1 question not asked" in said(run)


def test_a_prompt_that_is_too_long_is_not_answered(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")

    run, store = make(tmp_path, base, [{"prompt": "word " * 50}, {"prompt": "Hi"}], max_length=60)

    assert len(store) == len(records(run)) == 1
    assert result(run)["left_out"] == {"no room for an answer within 60 tokens": 1}


def test_what_a_resumed_run_says_of_cut_answers_is_what_the_whole_run_says(tmp_path: Path) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")
    run, store = make(tmp_path, base, [TWO_TURNS], max_new_tokens=2)
    whole = store[0].assistant_mask.tolist()
    log = run / "conversations.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    again = tmp_path / "again"
    run.rename(again)
    for path in (again / "hidden_states").iterdir():
        if path.is_file():
            path.unlink()

    resumed = go(again)

    assert resumed[0].assistant_mask.tolist() == whole
    assert result(again)["cut_answers"] == {"dataset.max_new_tokens": 2}


DIALOGUE = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "tools": [{"a": 1}]}


@pytest.mark.parametrize(("layer", "level"), [("preset", "warning"), ("option", "info"), (None, "warning")])
def test_answers_of_the_source_that_are_replaced_are_told(tmp_path: Path, layer: str | None, level: str) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")
    source = write_rows(tmp_path / "rows.jsonl", [DIALOGUE])
    run = make_run(tmp_path / "run", base, source=source, answers="base")
    if layer:
        (run / "origins.json").write_text(json.dumps({"dataset.answers": {"layer": layer, "source": "x"}}))

    go(run)

    assert "1 answers of" not in said(run, "info" if level == "warning" else "warning")
    assert "--answers data keeps them" in said(run, level)
    assert result(run)["replaced_answers"] == 1


def test_fields_and_rows_that_are_not_read_are_in_the_result(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    rows = [DIALOGUE, {"conversations": [{"from": "tool", "value": "x"}]}]

    run, _ = make(tmp_path, base, rows, answers="data")

    assert result(run)["unused_fields"] == {"tools": 1}
    assert result(run)["unreadable_rows"] == 1 and result(run)["replaced_answers"] == 0
    assert "tools (1 row)" in said(run) and "line 2" in said(run)


def test_a_template_that_is_not_the_tokenizers_own_is_told(tmp_path: Path) -> None:
    own = PLAIN_CHATML.replace("<|im_end|>' +", "<|im_end|>\n' +")
    base = make_tiny_base(tmp_path / "base", tokenizer=make_tiny_tokenizer(own))
    base = base.model_copy(update={"chat_template": "chatml"})

    run, _ = make(tmp_path, base, [DIALOGUE], answers="data")

    assert "chat template chatml writes another text than the tokenizer's own" in said(run)


@pytest.mark.parametrize("again", [False, True], ids=["first", "resumed"])
def test_how_far_a_dataset_is_never_falls_between_its_answers_and_its_states(tmp_path: Path, again: bool) -> None:
    base = make_reciting_base(tmp_path / "base", "Five apples<|im_end|>")
    run, _ = make(tmp_path, base, [TWO_TURNS])
    if again:
        go(run)

    row, shares = RunRow("run"), []
    for event in events(run):
        row = apply(row, [event]).row
        if isinstance(event, Progress) and not event.prepares:
            shares.append(row.progress)

    assert shares == sorted(shares) and {0.0, 0.5, 1.0} <= set(shares)
