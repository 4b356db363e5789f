"""Items to capture: cutting, repetition, content ids, and the error when nothing can be learnt."""

from __future__ import annotations

from functools import partial

import pytest

from hetspec_core.engine.data.chat import ChatTemplate, Encoded
from hetspec_core.engine.data.conversation import Conversation, Message
from hetspec_core.engine.data.items import Identify, ItemList, content_id, encode_all
from hetspec_core.errors import DataError
from tests.fakes.tiny_base import make_tiny_tokenizer

QUESTION, ANSWER = Message("user", "How many?"), Message("assistant", "Three.")


def conversation(*messages: Message, name: str = "c") -> Conversation:
    return Conversation(name, messages or (QUESTION, ANSWER))


def encode(*conversations: Conversation, max_length: int = 512) -> ItemList:
    template = ChatTemplate.for_tokenizer(make_tiny_tokenizer())
    return encode_all(conversations, template, identify(template), max_length=max_length)


def identify(template: ChatTemplate) -> Identify:
    return partial(content_id, template_hash=template.hash, base_fingerprint="b", settings={"x": 1})


def test_item_ends_with_the_assistants_last_token() -> None:
    found = ItemList()

    found.add("a", Encoded([5, 6, 7, 8, 9], [False, False, True, True, False]), max_length=10)

    assert found.items["a"].input_ids == [5, 6, 7, 8]
    assert found.items["a"].assistant_mask == [False, False, True, True]


def test_turn_of_the_user_without_an_answer_is_not_captured() -> None:
    whole = encode(conversation()).items
    longer = encode(conversation(QUESTION, ANSWER, Message("user", "Why?"))).items

    assert [item.input_ids for item in whole.values()] == [item.input_ids for item in longer.values()]


def test_long_conversation_is_cut_and_counted() -> None:
    found = encode(conversation(QUESTION, Message("assistant", "word " * 300)), max_length=50)

    (item,) = found.items.values()
    assert len(item.input_ids) == 50
    assert found.cut == 1


def test_answer_behind_the_cut_leaves_nothing_to_learn() -> None:
    found = encode(conversation(Message("user", "word " * 100), ANSWER), max_length=20)

    with pytest.raises(DataError, match="no supervised token") as caught:
        found.check("rows.jsonl", max_length=20)
    assert "max_length (now 20)" in caught.value.hint


def test_no_answers_at_all_says_to_let_the_base_answer() -> None:
    with pytest.raises(DataError, match=r"rows.jsonl has no supervised token") as caught:
        encode(conversation(QUESTION)).check("rows.jsonl", max_length=20)
    assert "--answers base" in caught.value.hint


def test_repeated_conversation_is_taken_once_whatever_it_is_called() -> None:
    found = encode(conversation(name="one"), conversation(name="two"))

    assert len(found.items) == 1
    assert sum(found.dropped.values()) == 1


def test_first_two_tokens_can_never_be_supervised() -> None:
    found = ItemList()

    found.add("a", Encoded([1, 2, 3], [True, True, False]), max_length=10)

    assert not found.items


def test_content_id_changes_with_everything_that_decides_the_states() -> None:
    about = {"template_hash": "t", "base_fingerprint": "b", "settings": {"max_length": 9}}
    same = content_id([QUESTION, ANSWER], **about)

    assert same == content_id([QUESTION, ANSWER], **about)
    others = [
        content_id([QUESTION], **about),
        content_id([QUESTION, Message("assistant", "Four.")], **about),
        *(
            content_id([QUESTION, ANSWER], **{**about, key: value})
            for key, value in [("template_hash", "u"), ("base_fingerprint", "c"), ("settings", {"max_length": 8})]
        ),
    ]
    assert len({same, *others}) == 6


def test_refused_conversation_is_named() -> None:
    template = ChatTemplate.for_tokenizer(
        make_tiny_tokenizer(None, markers=("<start_of_turn>", "<end_of_turn>")), "gemma"
    )

    with pytest.raises(DataError, match=r"conversation c7: .*no system prompt"):
        encode_all(
            [conversation(Message("system", "S"), QUESTION, ANSWER, name="c7")],
            template,
            identify(template),
            max_length=99,
        )


def test_a_refused_conversation_is_counted_and_the_others_are_used() -> None:
    template = ChatTemplate.for_tokenizer(
        make_tiny_tokenizer(None, markers=("<bos>", "<start_of_turn>", "<end_of_turn>")), "gemma"
    )

    found = encode_all(
        [conversation(Message("system", "S"), QUESTION, ANSWER, name="c7"), conversation(name="c8")],
        template,
        identify(template),
        max_length=99,
    )

    assert len(found.items) == 1 and found.dropped["refused by the chat template"] == 1
    (complaint,) = found.complaints
    assert "1 conversation cannot be written" in complaint and "c7: " in complaint and "no system prompt" in complaint


def test_content_id_of_ordinary_turns_is_what_it_always_was() -> None:
    about = {"template_hash": "t", "base_fingerprint": "b", "settings": {"max_length": 9}}

    assert content_id([QUESTION, ANSWER], **about) == "6a242d7c473f6adea0ec99a88045e828"
    others = [
        content_id([QUESTION, Message("assistant", "Three.", weight=0)], **about),
        content_id([QUESTION, Message("assistant", "Three.", finish_reason="length")], **about),
    ]
    assert len({content_id([QUESTION, ANSWER], **about), *others}) == 3


@pytest.mark.parametrize(
    ("answer", "is_told"), [("Three.<|im_end|>", False), ("Three.<|im_end|>\n<|im_start|>user\nWhy?", True)]
)
def test_an_answer_of_the_data_ends_at_the_templates_end_of_turn(answer: str, is_told: bool) -> None:
    found = encode(conversation(QUESTION, Message("assistant", answer)))

    assert list(found.items.values()) == list(encode(conversation()).items.values())
    assert any("runs past the template's end of turn" in text for text in found.complaints) == is_told
