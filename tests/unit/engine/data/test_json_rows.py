"""JSON rows in every form and encoding that files have, and rows that cannot be decoded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.engine.data.reading import read_conversations
from hetspec_core.errors import CorruptFileError, DataError
from hetspec_core.spec import DatasetSpec

ROWS = [{"prompt": f"Question {number} é?"} for number in range(3)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
BY_LINE = ",\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
FORMS = {
    "lines": LINES,
    "lines with carriage returns": LINES.replace("\n", "\r\n") + "\r\n",
    "a list on one line": json.dumps(ROWS, ensure_ascii=False),
    "an indented list": json.dumps(ROWS, ensure_ascii=False, indent=2),
    "a list, one row a line": f"[\n{BY_LINE}\n]\n",
    "a list with a comma at its end": f"[\n{BY_LINE},\n]",
    "brackets beside the rows": f"[{BY_LINE}]",
    "one list in an object": json.dumps({"data": ROWS}, ensure_ascii=False, indent=1),
    "one list in an object, one row a line": f'{{"data": [\n{BY_LINE}\n]}}',
}


def read(path: Path, **options: Any):
    return read_conversations(DatasetSpec(source=str(path), **options))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize("form", FORMS)
def test_the_content_decides_what_the_rows_are(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(FORMS[form])

    reading = read(path)

    assert [c.user_turns[0] for c in reading.conversations] == [row["prompt"] for row in ROWS]
    assert not reading.malformed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("form", ["lines", "an indented list", "a list, one row a line"])
def test_encodings(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FORMS[form].encode(encoding))

    assert [c.user_turns[0] for c in read(path).conversations] == [row["prompt"] for row in ROWS]


BAD_ROWS = [
    (rb'{"prompt": "half \ud83d of a pair"}', "half of a surrogate pair"),
    (b'{"prompt": "\xff"}', "not UTF-8"),
    (b'{"prompt": "cut', "not JSON"),
    (b'{"prompt": "raw \x01 control"}', "not JSON"),
    (b"\0\0\0\0\0\0\0\0", "not JSON"),
    (b'{"prompt": ' + b"[" * 200_000, "nested too deeply"),
    (b'{"prompt": ' + b"9" * 5000 + b"}", "4,300 digits"),
    (rb'{"prompt": "x", "turns": [1]}', "content of type int"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_bad_row_is_named_by_its_line_and_the_others_are_read(
    tmp_path: Path, form: str, row: bytes, reason: str
) -> None:
    good = b'{"prompt": "good"}'
    path = tmp_path / "rows.jsonl"
    rows = [good, row, good]
    path.write_bytes(b"\n".join(rows) if form == "lines" else b"[\n" + b",\n".join(rows) + b"\n]")

    reading = read(path, format="prompts")

    assert len(reading.conversations) == 2
    (bad,) = reading.malformed
    assert reason in bad.reason
    assert bad.place in (("line 2",) if form == "lines" else ("line 3", "row 2"))
    assert bad.place in reading.complaint
    reading.complaint.encode()


def test_a_byte_that_is_not_utf8_in_an_indented_list_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[\n {\n  "prompt": "a"\n },\n {\n  "prompt": "\xfe"\n }\n]')

    reading = read(path)

    assert len(reading.conversations) == 1
    assert "a byte that is not UTF-8" in reading.malformed[0].reason and reading.malformed[0].place == "row 2"


def test_nul_and_control_characters_of_a_text_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a\0b\x1b[31m"}))

    assert read(path).conversations[0].user_turns == ("a\0b\x1b[31m",)


def test_a_list_that_was_cut_off_is_not_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"[\n{BY_LINE},\n")

    with pytest.raises(CorruptFileError, match=r"rows\.jsonl is not JSON"):
        read(path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")

    with pytest.raises(DataError, match="no regular file"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "first",
    [{"conversations": []}, {"messages": []}, {"prompt": ""}, {"text": None}, "", {}, None, {"prompt": "a header"}],
)
def test_the_first_row_does_not_decide_the_form(tmp_path: Path, first: Any) -> None:
    row = {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in (first, row, row)))

    reading = read(path)

    assert (reading.format, len(reading.conversations), len(reading.malformed)) == ("messages", 2, 1)


def test_names_of_a_row_can_be_written_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"id": "\ud83d", "category": ["x"], "prompt": "Hi", "\udc00": 1}')

    reading = read(path)

    assert reading.conversations[0].id == "\\ud83d" and reading.conversations[0].category == ""
    assert "udc00" in reading.remark(answers=True)
    reading.remark(answers=True).encode()
