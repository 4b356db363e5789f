"""Logs as numbered lines: every kind of bytes, growing, cut and replaced files, and finding."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.service.logs import LogFile
from hetspec_core.terminal_text import LONGEST, clean_line, plain


def complete(log: LogFile) -> int:
    while not (state := log.advance(0)).complete:
        pass
    return state.count


def test_lines_are_numbered_as_the_file_grows_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.log"
    log = LogFile(path)
    assert complete(log) == 0
    text = "first\n\nthird é\nopen"
    raw = text.encode()
    with path.open("ab", buffering=0) as file:
        for index in range(len(raw)):
            file.write(raw[index : index + 1])
            before = raw[: index + 1].decode(errors="replace")
            lines = before.split("\n")
            expected = lines if lines[-1] else lines[:-1]
            assert complete(log) == len(expected)
            assert log.lines(0, 99) == expected
    assert log.advance().closed == 3
    assert log.lines(1, 3) == ["", "third é"]
    assert log.lines(3, 1) == log.lines(9, 12) == []


@given(st.lists(st.binary(max_size=40), max_size=30), st.binary(max_size=10))
def test_there_is_one_clean_line_for_every_newline(lines: list[bytes], last: bytes) -> None:
    whole = [line.replace(b"\n", b"") for line in lines]
    last = last.replace(b"\n", b"")
    path = Path(os.environ["HETSPEC_HOME"]) / "any.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in whole) + last)
    log = LogFile(path)
    assert complete(log) == len(whole) + bool(last)
    shown = log.lines(0, len(whole) + 1)
    assert shown == [clean_line(line) for line in [*whole, *([last] if last else [])]]
    assert log.tail(1000) == shown
    for line in shown:
        assert plain(line).isprintable() or "\ufffd" in line or not re.search("[\x00-\x1f\x7f-\x9f]", plain(line))
    numbers, end = log.find(re.compile("a").search, budget_s=9)
    assert list(numbers) == [i for i, line in enumerate(shown[: len(whole)]) if "a" in plain(line)]
    assert end == len(whole)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"10%|#   |\r50%|##  |\r100%|####|", "100%|####|"),
        (b"done\r\r", "done"),
        (b"windows\r", "windows"),
        (b"\x1b[1;31mred\x1b[0m", "\x1b[1;31mred\x1b[0m"),
        (b"\x1b[2J\x1b[1;1H\x1b[?25lgone\x1b[K", "gone"),
        (b"\x1b]0;a title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "textlink"),
        (b"\x1b]52;c;AAAA", ""),
        (b"\x1bP secret \x1b\\x\x1b(By\x1b7z\x1b", "xyz"),
        (b"a\x00b\x1fc\x7f", "a␀b␟c␡"),
        (b"\x9b31mx \xff\xfe", "�31mx ��"),
        ("a\u202eb\u200bc\u2028".encode(), "a\\u202eb\\u200bc\\u2028"),
        (b"a\tbc\t\x1b[1md\t|", "a       bc      \x1b[1md       |"),
        (b"[red]no markup[/red]", "[red]no markup[/red]"),
        ("漢字 ok".encode(), "漢字 ok"),
    ],
)
def test_what_terminals_would_obey_is_dropped_or_shown(raw: bytes, text: str) -> None:
    assert clean_line(raw) == text


@given(st.binary(max_size=200))
def test_only_colours_are_left_of_control_characters(raw: bytes) -> None:
    cleaned = clean_line(raw.replace(b"\n", b""))
    rest = re.sub(r"\x1b\[[0-9;]*m", "", cleaned)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e]", rest)


def test_a_long_line_is_cut_and_says_by_how_much(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    path.write_bytes(b"x" * 100_000 + b"\nshort\n" + b"9%\r" * 50_000 + b"100%\n")
    log = LogFile(path)
    assert complete(log) == 3
    first, second, third = log.lines(0, 3)
    assert first == "x" * LONGEST + f"… (+{100_000 - LONGEST:,})"
    assert (second, third) == ("short", "100%")


def test_a_cut_or_replaced_file_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\nthree\n")
    log = LogFile(path)
    complete(log)
    generation = log.advance().generation
    path.write_text("1\n")
    assert complete(log) == 1
    assert log.advance().generation == generation + 1
    path.write_text("other lines of more bytes\nthan before\n")  # cut and grown again between two looks
    assert complete(log) == 2
    assert log.lines(0, 2) == ["other lines of more bytes", "than before"]
    (tmp_path / "b.log").write_text("new file\n")
    (tmp_path / "b.log").replace(path)
    assert complete(log) == 1
    assert log.lines(0, 9) == ["new file"]
    path.unlink()
    assert complete(log) == 0
    assert log.lines(0, 9) == log.tail(9) == []


def test_the_end_is_there_before_the_rest_is_known(tmp_path: Path) -> None:
    path = tmp_path / "big.log"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(300_000)))
    log = LogFile(path)
    state = log.advance(0)
    assert not state.complete and 0 < state.count < 300_000
    assert log.tail(2) == ["line 299998", "line 299999"]
    assert complete(log) == 300_000
    assert log.lines(123_456, 123_458) == ["line 123456", "line 123457"]


def test_finding_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"".join(b"step %d \x1b[32mloss\x1b[0m\n" % number for number in range(10_000)))
    log = LogFile(path)
    complete(log)
    search = re.compile(r"99\d loss$").search
    found, place = log.find(search, budget_s=0)
    assert 0 < place < 10_000
    while place < 10_000:
        more, place = log.find(search, place, budget_s=0)
        found.extend(more)
    assert list(found) == [n for n in range(10_000) if re.search(r"99\d$", str(n))]
    odd, _ = log.find(re.compile(r"[02468] ").search, inverse=True, budget_s=9)
    assert list(odd) == list(range(1, 10_000, 2))
