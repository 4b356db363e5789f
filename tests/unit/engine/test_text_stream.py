"""Text from tokens as they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hetspec_core.engine.stages.text_stream import TextStream


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that a character of several bytes comes in pieces."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(letters))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@given(text=st.text(alphabet=st.sampled_from("ab \n中é🙂"), max_size=30))
def test_pieces_join_to_the_whole_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [stream.add(token) for token in ids] + [stream.finish()]
    assert "".join(pieces) == text == stream.text


def test_an_unfinished_character_is_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer)
    ids = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2
    assert stream.add(ids[0]) == ""
    assert stream.add(ids[1]) == "é"


def test_what_never_becomes_a_character_comes_at_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer)
    first = tokenizer("é", add_special_tokens=False)["input_ids"][0]
    assert stream.add(first) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
