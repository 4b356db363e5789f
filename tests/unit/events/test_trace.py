"""Traces: written as an answer appears, read whole, torn, damaged or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetspec_core.errors import CorruptFileError, NotFoundError, ResourceError
from hetspec_core.events.chat import Answered, Garbage, Reply, Started, Tokens
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.events.trace import TRACE_VERSION, TraceHeader, TraceWriter, read_trace
from hetspec_core.service.chat.answer import Answer
from tests.fakes.chat_worker import step_of

HEADER = TraceHeader(
    messages=[ChatMessage(role="user", content="Hello")],
    settings=ChatSettings(draft="/home/user/runs/x/draft", draft_name="x").changed(tree="2/2/4"),
)
REPLIES: list[Reply] = [
    Started(ask=1, prompt_tokens=7, limit_tokens=50, context_tokens=100),
    Tokens(ask=1, tokens=[10], pieces=["T"], elapsed_s=0.01),
    step_of(1, 0),
    step_of(1, 1),
    Answered(
        ask=1,
        text="T a0 b0 c0 a1 b1 c1",
        tokens=[10, 11, 13, 15, 11, 13, 15],
        stop_reason="length",
        prompt_tokens=7,
        decode_s=0.1,
    ),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "traces" / "one.jsonl"
    writer = TraceWriter(path, HEADER)
    for reply in REPLIES:
        writer.add(reply)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    trace = read_trace(path)
    assert trace.replies == REPLIES and trace.damaged_lines == 0
    assert trace.end == REPLIES[-1] and len(trace.steps) == 2
    assert Answer.of(trace).whole


def test_no_directory_is_in_it(path: Path) -> None:
    assert b"/home/user" not in path.read_bytes()
    assert read_trace(path).header.settings.draft == "x"


def test_every_cut_is_read_up_to_its_last_whole_line(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for size in range(first, len(data) + 1, 61):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(data[:size])
        assert read_trace(cut).replies == REPLIES[: data[first:size].count(b"\n")]


def test_damaged_lines_are_left_out_and_counted(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"\x00\xff", b'{"type": "newer"}', *lines[3:]]))
    trace = read_trace(path)
    assert trace.replies == REPLIES and trace.damaged_lines == 2


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b'{"type": "step"}\n', b"\xff\xfe\n", b"[1]\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match="is no trace"):
        read_trace(path)


def test_a_newer_version_and_a_missing_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "newer.jsonl"
    path.write_text(HEADER.model_copy(update={"version": TRACE_VERSION + 1}).model_dump_json() + "\n")
    with pytest.raises(CorruptFileError, match=f"version {TRACE_VERSION + 1}"):
        read_trace(path)
    with pytest.raises(NotFoundError):
        read_trace(tmp_path / "nothing.jsonl")


def test_a_file_that_is_there_is_never_overwritten(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ResourceError, match="cannot be written"):
        TraceWriter(path, HEADER)
    assert path.read_bytes() == before


def test_what_the_desk_says_and_what_follows_the_end_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    writer = TraceWriter(path, HEADER)
    writer.add(Garbage(line="x"))
    writer.add(REPLIES[-1])
    writer.add(REPLIES[1])
    assert read_trace(path).replies == [REPLIES[-1]]
