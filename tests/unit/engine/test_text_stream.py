"""Text from tokens as they come: joined, the pieces are the decoding of all tokens at once."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hetspec_core.engine.backends.backend import TextStream, token_text

_WORDS = ["a", "b", "def", "▁", "▁▁", "▁▁▁▁", "▁a", "▁return", "é", "🙂", "\n", ".", "▁.", "'", "n't", "\t"]


def _sentencepiece(*, strip: bool, metaspace: bool = False) -> Tokenizer:
    """A vocabulary with byte tokens, decoded as Llama 2's (strip), Mistral's (metaspace) or Gemma's."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    if metaspace:
        tokenizer.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
        )
        return tokenizer
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
    return tokenizer


def _byte_level() -> Tokenizer:
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(letters))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _word_piece() -> Tokenizer:
    names = ["[UNK]", "the", "##re", "is", ".", "##s", "a", "'"]
    tokenizer = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer


BUILDS = {
    "byte level": _byte_level,
    "strips a space": lambda: _sentencepiece(strip=True),
    "metaspace": lambda: _sentencepiece(strip=False, metaspace=True),
    "keeps every space": lambda: _sentencepiece(strip=False),
    "word pieces": _word_piece,
}


@cache
def build(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a build, with a special token that texts leave out."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=BUILDS[name]())
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.add_tokens(["<call>"])
    return tokenizer


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[int]]:
    """Any tokens of any build, well formed or not: words, runs of bytes of real text, lone bytes, special tokens."""
    name = draw(st.sampled_from(sorted(BUILDS)))
    tokenizer = build(name)
    vocabulary = tokenizer.get_vocab()

    def spelt(text: str) -> list[int]:
        return [vocabulary[f"<0x{byte:02X}>"] for byte in text.encode()]

    any_token = st.integers(0, len(tokenizer) - 1).map(lambda token: [token])
    parts = [any_token]
    if "<0x00>" in vocabulary:
        parts.append(st.sampled_from(_WORDS).map(lambda word: [vocabulary[word]]))
        parts.append(st.text(st.sampled_from("é🙂\n中a "), min_size=1, max_size=4).map(spelt))
    found = [token for part in draw(st.lists(st.one_of(parts), max_size=60)) for token in part]
    return name, found * draw(st.sampled_from([1, 1, 1, 3]))


@given(answers())
def test_pieces_join_to_the_decoding_of_all_tokens(answer: tuple[str, list[int]]) -> None:
    name, ids = answer
    stream = TextStream(build(name))
    pieces = [stream.add(token) for token in ids] + [stream.finish()]
    assert "".join(pieces) == stream.text == build(name).decode(ids, skip_special_tokens=True)


@given(text=st.text(alphabet=st.sampled_from("ab \n中é🙂"), max_size=30))
def test_text_that_is_encoded_comes_back(text: str) -> None:
    tokenizer = build("byte level")
    stream = TextStream(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join([*map(stream.add, ids), stream.finish()]) == text


def test_an_indented_line_keeps_its_spaces() -> None:
    tokenizer = build("strips a space")
    ids = tokenizer.convert_tokens_to_ids(["def", "<0x0A>", "▁▁▁▁", "a", "\n", "▁▁▁▁", "b"])
    stream = TextStream(tokenizer)
    assert "".join([*map(stream.add, ids), stream.finish()]) == "def\n    a\n    b"


def test_long_texts_are_decoded_in_windows() -> None:
    """The cost of a token does not grow with the length of the answer."""
    tokenizer = build("strips a space")
    lengths: list[int] = []

    class Counting:
        convert_ids_to_tokens = staticmethod(tokenizer.convert_ids_to_tokens)

        @staticmethod
        def decode(tokens: list[int], skip_special_tokens: bool) -> str:
            lengths.append(len(tokens))
            return tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    ids = tokenizer.convert_tokens_to_ids(["def", "▁a", "\n", "▁▁▁▁", "▁return", "<0x0A>"]) * 200
    stream = TextStream(Counting())
    pieces = [stream.add(token) for token in ids]
    assert max(lengths) <= 80
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte level", "strips a space"])
def test_an_unfinished_character_is_held_back(name: str) -> None:
    tokenizer = build(name)
    ids = tokenizer("é" if name == "byte level" else "ö", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    assert len(ids) == 2
    assert stream.add(ids[0]) == ""
    assert "".join([stream.add(ids[1]), stream.finish()]) in ("é", "ö")


def test_a_whole_character_waits_for_the_byte_behind_it() -> None:
    """SentencePiece's decoder gives up a whole run of bytes when one of them is bad, so nothing of it is certain."""
    tokenizer = build("strips a space")
    ids = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "🙂🙂".encode()[:6]])
    stream = TextStream(tokenizer)
    assert [stream.add(token) for token in ids] == [""] * 6
    assert stream.finish() == tokenizer.decode(ids) == "\N{REPLACEMENT CHARACTER}" * 6


def test_what_never_becomes_a_character_comes_at_the_end() -> None:
    tokenizer = build("byte level")
    stream = TextStream(tokenizer)
    assert stream.add(tokenizer("é", add_special_tokens=False)["input_ids"][0]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_single_token_keeps_the_space_it_begins_with() -> None:
    tokenizer = build("strips a space")
    names = ["▁return", "▁▁", "a", "<0x0A>", "<0xC3>", "<|end|>"]
    found = [token_text(tokenizer, tokenizer.convert_tokens_to_ids(name)) for name in names]
    assert token_text(tokenizer, 10**12) == "<1000000000000>" and token_text(tokenizer, -1) == "<-1>"
    assert json.dumps(found) == json.dumps([" return", "  ", "a", "\n", "<0xC3>", "<|end|>"])
