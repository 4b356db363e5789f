"""Every public function of the engine that takes tensors says in its docstring which shapes they have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "hetspec_core" / "engine"
TENSOR = re.compile(r"\bTensor\b")
BY_NAME = re.compile(r"\b(dict|Mapping)\[")  # tensors by name have shapes of their own
SHAPE = re.compile(r"\[(\.\.\.|[\w .,+*/|()-]*)\]")


def public_functions(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield owner + node.name, node


def tensor_parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg])]
    annotations = {p.arg: ast.unparse(p.annotation) for p in parameters if p.annotation}
    return [name for name, kind in annotations.items() if TENSOR.search(kind) and not BY_NAME.search(kind)]


def entry_of(parameter: str, docstring: str) -> str | None:
    """What `Args` says of a parameter; None when it says nothing of its own."""
    found = re.search(rf"^ *(?:\w+, )*{parameter}(?:, \w+)*: (.*(?:\n {{8,}}.*)*)", docstring, re.MULTILINE)
    return found[1] if found else None


def without_shape(function: ast.FunctionDef) -> list[str]:
    docstring = ast.get_docstring(function) or ""
    summary = docstring.partition("Args:")[0]
    return [
        parameter
        for parameter in tensor_parameters(function)
        if not SHAPE.search(summary if (entry := entry_of(parameter, docstring)) is None else entry)
    ]


@pytest.mark.parametrize("file", sorted(ENGINE.rglob("*.py")), ids=lambda file: str(file.relative_to(ENGINE)))
def test_docstrings_give_the_shapes_of_tensors(file: Path) -> None:
    functions = public_functions(ast.parse(file.read_text(encoding="utf-8")).body)
    missing = {name: parameters for name, function in functions if (parameters := without_shape(function))}
    assert not missing, f"{file}: no shape in brackets for {missing}"


def test_a_parameter_without_its_shape_is_found() -> None:
    code = '''
def judge(states: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """[N, D] of something.

    Args:
        states: what comes back.
        mask: [B, T], or None.
    """
'''
    (function,) = ast.parse(code).body
    assert isinstance(function, ast.FunctionDef)
    assert without_shape(function) == ["states"]
