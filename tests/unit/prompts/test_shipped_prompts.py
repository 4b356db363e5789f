"""The shipped prompt lists hold what they promise."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from hetspec_core.errors import NotFoundError
from hetspec_core.prompts import shipped_names, shipped_path


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in shipped_path(name).read_text(encoding="utf-8").splitlines()]


def test_prompts_are_many_varied_and_different() -> None:
    prompts = rows("prompts")

    assert len(prompts) >= 400
    assert len({row["prompt"] for row in prompts}) == len({row["id"] for row in prompts}) == len(prompts)
    assert len(Counter(row["category"] for row in prompts)) >= 10
    assert all(row["prompt"] == row["prompt"].strip() and len(row["prompt"]) >= 15 for row in prompts)


def test_heldout_has_the_mt_bench_form() -> None:
    heldout = rows("heldout")

    assert len(heldout) == 40
    assert sum(len(row["turns"]) == 2 for row in heldout) == 10
    assert all(set(row) == {"question_id", "category", "turns"} for row in heldout)
    assert set(Counter(row["category"] for row in heldout).values()) == {5}
    assert len({row["category"] for row in heldout[:8]}) == 8  # a short measurement meets every category


def test_lists_share_no_prompt() -> None:
    assert not {row["prompt"] for row in rows("prompts")} & {turn for row in rows("heldout") for turn in row["turns"]}


def test_names() -> None:
    assert shipped_names() == ["heldout", "prompts"]
    assert shipped_path("shipped:heldout") == shipped_path("heldout")
    with pytest.raises(NotFoundError, match="there are: heldout, prompts"):
        shipped_path("other")
