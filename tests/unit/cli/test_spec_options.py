"""Options that are keys of the spec: their help is the spec's, and their values reach the spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from hetspec_core.cli.main import COMMANDS
from hetspec_core.cli.options import SpecOptions, SpecValues, spec_options
from hetspec_core.config import resolve
from hetspec_core.errors import UsageError
from hetspec_core.spec.run import spec_field

TABLE = {
    "--lr": "training.optimizer.lr",
    "--steps": "training.max_steps",
    "--seed": "decoding.sampling.seed",
    "--dataset": "training.datasets",
    "--dtype": "resources.dtype",
    "--plain": "decoding.plain",
    "--tree": "decoding.tree",
    "--shape": "bench.trees",
    "--vocab": "decoding.draft_vocab",
    "--vocabs": "bench.draft_vocabs",
}


def given_by(*words: str) -> SpecValues:
    """What a command receives from a command line."""
    app, received = typer.Typer(), SpecValues()

    @app.command()
    @spec_options(TABLE)
    def command(*, word: str = "", given: SpecOptions) -> None:
        received.update(given.values)

    result = CliRunner().invoke(app, list(words), standalone_mode=False, catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(result.output)
    return received


def keys_of_commands() -> Iterator[tuple[str, str, str, str]]:
    """Command, flag, dotted key and help of every option that is a key of the spec."""
    for name, (module, attribute, _) in COMMANDS.items():
        for command in getattr(import_module(module), attribute).registered_commands:
            for parameter in inspect.signature(command.callback).parameters.values():
                key = parameter.name.replace("__", ".")
                if "." in key or parameter.name == "backend":
                    option = next(item for item in get_args(parameter.annotation) if hasattr(item, "param_decls"))
                    yield name, option.default, key, option.help


def test_an_option_that_is_not_given_gives_no_key() -> None:
    assert given_by() == {}


def test_every_kind_of_value_reaches_its_key() -> None:
    words = "--lr 1e-4 --steps 3 --seed 0 --dataset a --dataset b --dtype float32 --plain --tree 3/2/6 --shape 1/1/1"
    assert given_by(*words.split()) == {
        "training.optimizer.lr": 1e-4,
        "training.max_steps": 3,
        "decoding.sampling.seed": 0,
        "training.datasets": ["a", "b"],
        "resources.dtype": "float32",
        "decoding.plain": True,
        "decoding.tree": {"depth": 3, "top_k": 2, "num_draft_tokens": 6, "auto": False},
        "bench.trees": [{"depth": 1, "top_k": 1, "num_draft_tokens": 1, "auto": False}],
    }


def test_a_key_that_takes_numbers_and_words_is_given_as_either() -> None:
    assert given_by("--vocab", "8192") == {"decoding.draft_vocab": 8192}
    assert given_by("--vocab", "whole", "--vocabs", "8192", "--vocabs", "auto") == {
        "decoding.draft_vocab": "whole",
        "bench.draft_vocabs": [8192, "auto"],
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--steps", "0"], "greater than or equal to 1"),
        (["--seed", "-1"], "greater than or equal to 0"),
        (["--steps", "many"], "valid integer"),
    ],
)
def test_bounds_and_types_are_those_of_the_spec(words: list[str], reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        given_by(*words)


def test_a_tree_of_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match="needs depth/top_k/num_draft_tokens"):
        given_by("--tree", "6/10")


def test_the_help_of_every_such_option_is_the_description_in_the_spec() -> None:
    found = list(keys_of_commands())
    assert {name for name, *_ in found} >= {"train", "bench", "generate", "chat", "dataset", "serve", "tune"}
    for name, flag, key, text in found:
        description = spec_field(key).description
        assert description, f"{name} {flag}: {key} has no description"
        assert text.startswith(description.rstrip(".")), f"{name} {flag}"


def test_values_from_the_command_line_resolve_to_the_spec() -> None:
    options: dict[str, Any] = given_by("--lr", "0.25", "--tree", "3/2/6")
    resolved = resolve("quick-demo", stage="train", options=options)
    assert resolved.spec.training.optimizer.lr == 0.25
    assert resolved.origins["training.optimizer.lr"].source == "command line"
    assert resolved.spec.decoding.tree.label == "3/2/6"
