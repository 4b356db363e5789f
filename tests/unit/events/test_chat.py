"""Messages between desk and chat worker: they survive the line, and what is none is kept as garbage."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hetspec_core.events import chat
from hetspec_core.events.chat import Ask, Garbage, Quit, Tokens, decode_replies, decode_reply, decode_request, encode
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.chat_worker import step_of


def test_a_step_with_its_tree_survives_the_line() -> None:
    step = step_of(3, 1, kv_tokens=40)
    assert decode_reply(encode(step)) == step
    assert step.count.committed == 3 and step.count.accepted == 2


@given(st.text(max_size=50))
def test_any_text_survives_the_line_and_stays_one_line(text: str) -> None:
    text = text.encode(errors="replace").decode()  # lone surrogates are no text
    question = Ask(ask=1, messages=[ChatMessage(role="user", content=text)], settings=ChatSettings())
    line = encode(question)
    assert line.count(b"\n") == 1 and decode_request(line) == question
    reply = Tokens(ask=1, tokens=[1], pieces=[text])
    assert decode_replies(encode(reply).split(b"\n")) == [reply]


@given(st.binary(max_size=80))
def test_bytes_that_are_no_message_are_garbage(data: bytes) -> None:
    assert isinstance(decode_reply(data + b"\n"), Garbage)
    with pytest.raises(ValueError):
        decode_request(data)


def test_requests_are_no_replies_and_unknown_keys_are_passed_over() -> None:
    assert isinstance(decode_reply(encode(Quit())), Garbage)
    assert decode_request(b'{"type": "quit", "newer": 1}') == Quit()
    assert isinstance(decode_reply(b'{"type": "of-a-newer-version"}'), Garbage)


def test_every_message_has_a_type_of_its_own() -> None:
    kinds = [*get_args(chat.Request), *get_args(chat.Reply), chat.Garbage, chat.WorkerDied]
    names = [kind.model_fields["type"].default for kind in kinds]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("tree", ["", "6", "6/10", "a/b/c", "0/1/1", "1/1/1/1"])
def test_a_tree_of_another_form_is_refused(tree: str) -> None:
    with pytest.raises(ValidationError, match="depth/top_k/num_draft_tokens"):
        ChatSettings().changed(tree=tree)


def test_settings_take_keys_of_decoding_without_their_tables_and_have_one_schema() -> None:
    settings = ChatSettings().changed(tree="3/2/6", temperature=0.7, seed=4, max_new_tokens=9)
    assert settings.decoding == DecodingSpec(
        tree=TreeSpec(depth=3, top_k=2, num_draft_tokens=6),
        sampling=SamplingSpec(temperature=0.7, seed=4),
        max_new_tokens=9,
    )
    assert settings.changed(**settings.by_short_keys()) == settings
    assert ChatSettings.model_validate(settings.model_dump()) == settings


def test_settings_of_older_traces_are_read() -> None:
    old = (
        b'{"draft": "x", "tree": "2/2/4", "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 1, "ignore_eos": true}'
    )
    settings = ChatSettings.model_validate_json(old)
    assert (settings.draft, settings.tree, settings.decoding.ignore_eos) == ("x", "2/2/4", True)
    assert settings.decoding.max_new_tokens == 512
    assert settings.sampling == SamplingSpec(temperature=0.5, top_k=3, top_p=0.9, seed=1)
