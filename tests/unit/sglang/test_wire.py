"""SGLang's client against servers that do anything: each request ends in time and bounded memory, with one sentence."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from hetspec_core.errors import DataError, HetSpecError, ModelError, ResourceError, StageFailed
from hetspec_core.sglang import client, wire
from hetspec_core.sglang.client import SGLangClient
from hetspec_core.sglang.stream import step_counts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = HEAD + b"Connection: close\r\n\r\n"
NO_TABLE = r"no JSON|JSON that is no object"
Answer = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A server on this machine that answers every connection in its own way, until its client leaves."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            answer(connection)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):  # unread bytes of the request would turn the end into a reset
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def raw(data: bytes) -> Answer:
    return lambda connection: connection.sendall(data)


def body(data: bytes) -> Answer:
    return raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data)


def endless(start: bytes, piece: bytes, pause_s: float = 0.0) -> Answer:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return answer


def events(*messages: object) -> Answer:
    lines = b"".join(b"data: " + json.dumps(message).encode() + b"\n\n" for message in messages)
    return raw(STREAM + lines)


def tokens(client: SGLangClient, most: int = 4) -> list[int]:
    client._incremental = True  # the server's facts are not what is tested
    return [token for chunk in client.generate([1], {"max_new_tokens": most}) for token in chunk.tokens]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SHORT_S", 0.6)


@pytest.mark.parametrize("start", [STREAM, HEAD + b"Content-Length: 1000000000000\r\n\r\n"], ids=["open", "declared"])
def test_an_endless_answer_is_read_to_its_limit_and_no_further(start: bytes) -> None:
    tracemalloc.start()
    try:
        with server(endless(start, b"[" * (1 << 20))) as url, pytest.raises(ResourceError, match="more than 16 MiB"):
            SGLangClient(url).facts()
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "answer",
    [
        endless(STREAM, b" ", 0.05),
        endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.05),
        endless(b"", b" ", 0.05),
        endless(b"HTTP/1.1 200 OK\r\n", b"X", 0.05),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
        endless(b"", b"", 1.0),
    ],
    ids=["body", "chunks", "status line", "header", "continues", "silence"],
)
@pytest.mark.usefixtures("hasty")
def test_a_byte_now_and_then_does_not_hold_a_request(answer: Answer) -> None:
    began = time.monotonic()
    with server(answer) as url:
        with pytest.raises(ResourceError, match=r"no answer in time|no server answers"):
            SGLangClient(url).facts()
        SGLangClient(url).healthy()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("piece", [b" ", b": still here\n", b"data"], ids=["spaces", "comments", "one long line"])
def test_a_stream_without_messages_ends_in_time(piece: bytes) -> None:
    began = time.monotonic()
    with server(endless(STREAM, piece, 0.05)) as url, pytest.raises(StageFailed, match="stopped sending"):
        tokens(SGLangClient(url, timeout_s=0.6))
    assert time.monotonic() - began < 5


def test_the_clock_of_a_stream_begins_anew_with_every_message() -> None:
    def slowly(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        for number in range(5):
            time.sleep(0.3)
            meta = {"finish_reason": {"type": "length"} if number == 4 else None}
            message = json.dumps({"output_ids": [number], "meta_info": meta})
            connection.sendall(b"data: " + message.encode() + b"\n\n")

    with server(slowly) as url:
        assert tokens(SGLangClient(url, timeout_s=1.0), most=9) == [0, 1, 2, 3, 4]


def test_a_line_of_a_stream_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LONGEST_LINE", 1 << 16)
    with server(endless(STREAM + b"data: ", b"[" * 4096)) as url, pytest.raises(DataError, match="more than"):
        tokens(SGLangClient(url))


@pytest.mark.parametrize(
    "data",
    [b"[" * 500_000, b'{"a":' * 200_000, b"9" * 6000, b"", b"\xff\xfe", b"<html>", b"[1]", b"null"],
    ids=["deep list", "deep table", "long number", "empty", "not UTF-8", "HTML", "a list", "null"],
)
def test_an_answer_that_is_no_table_is_said_in_one_sentence(data: bytes) -> None:
    with server(body(data)) as url:
        for ask in (lambda: SGLangClient(url).facts(), lambda: SGLangClient(url).next_log_probs([1])):
            with pytest.raises(HetSpecError, match=NO_TABLE) as told:
                ask()
            assert "\n" not in told.value.message and len(told.value.message) < 500
    with server(raw(STREAM + b"data: " + data + b"\n\n")) as url, pytest.raises(DataError, match=NO_TABLE):
        tokens(SGLangClient(url))


@pytest.mark.parametrize("ids", [["5"], [1.5], [True], [-1], [10**30], [None], [[1]]])
def test_only_token_ids_are_taken(ids: list[object]) -> None:
    with server(events({"output_ids": ids, "meta_info": {}})) as url, pytest.raises(DataError, match="no token ids"):
        tokens(SGLangClient(url))


def test_an_answer_far_over_its_limit_is_cut_off() -> None:
    answer = events(*[{"output_ids": [1] * 500, "meta_info": {}}] * 9)
    with server(answer) as url, pytest.raises(DataError, match="tokens; the limit was 4"):
        tokens(SGLangClient(url))


def test_a_refusal_is_shown_in_part() -> None:
    refusal = HEAD.replace(b"200 OK", b"400 Bad Request") + b"Connection: close\r\n\r\n" + b"x\x1b[2J" * 10_000
    with server(raw(refusal)) as url, pytest.raises(ModelError) as told:
        tokens(SGLangClient(url))
    assert "status 400" in told.value.message and len(told.value.message) < 500 and "\x1b" not in told.value.message


@pytest.mark.parametrize("figure", [10**12, -3, "many", [1], float("inf")])
def test_a_count_of_verify_steps_that_cannot_be_is_refused(figure: object) -> None:
    with pytest.raises(DataError, match="verify steps"):
        step_counts({"spec_verify_ct": figure, "spec_accept_histogram": [figure]}, 9, 3)
