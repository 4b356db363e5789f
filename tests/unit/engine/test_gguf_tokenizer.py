"""Tokenizers built from what a GGUF file holds: token by token what llama.cpp reads from the same list."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hetspec_core.engine.modeling.base_lm import load_tokenizer
from hetspec_core.engine.modeling.sources import build_tokenizer, materialize
from hetspec_core.engine.tokenizer_check import first_fault
from hetspec_core.errors import CorruptFileError, ModelError
from hetspec_core.spec import Architecture, BaseSpec, PathSource
from tests.conftest import REPOSITORY
from tests.fakes.sentence_piece import BYTE, CONTROL, USER_DEFINED, reference_ids
from tests.fakes.tiny_base import make_tiny_base, make_tiny_tokenizer
from tests.fakes.tiny_gguf import SOURCE, write_package

GEMMA = json.loads((REPOSITORY / "tests" / "data" / "gguf" / "gemma-3-tokens.json").read_text(encoding="utf-8"))
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def gemma_keys() -> dict[str, Any]:
    """The part of Gemma 3's list that its text needs, numbered from 0."""
    _, tokens, scores, types = (list(column) for column in zip(*GEMMA["tokens"], strict=True))
    return GEMMA["keys"] | {"tokens": tokens, "scores": scores, "token_type": types}


def test_a_known_prompt_comes_back_token_by_token() -> None:
    keys = gemma_keys()
    keys |= {f"{name}_token_id": None for name in ("bos", "eos", "unknown", "padding")}
    keys |= {"bos_token_id": 2, "eos_token_id": 1, "unknown_token_id": 3}  # their places are the same in the part
    tokenizer = build_tokenizer(keys)
    ids = tokenizer(GEMMA["text"], add_special_tokens=False)["input_ids"]
    assert [GEMMA["tokens"][number][0] for number in ids] == GEMMA["ids"]
    assert reference_ids(keys, GEMMA["text"]) == ids
    assert tokenizer.decode(ids) == GEMMA["text"]
    assert tokenizer("What")["input_ids"][0] == 2  # bos, as the file says
    assert tokenizer.bos_token == "<bos>" and tokenizer.eos_token == "<eos>"


def sentence_piece_keys(words: list[str], scores: list[float], *, prefix: bool) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", "<mark>", "\n\n", *BYTES, *words]
    types = [2, CONTROL, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256, *[1] * len(words)]
    ends = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    all_scores = [0.0] * (5 + 256) + scores
    return ends | {
        "model": "llama",
        "tokens": tokens,
        "scores": all_scores,
        "token_type": types,
        "add_space_prefix": prefix,
    }


@settings(max_examples=60)
@given(
    joined=st.lists(st.text("ab\u2581", min_size=2, max_size=4), unique=True, max_size=14),
    order=st.randoms(use_true_random=False),
    text=st.text("ab \né\U0001f642", max_size=24),
    prefix=st.booleans(),
)
def test_scores_are_read_as_llama_cpp_reads_them(joined: list[str], order: Any, text: str, prefix: bool) -> None:
    """Any list of tokens, bytes for what it lacks, markers and user-defined tokens between."""
    words = ["a", "b", "\u2581", *joined]
    scores = [-float(place) for place in range(len(words))]
    order.shuffle(scores)
    keys = sentence_piece_keys(words, scores, prefix=prefix)
    text = f"{text}<mark>{text}\n\n{text}"
    tokenizer = build_tokenizer(keys)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == reference_ids(keys, text)
    assert prefix or tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "bert"}, "kind 'bert'"),
        ({"tokens": []}, "no list of tokens"),
        ({"scores": [0.0]}, "1 scores"),
        ({"token_type": [1, 1]}, "2 types"),
        ({"model": "gpt2", "pre": "some-bpe"}, "pre-tokenizer 'some-bpe'"),
    ],
)
def test_what_a_file_lacks_is_named(change: dict[str, Any], named: str) -> None:
    keys = sentence_piece_keys(["a", "b"], [-1.0, -2.0], prefix=False) | change
    with pytest.raises(ModelError, match=named):
        build_tokenizer(keys)


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["123456", " x", "\n"]),
        ("smollm", ["1", "2", "3", "4", "5", "6", " x", "\n"]),
        ("llama-bpe", ["123", "456", " x", "\n"]),
        ("qwen2", ["1", "2", "3", "4", "5", "6", " x", "\n"]),
        ("deepseek-v3", ["123", "456", " x", "\n"]),
        ("tekken", ["1", "2", "3", "4", "5", "6", " x", "\n"]),
        ("gpt-4o", ["123", "456", " x", "\n"]),
    ],
)
def test_the_pre_tokenizer_is_the_one_that_the_file_names(pre: str, pieces: list[str]) -> None:
    """A list that has every piece of digits as one token: what is joined shows where the text is cut."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    runs = ["123456"[:end] for end in range(2, 7)] + ["456"[:end] for end in (2, 3)]
    merges = [f"{run[:-1]} {run[-1]}" for run in runs] + ["\u0120 x"]
    keys = {"model": "gpt2", "pre": pre, "tokens": [*alphabet, *runs, "\u0120x"], "merges": merges}
    tokenizer = build_tokenizer(keys)
    ids = tokenizer("123456 x\n", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([number]) for number in ids] == pieces


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    return tmp_path / "site"


def gguf_spec(size: int) -> BaseSpec:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    architecture = Architecture(
        model_type="llama", **sizes, num_key_value_heads=1, vocab_size=size, max_position_embeddings=64
    )
    return BaseSpec(name="tiny", source=SOURCE, architecture=architecture)


def test_a_converted_base_has_the_tokenizer_of_its_file(site: Path) -> None:
    """transformers ignores the scores: of 'abc' it would join other neighbours first."""
    keys = sentence_piece_keys(
        ["a", "b", "c", "\u2581", "bc", "ab"], [-9.0, -9.0, -9.0, -9.0, -1.0, -2.0], prefix=False
    )
    write_package(site, tokenizer=keys)
    tokenizer = load_tokenizer(gguf_spec(len(keys["tokens"])))
    text = "abc<mark> ab\n\n"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == reference_ids(keys, text)
    assert tokenizer.convert_ids_to_tokens(reference_ids(keys, "abc")) == ["a", "bc"]
    assert first_fault(tokenizer, ["<mark>", "<s>"]) is None


def test_a_file_whose_tokenizer_cannot_be_used_is_refused(site: Path) -> None:
    """Words of the list that no neighbours lead to: nothing can be built that would write them."""
    words = [f"\u2581{word}" for word in ("the", "of", "and", "to", "in", "is")]
    keys = sentence_piece_keys(words, [-1.0] * len(words), prefix=False)
    write_package(site, tokenizer=keys)
    with pytest.raises(CorruptFileError, match="splits 'the'"):
        materialize(SOURCE)


def test_a_folder_whose_tokenizer_splits_its_own_words_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    assert first_fault(tokenizer) is None
    spec = make_tiny_base(tmp_path / "base", tokenizer=tokenizer)
    assert load_tokenizer(spec).get_vocab() == tokenizer.get_vocab()
    assert isinstance(spec.source, PathSource)
    file = tmp_path / "base" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["merges"] = []  # single characters, as a conversion without merges writes
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="does not know its own tokens: it splits") as caught:
        load_tokenizer(spec)
    assert "tokenizer.json" in caught.value.hint


@pytest.mark.parametrize("spaced", [True, False])
def test_a_word_that_stands_only_inside_longer_words_may_be_split(spaced: bool) -> None:
    """A small SentencePiece vocabulary has `in` of `begin`, and writes the word as `\u2581` and `in`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if spaced else "first")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(["begin bison bend bathe born blast bone button"] * 9, trainer)
    assert first_fault(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")) is None
