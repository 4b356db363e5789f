"""Options that several commands share."""

from __future__ import annotations

import pytest

from hetspec_core.cli.options import trees_of
from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.service import Workbench
from hetspec_core.service.drafts import find_draft
from hetspec_core.terminal_text import visible


def test_tree_shapes_are_read() -> None:
    assert trees_of(["6/10/60"]) == [{"depth": 6, "top_k": 10, "num_draft_tokens": 60}]
    assert trees_of([]) is None


@pytest.mark.parametrize("word", ["6/10", "a/b/c", "0/1/1", "-1/2/3"])
def test_other_tree_shapes_are_refused_with_the_word(word: str) -> None:
    with pytest.raises(UsageError, match="--tree"):
        trees_of([word])


def test_without_a_trained_draft_the_ways_out_are_named() -> None:
    with (
        Workbench() as workbench,
        pytest.raises(NotFoundError, match="no draft has been trained on tiny yet") as caught,
    ):
        find_draft(workbench, None, "tiny")
    assert "--plain" in caught.value.hint


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert visible("a\x1b[2Jb\tc\n中") == "a\\x1b[2Jb\tc\n中"
