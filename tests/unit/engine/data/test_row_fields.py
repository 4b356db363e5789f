"""Fields of rows beside the text: those that are read, and that the others are counted and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.data.reading import DatasetReading, read_conversations
from hetspec_core.errors import DataError
from hetspec_core.spec import DatasetSpec

HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello")


def read(folder: Path, *rows: Any) -> DatasetReading:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_conversations(DatasetSpec(source=str(path)))


def sharegpt(**fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], **fields}


def openai(*, answer: dict[str, Any] | None = None, question: dict[str, Any] | None = None, **fields: Any) -> Any:
    turns = [
        {"role": "user", "content": "Hi", **(question or {})},
        {"role": "assistant", "content": "Hello", **(answer or {})},
    ]
    return {"messages": turns, **fields}


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize("row", [sharegpt(), openai(), {"prompt": "Hi"}])
def test_a_system_column_becomes_the_system_message(tmp_path: Path, row: dict[str, Any], column: str) -> None:
    reading = read(tmp_path, {**row, column: "Be brief."})

    assert reading.conversations[0].messages[:2] == (Message("system", "Be brief."), HI)
    assert not reading.unused


@pytest.mark.parametrize("empty", ["", None, [], "  "])
def test_an_empty_system_column_is_none(tmp_path: Path, empty: Any) -> None:
    assert read(tmp_path, sharegpt(system=empty)).conversations[0].messages == (HI, HELLO)


def test_a_system_column_that_is_no_text_makes_the_row_unreadable(tmp_path: Path) -> None:
    reading = read(tmp_path, sharegpt(), sharegpt(system={"a": 1}))

    assert "`system` has content of type dict" in reading.malformed[0].reason


def test_the_system_message_of_the_turns_goes_before_the_column(tmp_path: Path) -> None:
    row = openai(system="column")
    row["messages"].insert(0, {"role": "system", "content": "turn"})

    reading = read(tmp_path, row)

    assert reading.conversations[0].messages[0] == Message("system", "turn")
    assert "system (1 row)" in reading.warning(answers=True)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (sharegpt(tools=[{"name": "f"}]), "tools (1 row)"),
        ({"prompt": "Hi", "images": ["a.png"]}, "images (1 row)"),
        (openai(answer={"reasoning_content": "It is day."}), "reasoning_content of an answer (1 row)"),
        (openai(answer={"tool_calls": [{"id": "1"}]}), "tool_calls of an answer (1 row)"),
        (openai(answer={"weight": 0.5}), "weight of an answer (1 row)"),
        (openai(question={"name": "Ann"}), "name of a question (1 row)"),
    ],
)
def test_fields_that_change_the_meaning_are_counted_and_named(tmp_path: Path, row: Any, named: str) -> None:
    reading = read(tmp_path, row)

    assert named in reading.warning(answers=True)
    assert (named in reading.warning(answers=False)) == ("answer" not in named)


def test_other_fields_are_named_and_empty_ones_are_not(tmp_path: Path) -> None:
    row = openai(answer={"refusal": None, "tool_calls": [], "timestamp": 3}, source="web", id="a", category="code")

    reading = read(tmp_path, row, row)

    assert reading.warning(answers=True) == ""
    assert reading.unused_counts(answers=True) == {"source": 2, "timestamp of an answer": 2}
    assert "source (2 rows)" in reading.remark(answers=True)


@pytest.mark.parametrize(("weight", "expected"), [(0, 0), (0.0, 0), (False, 0), (1, 1), (True, 1), (None, 1), ("x", 1)])
def test_weight_of_an_answer(tmp_path: Path, weight: Any, expected: int) -> None:
    reading = read(tmp_path, openai(answer={"weight": weight}))

    assert reading.conversations[0].messages[1].weight == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"finish_reason": "stop"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"tool_calls": [{"id": "1"}]}, "other_stop_token"),  # the call follows the text, not the end of the turn
    ],
)
def test_whether_the_writer_ended_an_answer(tmp_path: Path, answer: dict[str, Any], expected: str) -> None:
    assert read(tmp_path, openai(answer=answer)).conversations[0].messages[1].finish_reason == expected


def test_rows_of_messages_are_read_as_they_are_written(tmp_path: Path) -> None:
    messages = (HI, Message("assistant", "Hel", finish_reason="length"), HI, Message("assistant", "x", weight=0))

    reading = read(tmp_path, {"messages": [message.as_row() for message in messages]})

    assert reading.conversations[0].messages == messages


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "`tool_calls` and no text"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "`tool_calls` and no text"),
        ({"role": "tool", "content": "22 degrees"}, "role 'tool'"),
        ({"role": "assistant", "content": [{"type": "image_url", "image_url": {}}]}, "a part image_url"),
        ({"role": "assistant", "content": [{"type": "text", "text": None}]}, "a part text"),
    ],
)
def test_turns_that_are_no_text_make_the_row_unreadable(tmp_path: Path, turn: Any, reason: str) -> None:
    reading = read(tmp_path, openai(), {"messages": [{"role": "user", "content": "Hi"}, turn]})

    assert reason in reading.malformed[0].reason and reading.malformed[0].place == "line 2"


def test_only_unreadable_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 1 rows .* line 1: turn 2 has role 'tool'"):
        read(tmp_path, {"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "x"}]})
