"""The sieve for self-written prompts."""

from __future__ import annotations

import json

import pytest

from hetspec_core.engine.stages.dataset_texts import PromptSieve, fault, normalise
from hetspec_core.prompts import shipped_path


@pytest.mark.parametrize(
    ("text", "finished", "reason"),
    [
        ("What is the capital of France?", True, ""),
        ("What is the capital of France?", False, "too long"),
        ("word " * 500, True, "too long"),
        ("Hi there", True, "too short"),
        ("What is <|im_start|> here in the middle?", True, "markup of the template in it"),
        ("Tell me why " + "no " * 40, True, "degenerate"),
        ("one line\n" * 6, True, "degenerate"),
        ("look at this line: " + "=" * 30, True, "degenerate"),
        ("1 2 3 4 5 6 7 8 9 10 11 12", True, "degenerate"),
    ],
)
def test_faults(text: str, finished: bool, reason: str) -> None:
    assert fault(text.strip(), finished=finished) == reason


def test_same_words_are_the_same_prompt() -> None:
    sieve = PromptSieve()

    assert sieve.add("What is the  Capital of France?\n", finished=True)
    assert not sieve.add("what is the capital of france", finished=True)
    assert sieve.kept == ["What is the  Capital of France?"]
    assert sieve.dropped == {"repeated": 1}


def test_normal_form_keeps_what_tells_prompts_apart() -> None:
    assert normalise("What is 3 + 4?") != normalise("What is 3 + 5?")


def test_shipped_prompts_pass() -> None:
    """They are what good prompts look like, so a sieve that drops one of them is too fine."""
    rows = [json.loads(line) for line in shipped_path("prompts").read_text().splitlines()]

    faulty = [row["prompt"] for row in rows if fault(row["prompt"], finished=True) not in ("", "too short")]

    assert faulty == []
