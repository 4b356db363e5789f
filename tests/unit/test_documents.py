"""JSON and TOML from anywhere: a value, or a DocumentError that says why, and never another exception or a hang."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.documents import DocumentError, flatten, parse_json, parse_toml, read_bounded, read_json, read_toml

HOSTILE_JSON = {
    "deep": b"[" * 200_000,
    "digits": b"1" * 6_000,
    "not_utf8": b'{"a": "\xff"}',
    "empty": b"",
    "cut": b'{"a": ',
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_one_kind_of_error(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(HOSTILE_JSON[name])
    with pytest.raises(DocumentError, match=r"^is not "):
        read_json(file)


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 50_000,
        "a=" + "1" * 5_000,
        "a=",
        "a = 1e",
        f"a = {2**63}",
        "[b]\nc = [[9223372036854775808]]",
        ".".join(["a"] * 50_000) + " = 1",
    ],
)
def test_hostile_toml_is_one_kind_of_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(DocumentError):
        read_toml(file)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", str(10**30), str(2**63), '{"a": [NaN]}'])
def test_strict_numbers_refuse_what_no_configuration_means(text: str) -> None:
    with pytest.raises(DocumentError, match=r"number|integer"):
        parse_json(text, strict_numbers=True)
    parse_json(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value), strict_numbers=True) == value


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    for parse in (parse_json, parse_toml):
        try:
            parse(data)
        except DocumentError:
            continue


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_toml(b"\xef\xbb\xbfa = 1") == {"a": 1}


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="no regular file"):
        read_json(tmp_path / "pipe")


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b" " * 1025)
    with pytest.raises(DocumentError, match="MiB"):
        read_bounded(tmp_path / "x", 1024)
    assert len(read_bounded(tmp_path / "x", 1025)) == 1025


def test_a_pipe_that_the_user_named_is_read_and_a_folder_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a = 1\n"))
    writer.start()
    assert read_toml(tmp_path / "pipe", streams=True) == {"a": 1}
    writer.join(10)
    for streams in (True, False):
        with pytest.raises(DocumentError, match="folder"):
            read_toml(tmp_path, streams=streams)


def test_nested_tables_become_dotted_keys() -> None:
    tree = {"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f.g": None, "empty": {}, "h": {"empty": {}}}
    assert flatten(tree, keep_empty=False) == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f.g": None}
    assert flatten(tree) == flatten(tree, keep_empty=False) | {"empty": {}, "h.empty": {}}
