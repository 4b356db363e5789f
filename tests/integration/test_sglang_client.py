"""SGLang's client against a fake server. Nothing here computes a token.

What is proved on a real server, and where the fake's words come from, is in docs/sglang.md.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hetspec_core.errors import DataError, HetSpecError, ModelError, ResourceError, StageFailed
from hetspec_core.sglang.client import SGLangClient, sampling_params
from hetspec_core.spec import SamplingSpec
from tests.fakes.sglang_pair import Pair, chunks_of, running


def test_pieces_are_the_growth_of_the_answer_and_the_last_brings_the_figures(
    pair: Pair, site: Path, tmp_path: Path
) -> None:
    with running(pair, site, tmp_path) as server:
        chunks = chunks_of(server.client)
        assert [len(chunk.tokens) for chunk in chunks] == [1, 1, 3, 2, 1, 1]
        assert [token for chunk in chunks for token in chunk.tokens] == list(range(5, 14))
        assert chunks[-1].finish == "length" and chunks[0].finish == ""
        assert chunks[-1].meta["spec_verify_ct"] == 5
        assert server.facts is not None and server.facts.tree == (3, 1, 4)
        assert server.client.next_log_probs([1]) == [(-0.5, 5), (-0.75, 6)]


def test_an_answer_stops_between_two_pieces_when_it_is_asked_to(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server:
        seen = chunks_of(server.client, 100, request_id="r", stop_asked=lambda: True)
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("malformed", DataError, "no JSON"),
        ("no_ids", DataError, "output_ids"),
        ("cut", StageFailed, "broke off|without saying why"),
        ("die_midstream", StageFailed, "broke off|without saying why"),
        ("error", ModelError, "status 400: .*bad request"),
    ],
)
def test_a_broken_answer_says_what_was_seen(
    pair: Pair, site: Path, tmp_path: Path, mode: str, error: type[HetSpecError], words: str
) -> None:
    with running(pair, site, tmp_path, mode) as server, pytest.raises(error, match=words):
        chunks_of(server.client)


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server, pytest.raises(ModelError, match=r"refuses .*context length"):
        list(server.client.generate([1] * 600, sampling_params(SamplingSpec(), 9, ignore_eos=True)))


def test_a_silent_server_ends_the_request_in_time(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path, "deaf") as server:
        client = SGLangClient(server.launch.url, timeout_s=0.5)
        with pytest.raises(StageFailed, match="stopped sending"):
            chunks_of(client)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=f"no server answers at {url}"):
        SGLangClient(url).facts()
    with pytest.raises(ResourceError, match="no address"):
        SGLangClient("ftp://here")
