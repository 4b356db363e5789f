"""One class name has one meaning: no two modules of the packages define a public class of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

PACKAGES = ("hetspec_core", "hetspec_tui")
ALLOWED: dict[str, str] = {}
"""Class name -> why it has several homes. A name that begins with an underscore is never imported and may repeat."""


def top_level_classes(body: list[ast.stmt]) -> Iterator[str]:
    """The classes that a module defines, also inside `if` and `try`."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.If | ast.Try):
            yield from top_level_classes([child for child in ast.walk(node) if isinstance(child, ast.ClassDef)])


def homes() -> dict[str, list[Path]]:
    """The modules that define a public class, by the name of the class."""
    found: dict[str, list[Path]] = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for name in top_level_classes(ast.parse(path.read_text(encoding="utf-8")).body):
                if not name.startswith("_"):
                    found[name].append(path.relative_to(REPOSITORY))
    return found


def test_every_class_name_has_one_home() -> None:
    several = {name: paths for name, paths in homes().items() if len(paths) > 1}
    assert several.keys() == ALLOWED.keys(), {name: list(map(str, paths)) for name, paths in several.items()}
