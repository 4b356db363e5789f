"""Reading conversations: every form and source, and what is said of rows that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.data.reading import read_conversations
from hetspec_core.errors import CorruptFileError, DataError, NotFoundError
from hetspec_core.spec import DatasetSpec

SHAREGPT = {"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
EXPECTED = (Message("user", "Hi"), Message("assistant", "Hello"))


def lines(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(source: str, **options: Any):
    return read_conversations(DatasetSpec(source=source, **options))


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        (SHAREGPT, "sharegpt", EXPECTED),
        (MESSAGES, "messages", EXPECTED),
        ({"conversations": MESSAGES["messages"]}, "messages", EXPECTED),
        ({"prompt": "Hi"}, "prompts", EXPECTED[:1]),
        ({"text": "Hi"}, "prompts", EXPECTED[:1]),
        ('"Hi"', "prompts", EXPECTED[:1]),
        ({"question_id": 81, "turns": ["Hi", "Bye"]}, "prompts", (Message("user", "Hi"), Message("user", "Bye"))),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}]},
            "messages",
            EXPECTED[:1],
        ),
        (
            {"conversations": [{"from": "system", "value": "S"}, *SHAREGPT["conversations"]]},
            "sharegpt",
            (Message("system", "S"), *EXPECTED),
        ),
        (
            {"conversations": [{"from": "gpt", "value": "in the middle"}, *SHAREGPT["conversations"]]},
            "sharegpt",
            EXPECTED,
        ),
    ],
)
def test_form_is_found_and_read(tmp_path: Path, row: Any, name: str, expected: tuple[Message, ...]) -> None:
    reading = read(lines(tmp_path / "rows.jsonl", row))

    assert reading.format == name
    assert reading.conversations[0].messages == expected


@pytest.mark.parametrize("role", ["user", "human", "User"])
@pytest.mark.parametrize("other", ["assistant", "gpt", "model"])
def test_names_of_roles(tmp_path: Path, role: str, other: str) -> None:
    row = {"conversations": [{"from": role, "value": "Hi"}, {"from": other, "value": "Hello"}]}

    assert read(lines(tmp_path / "rows.jsonl", row)).conversations[0].messages == EXPECTED


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "not JSON"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "role 'martian'"),
        ({"conversations": [{"from": "human"}]}, "turn 1 needs `from` and `value`"),
        ({"conversations": [{"from": "human", "value": None}]}, "turn 1 has content of type NoneType"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}, "both of the user"),
        ({"conversations": [{"from": "human", "value": "  "}]}, r"turn 1 \(user\) is empty"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "no turn of the user"),
        ({"conversations": []}, "no turn of the user"),
        ({"conversations": "text"}, "no list `conversations`"),
        ({"other": 1}, "no list `conversations`"),
    ],
)
def test_malformed_row_is_counted_by_its_line_and_the_rest_is_read(tmp_path: Path, row: Any, reason: str) -> None:
    reading = read(lines(tmp_path / "rows.jsonl", SHAREGPT, "", row, SHAREGPT))

    assert len(reading.conversations) == 2
    assert [item.place for item in reading.malformed] == ["line 3"]
    assert re.search(reason, reading.malformed[0].reason)
    assert "1 of 3 rows" in reading.complaint and "line 3" in reading.complaint


def test_only_malformed_rows_is_an_error_that_names_lines(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", {"conversations": [{"from": "x", "value": "y"}]}, {"conversations": 3})

    with pytest.raises(DataError, match=r"2 of 2 rows of .*rows.jsonl .*line 1: .*line 2: "):
        read(source, format="sharegpt")


def test_unknown_form_names_the_keys(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1 has keys question, answer"):
        read(lines(tmp_path / "rows.jsonl", {"question": "a", "answer": "b"}))


def test_broken_first_line_does_not_hide_the_form(tmp_path: Path) -> None:
    reading = read(lines(tmp_path / "rows.jsonl", "{half", SHAREGPT))

    assert (reading.format, len(reading.conversations), reading.malformed[0].place) == ("sharegpt", 1, "line 1")


def test_bad_utf8_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "\xff\xfe"}\n{"prompt": "good"}\n')

    reading = read(str(path))

    assert [c.user_turns for c in reading.conversations] == [("good",)]
    assert len(reading.malformed) == 1


@pytest.mark.parametrize("content", [[SHAREGPT, MESSAGES["messages"]], {"data": [SHAREGPT]}])
def test_json_list(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))

    assert read(str(path), format="sharegpt").conversations[0].messages == EXPECTED


def test_json_lines_under_another_name(tmp_path: Path) -> None:
    assert len(read(lines(tmp_path / "rows.json", SHAREGPT, SHAREGPT)).conversations) == 2


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"prompt": "a"}, ')

    with pytest.raises(CorruptFileError, match=r"rows\.json is not JSON"):
        read(str(path))


def test_parquet_and_saved_dataset(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list([SHAREGPT, {**SHAREGPT, "id": "b"}])
    table.to_parquet(str(tmp_path / "rows.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "splits"))

    for source in ("rows.parquet", "saved", "splits"):
        reading = read(str(tmp_path / source))
        assert [c.messages for c in reading.conversations] == [EXPECTED, EXPECTED], source
    assert len(read(str(tmp_path / "splits"), split="test").conversations) == 1
    with pytest.raises(NotFoundError, match="no split 'dev'; there are: train, test"):
        read(str(tmp_path / "splits"), split="dev")


def test_caches_lie_below_the_home(tmp_path: Path, home: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"prompt": "Hi"}]).to_parquet(str(tmp_path / "rows.parquet"))

    read(str(tmp_path / "rows.parquet"))

    assert (home / "cache" / "datasets").is_dir()


def test_truncated_parquet_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")

    with pytest.raises(CorruptFileError, match=r"rows\.parquet cannot be read as parquet"):
        read(str(path))


def test_hub_without_network_says_what_to_do() -> None:
    with pytest.raises(NotFoundError, match="owner/name@v1 could not be fetched from the hub") as caught:
        read("hub:owner/name@v1")
    assert "network" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("nowhere.jsonl", NotFoundError, "no dataset nowhere.jsonl"),
        ("hub:oneword", DataError, "names no hub dataset"),
        ("shipped:nothing", NotFoundError, "there are: heldout, prompts"),
    ],
)
def test_source_that_is_not_there(source: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read(source)


def test_sources_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("hello")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()

    for name, message in (
        ("rows.txt", "no known kind"),
        ("empty.jsonl", "has no rows"),
        ("folder", "not a saved dataset"),
    ):
        with pytest.raises(DataError, match=message):
            read(str(tmp_path / name))


def test_ranges_cover_the_shuffled_rows_without_overlap(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", *({"prompt": f"p{number}"} for number in range(20)))

    def prompts(**options: Any) -> list[str]:
        return [c.user_turns[0] for c in read(source, **options).conversations]

    whole = prompts(shuffle_seed=3)
    assert whole != prompts() and sorted(whole) == sorted(prompts())
    assert prompts(shuffle_seed=3, range=(0, 7)) + prompts(shuffle_seed=3, range=(7, 20)) == whole
    assert prompts(shuffle_seed=3, limit=4) == whole[:4]
    with pytest.raises(DataError, match=r"range is 20:30, but .* has 20 rows"):
        read(source, range=(20, 30))


def test_limit_counts_good_rows(tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", {"prompt": "a"}, "{bad", {"prompt": "b"}, {"prompt": "c"})

    assert [c.user_turns[0] for c in read(source, limit=2).conversations] == ["a", "b"]
