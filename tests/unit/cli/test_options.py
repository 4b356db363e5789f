"""Options that several commands share."""

from __future__ import annotations

import pytest

from hetspec_core.cli.main import main
from hetspec_core.cli.options import DEFAULT_RECIPE, recipe_and_texts, trees_of
from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.service.drafts import find_draft
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import visible


def test_tree_shapes_are_read() -> None:
    assert trees_of(["6/10/60"]) == [{"depth": 6, "top_k": 10, "num_draft_tokens": 60, "auto": False}]
    assert trees_of(["auto"])[0]["auto"] is True  # type: ignore[index]
    assert trees_of([]) is None


@pytest.mark.parametrize("word", ["6/10", "a/b/c", "0/1/1", "-1/2/3"])
def test_other_tree_shapes_are_refused_with_the_word(word: str) -> None:
    with pytest.raises(UsageError, match="--tree"):
        trees_of([word])


@pytest.mark.parametrize(
    ("words", "recipe", "meant"),
    [
        (["quick-demo", "Hello"], None, ("quick-demo", ["Hello"])),
        (["recipe/quick-demo", "Hello", "again"], None, ("quick-demo", ["Hello", "again"])),
        (["quick-demo", "-"], None, ("quick-demo", ["-"])),
        (["quick-demo"], None, ("quick-demo", [])),
        (["Hello"], None, (DEFAULT_RECIPE, ["Hello"])),
        (["Hello", "quick-demo"], None, (DEFAULT_RECIPE, ["Hello", "quick-demo"])),
        (["state-of-the-art"], None, (DEFAULT_RECIPE, ["state-of-the-art"])),
        (["quick-demo"], "smollm2-latent", ("smollm2-latent", ["quick-demo"])),
        (["-"], None, (DEFAULT_RECIPE, ["-"])),
        ([], None, (DEFAULT_RECIPE, [])),
    ],
)
def test_the_first_word_is_the_recipe_where_one_has_that_name(
    words: list[str], recipe: str | None, meant: tuple[str, list[str]]
) -> None:
    assert recipe_and_texts(words, recipe, None) == meant


def test_a_recipe_beside_a_saved_configuration_and_a_name_that_is_nearly_one_are_refused() -> None:
    with pytest.raises(UsageError, match="--from RUN takes the place"):
        recipe_and_texts(["quick-demo", "Hello"], None, "RUN")
    for words in (["quik-demo", "Hello"], ["quik-demo"]):
        with pytest.raises(UsageError, match="did you mean 'quick-demo'"):
            recipe_and_texts(words, None, None)
    assert recipe_and_texts(["quik-demo"], None, "RUN")[1] == ["quik-demo"]


def test_a_recipe_without_a_prompt_is_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "quick-demo"]) == 2
    said = capsys.readouterr().err
    assert "there is no prompt" in said and 'generate quick-demo "your question"' in said


def test_without_a_trained_draft_the_ways_out_are_named() -> None:
    with (
        Workbench() as workbench,
        pytest.raises(NotFoundError, match="no draft has been trained on tiny yet") as caught,
    ):
        find_draft(workbench, None, "tiny")
    assert "--plain" in caught.value.hint


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert visible("a\x1b[2Jb\tc\n中") == "a\\x1b[2Jb\tc\n中"
