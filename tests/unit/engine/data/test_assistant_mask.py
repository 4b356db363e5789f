"""The assistant mask over builds of tokenizers: whole answers, one range of tokens each, whatever the offsets say."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hetspec_core.engine.data.chat import ChatTemplate, Encoded, supervised_spans, token_begins, token_mask
from hetspec_core.engine.data.conversation import Message

SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
TEXT = ["system user assistant\n", "def f(x):\n    if x:\n        return 1\n    return 2\n\nThe sky is blue. "] * 20
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(*, trim: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return tokenizer


def sentencepiece(*, prepend: bool) -> Tokenizer:
    """Byte fallback: a character that the vocabulary lacks is several tokens with the offsets of the whole."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces] if prepend else [spaces])
    vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=vocabulary, show_progress=False)
    tokenizer.train_from_iterator([line for text in TEXT for line in text.split("\n") if line], trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = sentencepiece(prepend=False)
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


BUILDS = {
    "byte-level": functools.partial(byte_level, trim=False),
    "byte-level, trimmed offsets": functools.partial(byte_level, trim=True),
    "SentencePiece": functools.partial(sentencepiece, prepend=False),
    "SentencePiece with a prefix": functools.partial(sentencepiece, prepend=True),
    "Metaspace": metaspace,
}


@functools.cache
def template(build: str) -> ChatTemplate:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=BUILDS[build](), bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<unk>"
    )
    return ChatTemplate.for_tokenizer(tokenizer, "chatml")


def runs(encoded: Encoded) -> list[tuple[int, int]]:
    found, position = [], 0
    for mark, group in itertools.groupby(encoded.assistant_mask):
        length = len(list(group))
        if mark:
            found.append((position, position + length))
        position += length
    return found


WORDS = st.lists(
    st.sampled_from(["    ", "\n", "  ", " ", "x", "return", "é", "🙂", "の", "():", "\n\n", "\t"]), max_size=12
)
ANSWERS = WORDS.map("".join).map(lambda text: "a" + text)


@pytest.mark.parametrize("build", BUILDS)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=3), question=WORDS.map("".join))
@settings(max_examples=40, deadline=None)
def test_each_answer_with_its_end_of_turn_is_one_range(build: str, answers: list[str], question: str) -> None:
    chat = template(build)
    messages = [m for answer in answers for m in (Message("user", "q" + question), Message("assistant", answer))]

    encoded = chat.encode(messages)

    found = runs(encoded)
    assert len(found) == len(answers)
    for number, ((start, end), answer) in enumerate(zip(found, answers, strict=True)):
        prompt = chat.encode(messages[: 2 * number + 1], add_generation_prompt=True).input_ids
        assert encoded.input_ids[:start] == prompt
        text = chat.tokenizer.decode(encoded.input_ids[start:end], clean_up_tokenization_spaces=False)
        assert text.strip() == (answer + "<|im_end|>").strip()


@pytest.mark.parametrize("build", BUILDS)
def test_an_answer_that_was_cut_has_no_supervised_end_of_turn(build: str) -> None:
    chat = template(build)
    question = Message("user", "x")
    messages = (question, Message("assistant", "a  b  ", finish_reason="length"), question, Message("assistant", "c"))

    encoded = chat.encode(messages)

    (start, end), (_, last) = runs(encoded)
    end_id = chat.end_of_turn
    assert end_id not in encoded.input_ids[start:end] and encoded.input_ids[end] == end_id
    assert encoded.input_ids[last - 1] == end_id
    whole = chat.encode([Message(m.role, m.content) for m in messages])
    assert encoded.input_ids == whole.input_ids


def test_an_answer_of_weight_0_is_not_supervised() -> None:
    chat = template("byte-level")
    question = Message("user", "x")

    encoded = chat.encode([question, Message("assistant", "no", weight=0), question, Message("assistant", "yes")])

    ((start, end),) = runs(encoded)
    assert chat.tokenizer.decode(encoded.input_ids[start:end]) == "yes<|im_end|>"


def test_blocks_that_are_not_one_for_each_answer_are_refused_only_where_they_matter() -> None:
    answers = [Message("assistant", "a"), Message("assistant", "b")]
    spans = [(0, 1)]

    assert supervised_spans("ab", spans, answers, lambda: "") == spans
    with pytest.raises(ValueError, match="marks 1 spans for 2 answers"):
        supervised_spans("ab", spans, [answers[0], Message("assistant", "b", weight=0)], lambda: "")


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([(0, 1), (1, 3), (3, 4)], [0, 1, 3]),
        ([(0, 1), (1, 1), (3, 4)], [0, 1, 3]),  # covers nothing, and nothing better is known
        ([(0, 1), (0, 0), (1, 4)], [0, 1, 1]),
        ([(0, 2), (0, 2), (2, 4)], [0, 0, 2]),  # two tokens of one character
    ],
)
def test_begins_never_decrease(offsets: list[tuple[int, int]], expected: list[int]) -> None:
    class Other:
        ids: tuple[int, ...] = ()

        def encode(self, *_: Any, **__: Any) -> Other:
            return self

    assert token_begins("abcd", [7, 8, 9], offsets, Other) == expected


def test_mask_of_spans_that_touch() -> None:
    assert token_mask([0, 2, 4, 6], [(2, 4), (4, 6)]) == [False, True, True, False]
    assert token_mask([0, 2, 4], [(2, 2)]) == [False, False, False]
