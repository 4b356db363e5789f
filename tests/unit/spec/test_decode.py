"""Strict decoding: every fault at once, in sentences that name key, value and what is allowed."""

from __future__ import annotations

import datetime

import pytest

from hetspec_core.spec import BaseSpec, BenchSpec, DatasetSpec, DecodingSpec, TrainingSpec, TreeSpec
from hetspec_core.spec.decode import decode, did_you_mean


def faults(model: type, data: dict) -> dict[str, str]:
    spec, problems = decode(model, data)
    assert spec is None
    return {problem.key: problem.text for problem in problems}


def test_all_faults_are_found_at_once() -> None:
    found = faults(TrainingSpec, {"epochs": 0, "lrr": 1, "optimizer": {"schedule": "cosin", "lr": "1e-3"}})
    assert found == {
        "epochs": "is 0; needs a whole number > 0",
        "lrr": "unknown key; known: " + ", ".join(TrainingSpec.model_fields),
        "optimizer.schedule": "is \"cosin\"; needs one of 'constant', 'linear', 'cosine'; did you mean 'cosine'?",
        "optimizer.lr": 'is "1e-3"; needs a finite number > 0',
    }


@pytest.mark.parametrize(
    ("value", "accepted"), [(5, True), (5.0, False), ("5", False), (True, False), (-1, False), ([5], False)]
)
def test_whole_numbers_are_not_made_from_anything_else(value: object, accepted: bool) -> None:
    spec, _ = decode(TrainingSpec, {"epochs": value})
    assert (spec is not None) is accepted


@pytest.mark.parametrize("value", [1, 8192, "auto", "whole"])
def test_a_draft_vocabulary_is_a_number_or_a_word(value: object) -> None:
    spec, problems = decode(DecodingSpec, {"draft_vocab": value})
    assert spec is not None and spec.draft_vocab == value and not problems


@pytest.mark.parametrize(
    ("value", "seen"), [(0, "0"), (-3, "-3"), ("many", '"many"'), ("8192", '"8192"'), (1.5, "1.5"), (True, "true")]
)
def test_a_draft_vocabulary_of_another_form_is_refused_in_one_sentence(value: object, seen: str) -> None:
    text = faults(DecodingSpec, {"draft_vocab": value})["draft_vocab"]
    assert text.startswith(f"is {seen}; needs a whole number") and text.endswith("one of 'auto', 'whole'")


def test_draft_vocabularies_of_a_bench_are_different() -> None:
    assert "the same one twice: 8, auto, 8" in faults(BenchSpec, {"draft_vocabs": [8, "auto", 8]})[""]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_are_finite(value: float) -> None:
    assert "needs a finite number" in faults(TrainingSpec, {"optimizer": {"lr": value}})["optimizer.lr"]


def test_an_integer_is_a_number() -> None:
    spec, _ = decode(TrainingSpec, {"max_minutes": 3})
    assert spec is not None and spec.max_minutes == 3.0


def test_near_keys_are_suggested() -> None:
    assert faults(TrainingSpec, {"max_stepz": 3})["max_stepz"] == "unknown key; did you mean 'max_steps'?"


def test_a_missing_key_says_what_it_is() -> None:
    found = faults(BaseSpec, {"name": "x", "source": {"kind": "path", "path": "/x"}})
    assert found["architecture"].startswith("is missing; needs a table with model_type, hidden_size")


def test_the_kind_of_a_source_is_no_part_of_its_keys() -> None:
    found = faults(BaseSpec, {"name": "x", "source": {"kind": "path", "path": "/x", "file": "y"}, "architecture": {}})
    assert found["source.file"] == "unknown key; known: kind, path"
    assert "architecture.hidden_size" in found


def test_an_unknown_kind_of_source_lists_the_kinds() -> None:
    found = faults(BaseSpec, {"name": "x", "source": {"kind": "hubb"}, "architecture": {}})
    assert found["source.kind"] == "is \"hubb\"; needs 'hub', 'path', 'package'"


def test_checks_between_keys_keep_their_sentence() -> None:
    assert faults(DatasetSpec, {"range": [5, 3]}) == {"": "range is 5:3; it needs 0 <= A < B"}


def test_lists_are_named_by_position() -> None:
    found = faults(BenchSpec, {"trees": [{"depth": 1, "top_k": 1, "num_draft_tokens": 1}, {"depth": 0}]})
    assert found["trees.1.depth"] == "is 0; needs a whole number > 0"


def test_dates_are_refused_with_their_key() -> None:
    assert "no key takes a date" in faults(TrainingSpec, {"project": datetime.date(2026, 1, 1)})["project"]


def test_long_values_are_cut() -> None:
    assert "(5002 characters)" in faults(TrainingSpec, {"epochs": "x" * 5000})["epochs"]


def test_a_tree_is_read_from_its_label_wherever_a_tree_stands() -> None:
    spec, problems = decode(BenchSpec, {"trees": ["6/10/60", {"depth": 2, "top_k": 1, "num_draft_tokens": 2}]})
    assert not problems and spec is not None
    assert spec.trees == (TreeSpec(depth=6, top_k=10, num_draft_tokens=60), TreeSpec.parse("2/1/2"))
    assert "needs depth/top_k/num_draft_tokens" in faults(BenchSpec, {"trees": ["6/10"]})["trees.0"]


@pytest.mark.parametrize(
    ("word", "allowed", "said"),
    [
        ("cosin", ["cosine", "linear"], "; did you mean 'cosine'?"),
        ("smollm", ["smollm2-135m-instruct", "qwen3"], "; did you mean 'smollm2-135m-instruct'?"),
        ("q", ["qwen3-4b", "qwen3-30b"], ""),
        ("zzz", ["cosine"], ""),
    ],
)
def test_only_a_near_word_is_suggested(word: str, allowed: list[str], said: str) -> None:
    assert did_you_mean(word, allowed) == said
